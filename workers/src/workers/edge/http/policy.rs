//! The authorization policy of HTTP, in one table.
//!
//! A **customer** may do everything with what is his own, and nothing else. **Staff** may do
//! everything with every cart, order, table and payment of the restaurant; a **manager** besides
//! what gives money away, overrules the books or changes what others may. Whoever may do more may
//! do the less.
//!
//! - No customer says that something is paid: `record_result` is the gateway's, for which a program
//!   logs in with a role of its own that not even staff has, and `confirm_cash` is that of whoever
//!   has the till, and needs staff. `activate_subscription` says the same of a subscription, and
//!   needs a manager.
//! - A customer speaks for himself: a payload names him or nobody ([`VerbPolicy::user_fields`]).
//! - What something costs is the restaurant's: a customer names neither a price nor what it is for.
//! - A **participant** of a cart is its owner, or a member. Only the owner ends a cart, locks all that
//!   are his, invites, and cancels what became of it. Only who pays a payment, or owns the cart that
//!   it pays, binds and cancels it.
//! - `join` is for whoever shows the secret of the cart, `claim` for whoever shows that of its session.
//! - What a customer has to be ([`RequiredRole::relation`]) is decided with the aggregate locked. It
//!   is looked at here as well, where it cannot be by the payload, so that what is another's is not
//!   reached at all. `leave` is not looked at: one who has left may repeat that.
//! - Verbs of the system are nobody's, and a verb that is not in the table is none.
//! - Else what is not there looks like what is another's, so that nobody finds out ids. Only ids
//!   that a sender may create (`open`, `check_out`, `initiate`) show that they are taken.

use brigade_contracts::{
    Aggregate::{self, Cart, Order, Payment, Product, Table, User},
    Refusal, Relation,
};
use serde_json::Value;

/// The least that somebody has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequiredRole {
    /// Anybody, without a token.
    Anybody,
    Customer,
    /// A customer who shows the secret of the cart; staff.
    Invited,
    /// A customer who shows the secret of the cart's session, or whose it is; staff.
    Claimant,
    /// A customer who is a member, as is found where the command is decided; staff.
    Member,
    /// A customer who owns the cart, or is a member of it; staff. Of a view also who pays.
    Participant,
    /// A customer who pays the payment, or owns the cart that it pays; staff.
    Payer,
    /// The same; and the gateway.
    PayerOrGateway,
    /// A customer who owns the cart; staff.
    Owner,
    /// A program that tells the results of a payment gateway.
    Gateway,
    /// The user itself.
    Oneself,
    /// The user itself, or a manager.
    OneselfOrManager,
    Staff,
    Manager,
    Never,
}
use RequiredRole::{
    Anybody, Claimant, Customer, Gateway, Invited, Manager, Member, Never, Oneself,
    OneselfOrManager, Owner, Participant, Payer, PayerOrGateway, Staff,
};

impl RequiredRole {
    /// Returns what a customer has to be to the aggregate; `None` where he may not ask, or is asked
    /// for nothing but who he is.
    #[must_use]
    pub fn relation(self) -> Option<Relation> {
        match self {
            Customer => Some(Relation::Customer),
            Invited => Some(Relation::Invited),
            Claimant => Some(Relation::Claimant),
            Member | Participant => Some(Relation::Participant),
            Payer | PayerOrGateway => Some(Relation::Payer),
            Owner => Some(Relation::Owner),
            Anybody | Gateway | Oneself | OneselfOrManager | Staff | Manager | Never => None,
        }
    }
}

/// The policy of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VerbPolicy {
    pub role: RequiredRole,
    /// Fields of the payload that name a user: a customer names himself or leaves them out.
    pub user_fields: &'static [&'static str],
    /// The conditions on other fields that a customer sends.
    pub field_rules: &'static [FieldRule],
}

