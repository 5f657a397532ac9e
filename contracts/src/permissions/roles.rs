//! What the programs of a tenant may do: one credential a role.
//!
//! | role | sends | asks and hears |
//! |---|---|---|
//! | `backend` | all verbs but those of the system | everything of its tenant |
//! | `till` | carts, orders, tables; begins, ends and confirms payments | views, lists but those of money, locks |
//! | `gateway` | what a gateway says of payments | the replies to what it sent |
//! | `screen` | nothing | views, and lists but those of people and money |
//!
//! A subject is all that the server looks at. So a role has a verb whole, with each payload, and
//! who may learn one outcome on `outcome.<tenant>.…` may learn those of `login` as well: only a
//! backend may. The others get an outcome as the reply on the request door, where a command that
//! was sent by the durable door is sent again under its Command-Id.

use super::{Account, NatsUser, SYSTEM_VERBS};
use crate::{
    Aggregate::{self, Cart, Order, Payment, Product, Table, User},
    Token,
};

/// A kind of program of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The tenant's own server, which is trusted with everything of the tenant.
    Backend,
    /// A till or a waiter's handheld: takes orders and cash.
    Till,
    /// A program that tells the results of a payment gateway.
    Gateway,
    /// A screen in the kitchen or on the wall.
    Screen,
}
use Role::{Backend, Gateway, Screen, Till};

impl Role {
    pub const ALL: [Self; 4] = [Backend, Till, Gateway, Screen];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Backend => "backend",
            Till => "till",
            Gateway => "gateway",
            Screen => "screen",
        }
    }

    /// Returns the second name of a role: a user of its own that may do the same, of the time when
    /// there were two roles.
    #[must_use]
    pub fn alias(self) -> Option<&'static str> {
        match self {
            Backend => Some("producer"),
            Screen => Some("watcher"),
            Till | Gateway => None,
        }
    }

    /// Returns the user of this role.
    #[must_use]
    pub fn user(self, tenant: &Token) -> NatsUser {
        self.user_named(tenant, self.as_str())
    }

    fn user_named(self, tenant: &Token, name: &str) -> NatsUser {
        let user = NatsUser::new(Account::Tenant(tenant.clone()), format!("{tenant}-{name}"))
            .publish(self.queries().iter().map(|query| format!("q.{tenant}.{query}")));
        match self {
            // Also what is no verb, which is then refused with a reason.
            Backend => user
                .publish(DOORS.map(|door| format!("{door}.{tenant}.>")))
                .publish_denied(
                    SYSTEM_VERBS
                        .iter()
                        .flat_map(|verb| DOORS.map(|door| format!("{door}.{tenant}.*.*.{verb}"))),
                )
                .subscribe([format!("outcome.{tenant}.>"), format!("live.*.{tenant}.>")])
                // What the fleet asks of it.
                .replies([format!("hooks.{tenant}.>")]),
            Till | Screen => user
                .publish(self.commands(tenant))
                .subscribe([format!("live.*.{tenant}.>")])
                // A wider subscription is allowed, and does not bring what tells of users, nor of
                // money that is owed.
                .subscribe_denied([
                    format!("live.money.{tenant}.>"),
                    format!("live.user_state.{tenant}.>"),
                    format!("live.versions.{tenant}.user.>"),
                ]),
            Gateway => user.publish(self.commands(tenant)),
        }
    }

    fn commands(self, tenant: &Token) -> impl Iterator<Item = String> {
        let rows = VERBS.iter().filter(move |row| row.2.contains(&self));
        let verbs =
            rows.flat_map(|(aggregate, verbs, _)| verbs.iter().map(move |v| (aggregate, v)));
        verbs.flat_map(move |(aggregate, verb)| {
            DOORS.map(|door| format!("{door}.{tenant}.{aggregate}.*.{verb}"))
        })
    }

    /// Returns the queries of a role behind `q.<tenant>.`.
    fn queries(self) -> &'static [&'static str] {
        match self {
            Backend => &[">"],
            Till => &[
                "view.*.*",
                "active_orders",
                "ended_orders",
                "products",
                "tables",
                "carts.*",
                "orders.*",
                "lock.*",
            ],
            Gateway => &[],
            Screen => &["view.*.*", "active_orders", "ended_orders", "products", "tables"],
        }
    }
}