/// A condition on a field of a payload that a customer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldRule {
    /// A customer leaves it out.
    Staffs(&'static str),
    /// A customer leaves it out: it says what something costs.
    Price(&'static str),
}
use FieldRule::{Price, Staffs};

/// (Aggregate, verb, role, fields that name a user).
type PolicyRow = (Aggregate, &'static str, RequiredRole, &'static [&'static str]);

const TABLE: &[PolicyRow] = &[
    (Cart, "open", Customer, &["owner"]),
    (Cart, "invite", Owner, &[]),
    (Cart, "join", Invited, &["user"]),
    (Cart, "leave", Member, &["user"]),
    (Cart, "add_item", Participant, &["user"]),
    (Cart, "set_item", Participant, &[]),
    (Cart, "remove_item", Participant, &[]),
    (Cart, "commit_cod", Participant, &["user"]),
    (Cart, "claim", Claimant, &["user"]),
    (Cart, "lock", Owner, &[]),
    (Cart, "bind_transaction", Owner, &[]),
    (Cart, "extend", Owner, &[]),
    (Cart, "unlock", Owner, &[]),
    (Cart, "expire_lock", Never, &[]),
    (Cart, "check_out", Owner, &[]),
    (Cart, "abandon", Owner, &[]),
    // Of its target: the payment itself is not there yet.
    (Payment, "initiate", Participant, &["user"]),
    (Payment, "bind_transaction", PayerOrGateway, &[]),
    (Payment, "record_result", Gateway, &[]),
    (Payment, "confirm_cash", Staff, &[]),
    (Payment, "cancel", Payer, &[]),
    (Payment, "refund", Manager, &[]),
    (Payment, "settle", Manager, &[]),
    (Order, "place", Staff, &[]),
    (Order, "accept", Staff, &[]),
    (Order, "prepare", Staff, &[]),
    (Order, "ready", Staff, &[]),
    (Order, "serve", Staff, &[]),
    (Order, "complete", Staff, &[]),
    (Order, "cancel", Owner, &[]),
    (Table, "register", Staff, &[]),
    (Table, "open_turn", Staff, &[]),
    (Table, "close_turn", Staff, &[]),
    (Table, "set_status", Staff, &[]),
    (Table, "reconcile", Never, &[]),
    (Product, "set", Manager, &[]),
    (Product, "withdraw", Manager, &[]),
    (User, "register", Anybody, &[]),
    (User, "login", Anybody, &[]),
    (User, "refresh", Anybody, &[]),
    // A manager ends the sessions of somebody else whose device is lost.
    (User, "logout", OneselfOrManager, &[]),
    (User, "end_session", OneselfOrManager, &[]),
    (User, "change_password", Oneself, &[]),
    (User, "change_email", Oneself, &[]),
    (User, "request_password_reset", Anybody, &[]),
    (User, "reset_password", Anybody, &[]),
    (User, "suspend", Manager, &[]),
    (User, "resume", Manager, &[]),
    (User, "erase", OneselfOrManager, &[]),
    (User, "update_profile", Oneself, &[]),
    (User, "change_roles", Manager, &[]),
    (User, "register_subscription", Oneself, &[]),
    (User, "activate_subscription", Manager, &[]),
    (User, "cancel_subscription", Oneself, &[]),
];

/// The rules for further fields that customers send. Carts of sessions are for backends: a session
/// belongs to nobody who could be asked for a token. A subscription does not change its plan by
/// being cancelled.
const FIELD_RULES: &[(Aggregate, &str, &[FieldRule])] = &[
    (Cart, "open", &[Staffs("session")]),
    (Cart, "add_item", &[Price("name"), Price("unit_price")]),
    (User, "cancel_subscription", &[Staffs("plan"), Staffs("until")]),
];

/// The verbs that a user sends for himself only with his password.
pub(super) const WITH_PASSWORD: &[(Aggregate, &str)] = &[(User, "change_email"), (User, "erase")];

/// Returns the policy of a verb; `None` if there is no such verb.
#[must_use]
pub(super) fn verb_policy(aggregate: Aggregate, verb: &str) -> Option<VerbPolicy> {
    if verb == "rebuild_cache" {
        return Some(VerbPolicy { role: Never, user_fields: &[], field_rules: &[] });
    }
    let row = TABLE.iter().find(|row| (row.0, row.1) == (aggregate, verb))?;
    let rules = FIELD_RULES.iter().find(|row| (row.0, row.1) == (aggregate, verb));
    let field_rules = rules.map_or(&[][..], |row| row.2);
    Some(VerbPolicy { role: row.2, user_fields: row.3, field_rules })
}

/// Returns the role that reads the views of an aggregate.
#[must_use]
pub(super) fn view_role(aggregate: Aggregate) -> RequiredRole {
    match aggregate {
        Cart | Order | Payment => Participant,
        User => Oneself,
        Product => Customer,
        Table | Aggregate::Lock => Staff,
    }
}

impl VerbPolicy {
    /// Returns the policy for this payload: to overrule the books needs a manager.
    #[must_use]
    pub fn for_payload(self, payload: &Value) -> Self {
        match payload.get("force") {
            None | Some(Value::Bool(false) | Value::Null) => self,
            Some(_) if self.role == Staff => Self { role: Manager, ..self },
            Some(_) => self,
        }
    }

    /// Checks what this user, a customer, sends.
    ///
    /// # Errors
    /// `403 not_allowed`, `403 price_not_yours`.
    pub fn check_customer(&self, user: &str, payload: &Value) -> Result<(), Refusal> {
        let given = |name: &str| payload.get(name).filter(|value| !value.is_null());
        if !self.user_fields.iter().all(|name| given(name).is_none_or(|named| named == user)) {
            return Err(not_allowed());
        }
        self.field_rules.iter().try_for_each(|rule| match rule {
            Staffs(name) if given(name).is_some() => Err(not_allowed()),
            Price(name) if given(name).is_some() => Err(price_not_yours(name)),
            Staffs(_) | Price(_) => Ok(()),
        })
    }
}

/// `403 not_allowed`.
#[must_use]
pub(super) fn not_allowed() -> Refusal {
    let message = "this is not there, or not for the user of this token";
    Refusal::new(403, "not_allowed", message)
}

fn price_not_yours(field: &str) -> Refusal {
    let message = format!("leave {field} out: it comes from the price list of the restaurant");
    Refusal::new(403, "price_not_yours", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use brigade_contracts::{
        cart, order, payment, permissions::SYSTEM_VERBS, product, table, user,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn every_verb_stands_in_the_table_once() {
        let all = [
            (Cart, cart::Verb::NAMES),
            (Payment, payment::Verb::NAMES),
            (Order, order::Verb::NAMES),
            (Table, table::Verb::NAMES),
            (User, user::Verb::NAMES),
            (Product, product::Verb::NAMES),
        ];
        let verbs: BTreeSet<_> =
            all.iter().flat_map(|(of, verbs)| verbs.iter().map(|verb| (*of, *verb))).collect();
        let rows: Vec<_> = TABLE.iter().map(|row| (row.0, row.1)).collect();
        assert_eq!(rows.len(), verbs.len());
        assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), verbs);
        assert_eq!(verb_policy(Cart, "place"), None);
    }

    #[test]
    fn verbs_of_the_system_are_nobodys() {
        for aggregate in Aggregate::ALL {
            for verb in SYSTEM_VERBS {
                let role = verb_policy(aggregate, verb).map(|policy| policy.role);
                assert!(matches!(role, None | Some(Never)), "{aggregate} {verb}");
            }
        }
        assert_eq!(verb_policy(Cart, "expire_lock").map(|policy| policy.role), Some(Never));
        assert_eq!(verb_policy(User, "rebuild_cache").map(|policy| policy.role), Some(Never));
    }

    #[test]
    fn no_customer_says_that_something_is_paid() {
        for verb in ["record_result", "confirm_cash", "refund", "settle"] {
            let role = verb_policy(Payment, verb).map(|policy| policy.role);
            assert!(matches!(role, Some(Gateway | Staff | Manager)), "{verb}");
        }
        assert_eq!(verb_policy(Payment, "record_result").map(|policy| policy.role), Some(Gateway));
    }

    #[test]
    fn s7_02_of_what_customers_may_send_it_is_said_what_they_have_to_be() {
        for (aggregate, verb, role, _) in TABLE {
            let is_of_customers = !matches!(
                role,
                Anybody | Gateway | Oneself | OneselfOrManager | Staff | Manager | Never
            );
            assert_eq!(role.relation().is_some(), is_of_customers, "{aggregate} {verb}");
        }
        for (aggregate, verb, relation) in [
            (Cart, "open", Relation::Customer),
            (Cart, "join", Relation::Invited),
            (Cart, "leave", Relation::Participant),
            (Cart, "add_item", Relation::Participant),
            (Cart, "claim", Relation::Claimant),
            (Cart, "invite", Relation::Owner),
            (Cart, "lock", Relation::Owner),
            (Cart, "check_out", Relation::Owner),
            (Cart, "abandon", Relation::Owner),
            (Payment, "initiate", Relation::Participant),
            (Payment, "bind_transaction", Relation::Payer),
            (Payment, "cancel", Relation::Payer),
            (Order, "cancel", Relation::Owner),
        ] {
            let role = verb_policy(aggregate, verb).map(|policy| policy.role);
            assert_eq!(role.and_then(RequiredRole::relation), Some(relation), "{aggregate} {verb}");
        }
    }

    #[test]
    fn force_needs_a_manager() {
        let policy = verb_policy(Table, "set_status").expect("a verb");
        let role = |payload: Value| policy.for_payload(&payload).role;
        assert_eq!(role(json!({"status": "available"})), Staff);
        assert_eq!(role(json!({"force": false})), Staff);
        assert_eq!(role(json!({"force": null})), Staff);
        assert_eq!(role(json!({"force": true})), Manager);
        assert_eq!(role(json!({"force": "yes"})), Manager);
    }

    #[test]
    fn a_customer_names_himself_or_nobody() {
        let policy = verb_policy(Cart, "add_item").expect("a verb");
        for (payload, expected) in [
            (json!({"user": "ada"}), true),
            (json!({}), true),
            (json!({"user": null}), true),
            (json!({"user": "bob"}), false),
            (json!({"user": ["ada"]}), false),
            (json!("no object"), true),
        ] {
            assert_eq!(policy.check_customer("ada", &payload).is_ok(), expected, "{payload}");
        }
        let open = verb_policy(Cart, "open").expect("a verb");
        for (payload, expected) in [
            (json!({"owner": "ada", "session": null}), true),
            (json!({"owner": "ada", "session": "ada"}), false),
        ] {
            assert_eq!(open.check_customer("ada", &payload).is_ok(), expected, "{payload}");
        }
    }

    #[test]
    fn s7_01_no_customer_says_what_something_costs() {
        let policy = verb_policy(Cart, "add_item").expect("a verb");
        let code = |payload: Value| {
            policy.check_customer("ada", &payload).err().map(|refusal| refusal.code.into_owned())
        };
        let price = Some("price_not_yours".to_owned());
        assert_eq!(code(json!({"sku": "P-1"})), None);
        assert_eq!(code(json!({"sku": "P-1", "name": null, "unit_price": null})), None);
        for given in [json!(0), json!(1250), json!("0"), json!([])] {
            assert_eq!(code(json!({ "unit_price": given })), price);
        }
        assert_eq!(code(json!({"name": "Pizza"})), price);
        let not_allowed = Some("not_allowed".to_owned());
        assert_eq!(code(json!({"user": "bob", "unit_price": 0})), not_allowed);
        for verb in ["set", "withdraw"] {
            assert_eq!(verb_policy(Product, verb).map(|policy| policy.role), Some(Manager));
        }
    }
}