const DOORS: [&str; 2] = ["cmd", "req"];

/// The roles that may send each verb besides a backend, which may send all of them. The verbs of
/// the system are not here: nobody of a tenant sends them.
///
/// A till takes cash: it begins a payment, by card as well, confirms the cash, and ends a payment
/// without a result when the guest has thought better of it. It says nothing in a gateway's place,
/// and gives no money back.
const VERBS: &[(Aggregate, &[&str], &[Role])] = &[
    (Cart, &["open", "invite", "join", "leave", "add_item", "set_item", "remove_item"], &[Till]),
    (Cart, &["commit_cod", "claim", "check_out", "abandon"], &[Till]),
    (Cart, &["lock", "bind_transaction", "extend", "unlock"], &[Till]),
    (Payment, &["initiate", "confirm_cash", "cancel"], &[Till]),
    (Payment, &["bind_transaction", "record_result"], &[Gateway]),
    (Payment, &["refund", "settle"], &[]),
    (Order, &["place", "accept", "prepare", "ready", "serve", "complete", "cancel"], &[Till]),
    (Table, &["register", "open_turn", "close_turn", "set_status"], &[Till]),
    (Product, &["set", "withdraw"], &[]),
    (User, &["register", "login", "refresh", "logout", "end_session"], &[]),
    (User, &["change_password", "change_email", "request_password_reset"], &[]),
    (User, &["reset_password", "suspend", "resume", "erase"], &[]),
    (User, &["update_profile", "change_roles"], &[]),
    (User, &["register_subscription", "activate_subscription", "cancel_subscription"], &[]),
];

/// Returns all users of a tenant: those of the roles, and those of their second names.
#[must_use]
pub fn tenant_users(tenant: &Token) -> Vec<NatsUser> {
    let named = |role: Role| [Some(role.as_str()), role.alias()].into_iter().flatten();
    let users = |role: Role| named(role).map(move |name| role.user_named(tenant, name));
    Role::ALL.into_iter().flat_map(users).collect()
}

/// The backend of a tenant under its second name.
#[must_use]
pub fn producer(tenant: &Token) -> NatsUser {
    Backend.user_named(tenant, "producer")
}

/// The screen of a tenant under its second name.
#[must_use]
pub fn watcher(tenant: &Token) -> NatsUser {
    Screen.user_named(tenant, "watcher")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cart, order, payment, product, table, user};

    fn names(aggregate: Aggregate) -> &'static [&'static str] {
        match aggregate {
            Cart => cart::Verb::NAMES,
            Payment => payment::Verb::NAMES,
            Order => order::Verb::NAMES,
            Table => table::Verb::NAMES,
            User => user::Verb::NAMES,
            Product => product::Verb::NAMES,
            Aggregate::Lock => &[],
        }
    }

    #[test]
    fn of_each_verb_it_is_decided_who_sends_it() {
        let rows = |aggregate, verb| {
            let is_row = move |row: &&(_, &[&str], _)| row.0 == aggregate && row.1.contains(verb);
            VERBS.iter().filter(is_row).count()
        };
        for aggregate in Aggregate::ALL {
            for verb in names(aggregate) {
                let expected = usize::from(!SYSTEM_VERBS.contains(verb));
                assert_eq!(rows(aggregate, verb), expected, "{aggregate} {verb}");
            }
        }
        for (aggregate, verbs, _) in VERBS {
            for verb in *verbs {
                assert!(names(*aggregate).contains(verb), "{aggregate} has no {verb}");
            }
        }
    }

    #[test]
    fn a_second_name_may_do_what_the_first_may() {
        let tenant = Token::new("t1").unwrap();
        let users = tenant_users(&tenant);
        for (role, second) in [(Backend, producer(&tenant)), (Screen, watcher(&tenant))] {
            let first = role.user(&tenant);
            assert!(users.contains(&first) && users.contains(&second));
            assert_ne!(first.inbox_prefix(), second.inbox_prefix());
            assert_eq!(NatsUser { name: first.name.clone(), ..second }, first);
        }
        assert_eq!(users.len(), 6);
    }
}
