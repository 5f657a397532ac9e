//! Every subject that exists: built here, parsed here, nowhere else.
//!
//! ```text
//! cmd.<tenant>.<aggregate>.<id>.<verb>      durable door (stream COMMANDS)
//! req.<tenant>.<aggregate>.<id>.<verb>      request door (core request/reply)
//! outcome.<tenant>.<command_id>             outcomes of the durable door (core)
//! q.<tenant>.view.<aggregate>.<id>          queries (services API)
//! q.<tenant>.outcome.<command_id>
//! q.<tenant>.active_orders
//! q.<tenant>.products
//! q.<tenant>.day_close
//! q.<tenant>.tables
//! q.<tenant>.carts.<user>
//! q.<tenant>.orders.<user>
//! q.<tenant>.ended_orders
//! q.<tenant>.refund_tasks
//! q.<tenant>.unknown_payments
//! q.<tenant>.lock.<owner>
//! q.<tenant>.lock_history.<owner>
//! q.<tenant>.user.<id>.validate
//! q.<tenant>.user.<id>.state
//! q.<tenant>.user.<id>.sessions
//! evt.<tenant>.<aggregate>.<event>.<shard>  events (stream EVENTS)
//! live.<bucket>.<key>                       republished KV writes
//! live.money.<tenant>.<what>.<payment>      money that waits for a person (core)
//! timer.lock.<tenant>.<cart>.<token>        deadlines of locks (stream TIMERS)
//! due.lock.<tenant>.<cart>.<token>          those that have passed (stream TIMERS)
//! dlq.<worker>.<original subject>           dead letters (stream DLQ)
//! ops.dead_letters.<worker>.<original …>    dead letters that were stored, republished
//! hooks.<tenant>.<name>                     requests to a tenant's own programs (core)
//! outbox.wake                               "there is work in these shards" (core)
//! outbox.relays                             "shards change hands" (core)
//! ```
//!
//! The id of an event's aggregate stands in its header `ce-subject`, and in its subject only the
//! shard of the aggregate, `00` to `15`: the server keeps an entry in memory for each distinct
//! subject. Whoever takes whole shards gets the events of each aggregate in order.

mod query;

pub use query::*;

use crate::{Address, Aggregate, Door, SHARDS, Token, WorkerName, shard_of};

/// All requests of all tenants.
pub const REQUESTS: &str = "req.>";
/// Verbs that carry a secret, or a person's address alone, come in through the request door only:
/// the stream `COMMANDS` does not take these subjects, and whoever publishes on them is told so.
pub const SECRET_VERBS_ON_DURABLE_DOOR: [&str; 8] = [
    "cmd.*.user.*.register",
    "cmd.*.user.*.login",
    "cmd.*.user.*.refresh",
    "cmd.*.user.*.change_password",
    "cmd.*.user.*.change_email",
    "cmd.*.user.*.request_password_reset",
    "cmd.*.user.*.reset_password",
    "cmd.*.user.*.erase",
];
/// Wakes the relays after a commit; the payload is a decimal bit mask of the shards.
pub const OUTBOX_WAKE: &str = "outbox.wake";
/// From relay to relay: one has come, gives shards back or goes. No payload.
pub const OUTBOX_RELAYS: &str = "outbox.relays";
/// Pushes about money that waits for a person, of every tenant.
pub const LIVE_MONEY: &str = "live.money.>";
/// Dead letters as they are stored, without their payloads, of every worker:
/// `ops.dead_letters.<worker>.<original subject>`.
pub const DEAD_LETTERS_STORED: &str = "ops.dead_letters.>";
/// Deadlines of locks that are to come.
pub const LOCK_TIMERS: &str = "timer.lock.>";
/// The command of cart-lock-expiry that ends a lock, for every tenant and cart.
pub const EXPIRE_LOCK: &str = "req.*.cart.*.expire_lock";
/// The command of cart-lock-expiry that ends a cart which nobody has changed for long.
pub const ABANDON: &str = "req.*.cart.*.abandon";
/// The command of table-status-reconciler, for every tenant and table.
pub const RECONCILE: &str = "req.*.table.*.reconcile";
/// The events after which a table may be another than its turn says.
pub const TABLES_MAY_CHANGE: [&str; 4] =
    ["evt.*.table.*.*", "evt.*.order.placed.*", "evt.*.order.paid.*", "evt.*.order.cancelled.*"];

/// The command of cache-verifier, for every tenant and user.
pub const REBUILD_USER_CACHE: &str = "req.*.user.*.rebuild_cache";

/// `cmd.…` or `req.…` of a command.
#[must_use]
pub fn command(door: Door, address: &Address, verb: &Token) -> String {
    format!("{}.{address}.{verb}", door.prefix())
}

/// The five tokens of a command's subject as they came, none of them checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCommandSubject<'a> {
    pub door: Door,
    pub tenant: &'a str,
    pub aggregate: &'a str,
    pub id: &'a str,
    pub verb: &'a str,
}

/// Returns true if the payload holds a password or a token.
#[must_use]
pub fn carries_secret(raw: &RawCommandSubject<'_>) -> bool {
    is_secret(raw.aggregate, raw.verb)
}

/// Returns true if the payloads of a verb hold passwords or tokens.
#[must_use]
pub fn is_secret(aggregate: &str, verb: &str) -> bool {
    let is_named = |subject: &&str| subject.rsplit('.').next() == Some(verb);
    aggregate == "user" && SECRET_VERBS_ON_DURABLE_DOOR.iter().any(is_named)
}

/// Returns `req.…` of a command whose verb is one of the contract's ([`Body::encode`]).
///
/// [`Body::encode`]: crate::Body::encode
#[must_use]
pub fn request(address: &Address, verb: &'static str) -> String {
    format!("{}.{address}.{verb}", Door::Request.prefix())
}

/// Splits a command's subject; `None` where the door or the number of tokens is off.
#[must_use]
pub fn parse_command(subject: &str) -> Option<RawCommandSubject<'_>> {
    let mut tokens = subject.split('.');
    let door = Door::from_prefix(tokens.next()?)?;
    let mut next = || tokens.next();
    let (tenant, aggregate, id, verb) = (next()?, next()?, next()?, next()?);
    tokens.next().is_none().then_some(RawCommandSubject { door, tenant, aggregate, id, verb })
}

#[must_use]
pub fn outcome(tenant: &Token, command_id: &Token) -> String {
    format!("outcome.{tenant}.{command_id}")
}

/// The subject of a push about a refund task of a payment.
#[must_use]
pub fn live_refund_task(tenant: &Token, payment: &Token) -> String {
    format!("live.money.{tenant}.refund_task.{payment}")
}

/// The subject of a push about a payment whose result is unknown, or not any more.
#[must_use]
pub fn live_unknown_payment(payment: &Address) -> String {
    format!("live.money.{}.unknown_payment.{}", payment.tenant, payment.id)
}

/// The subject on which a program of the tenant is asked to do something.
#[must_use]
pub fn hook(tenant: &Token, name: &str) -> String {
    format!("hooks.{tenant}.{name}")
}

/// Returns the subject of a lock's timer: with the token, so that a late writer cannot replace a
/// newer one.
#[must_use]
pub fn lock_timer(cart: &Address, token: i64) -> String {
    format!("timer.lock.{}.{}.{token}", cart.tenant, cart.id)
}

/// Returns the subject on which the timer of a lock fires at its deadline.
#[must_use]
pub fn lock_due(cart: &Address, token: i64) -> String {
    format!("due.lock.{}.{}.{token}", cart.tenant, cart.id)
}

/// Cart and token of a `due.lock.<tenant>.<cart>.<token>`.
#[must_use]
pub fn parse_lock_due(subject: &str) -> Option<(Address, i64)> {
    let [due, lock, tenant, cart, token] = split(subject)?;
    if (due, lock) != ("due", "lock") {
        return None;
    }
    Some((Address::new(tenant, Aggregate::Cart, cart).ok()?, token.parse().ok()?))
}

#[must_use]
pub fn event(address: &Address, event: &Token) -> String {
    let Address { tenant, aggregate, .. } = address;
    format!("evt.{tenant}.{aggregate}.{event}.{:02}", shard_of(address))
}

/// All events of a kind: those of all tenants and shards.
#[must_use]
pub fn events(aggregate: Aggregate, event: &str) -> String {
    format!("evt.*.{aggregate}.{event}.*")
}

/// Address and bare name of an `evt.<tenant>.<aggregate>.<event>.<shard>` with this `ce-subject`.
///
/// Also of an `evt.<tenant>.<aggregate>.<id>.<event>`, as subjects were before: such messages may
/// still stand in the stream or among the dead letters. No event is named like a shard.
#[must_use]
pub fn parse_event(subject: &str, ce_subject: Option<&str>) -> Option<(Address, Token)> {
    let [evt, tenant, aggregate, fourth, last] = split(subject)?;
    if evt != "evt" {
        return None;
    }
    let (id, event) = if is_shard(last) { (ce_subject?, fourth) } else { (fourth, last) };
    let address = Address::new(tenant, Aggregate::parse(aggregate)?, id).ok()?;
    Some((address, Token::new(event).ok()?))
}

fn is_shard(token: &str) -> bool {
    token.len() == 2 && token.parse().is_ok_and(|shard: u8| shard < SHARDS)
}

/// Returns the subject of a dead letter: the original subject behind `dlq.<worker>.`, or
/// `dlq.<worker>.unroutable` if that subject is not made of Tokens.
#[must_use]
pub fn dead_letter(worker: WorkerName, original: &str) -> String {
    let routable = original.split('.').all(|token| Token::new(token).is_ok());
    format!("dlq.{worker}.{}", if routable { original } else { "unroutable" })
}

/// Returns the tenant of a stored message: the second token, or the third of a timer.
#[must_use]
pub fn tenant_of(original: &str) -> Option<&str> {
    let mut tokens = original.split('.');
    let skipped = matches!(tokens.next()?, "due" | "timer");
    tokens.nth(usize::from(skipped))
}

fn split<const N: usize>(subject: &str) -> Option<[&str; N]> {
    let mut tokens = subject.split('.');
    let mut parts = [""; N];
    for part in &mut parts {
        *part = tokens.next()?;
    }
    tokens.next().is_none().then_some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tenant_of_a_stored_message_is_in_its_subject() {
        for subject in ["cmd.t1.cart.c1.open", "evt.t1.order.placed.03", "due.lock.t1.c1.7"] {
            assert_eq!(tenant_of(subject), Some("t1"), "{subject}");
        }
        assert_eq!(tenant_of("cmd"), None);
    }

    fn token() -> impl Strategy<Value = Token> {
        "[A-Za-z0-9_-]{1,64}".prop_map(|t| Token::new(&t).unwrap())
    }

    fn address() -> impl Strategy<Value = Address> {
        (token(), proptest::sample::select(&Aggregate::ALL[..]), token())
            .prop_map(|(tenant, aggregate, id)| Address { tenant, aggregate, id })
    }

    type ParseTenant = fn(&str) -> Option<Token>;

    const LISTS: [(&str, ParseTenant); 4] = [
        ("tables", parse_query_tables),
        ("ended_orders", parse_query_ended_orders),
        ("refund_tasks", parse_query_refund_tasks),
        ("unknown_payments", parse_query_unknown_payments),
    ];

    proptest! {
        #[test]
        fn what_is_built_parses_to_itself(
            address in address(), word in token(), number: i64,
        ) {
            for door in [Door::Durable, Door::Request] {
                let subject = command(door, &address, &word);
                let raw = parse_command(&subject).unwrap();
                prop_assert_eq!(raw.door, door);
                prop_assert_eq!(raw.tenant, address.tenant.as_str());
                prop_assert_eq!(raw.aggregate, address.aggregate.as_str());
                prop_assert_eq!((raw.id, raw.verb), (address.id.as_str(), word.as_str()));
            }
            prop_assert_eq!(parse_query_view(&query_view(&address)), Some(address.clone()));
            prop_assert_eq!(
                parse_query_outcome(&query_outcome(&address.tenant, &word)),
                Some((address.tenant.clone(), word.clone()))
            );
            prop_assert_eq!(
                parse_query_active_orders(&query_active_orders(&word)),
                Some(word.clone())
            );
            prop_assert_eq!(parse_query_products(&query_products(&word)), Some(word.clone()));
            prop_assert_eq!(parse_query_day_close(&query_day_close(&word)), Some(word.clone()));
            let lock = Address { aggregate: Aggregate::Lock, ..address.clone() };
            prop_assert_eq!(parse_query_lock(&query_lock(&lock.tenant, &lock.id)), Some(lock.clone()));
            prop_assert_eq!(
                parse_query_lock_history(&query_lock_history(&lock.tenant, &lock.id)),
                Some(lock)
            );
            let user = Address { aggregate: Aggregate::User, ..address.clone() };
            prop_assert_eq!(
                parse_query_user_validate(&query_user_validate(&user)),
                Some(user.clone())
            );
            prop_assert_eq!(parse_query_user_state(&query_user_state(&user)), Some(user.clone()));
            prop_assert_eq!(
                parse_query_user_sessions(&query_user_sessions(&user)),
                Some(user.clone())
            );
            let (tenant, id) = (&user.tenant, &user.id);
            let carts = parse_query_carts(&format!("q.{tenant}.carts.{id}"));
            let orders = parse_query_orders(&format!("q.{tenant}.orders.{id}"));
            prop_assert_eq!((carts, orders), (Some(user.clone()), Some(user.clone())));
            for (list, parse) in LISTS {
                prop_assert_eq!(parse(&format!("q.{tenant}.{list}")), Some(tenant.clone()));
            }
            let cart = Address { aggregate: Aggregate::Cart, ..address.clone() };
            prop_assert_eq!(parse_lock_due(&lock_due(&cart, number)), Some((cart, number)));
            let published = event(&address, &word);
            let id = address.id.as_str();
            prop_assert_eq!(parse_event(&published, None), None);
            prop_assert_eq!(parse_event(&published, Some(id)), Some((address.clone(), word)));
        }

        #[test]
        fn no_subject_holds_anything_but_tokens(original in "\\PC{0,80}") {
            let subject = dead_letter(WorkerName::CommandHandler, &original);
            prop_assert!(subject.split('.').all(|token| Token::new(token).is_ok()));
        }

        #[test]
        fn parsers_bear_anything(subject in "\\PC{0,80}") {
            let _ = (parse_command(&subject), parse_query_view(&subject));
            let _ = (parse_query_outcome(&subject), parse_event(&subject, Some(&subject)));
            let _ = (parse_query_active_orders(&subject), parse_query_products(&subject));
            let _ = parse_query_lock(&subject);
            let _ = (parse_query_lock_history(&subject), parse_lock_due(&subject));
            let _ = (parse_query_user_validate(&subject), parse_query_user_state(&subject));
            let _ = (parse_query_carts(&subject), parse_query_orders(&subject));
            let _ = LISTS.map(|(_, parse)| parse(&subject));
        }
    }

    #[test]
    fn an_event_of_the_former_shape_is_still_read() {
        let read = |subject| parse_event(subject, Some("07"));
        let cart = |id| Address::new("t", Aggregate::Cart, id).unwrap();
        let opened = Token::new("opened").unwrap();
        assert_eq!(read("evt.t.cart.07.opened"), Some((cart("07"), opened.clone())));
        assert_eq!(read("evt.t.cart.opened.opened"), Some((cart("opened"), opened.clone())));
        assert_eq!(read("evt.t.cart.opened.07"), Some((cart("07"), opened)));
        for kind in crate::event::ALL {
            assert!(!is_shard(kind.name));
        }
    }

    #[test]
    fn a_token_too_many_or_too_few_is_not_parsed() {
        for bad in ["", "req", "req.t.cart.c1", "req.t.cart.c1.open.x", "evt.t.cart.c1.open"] {
            assert_eq!(parse_command(bad), None, "{bad}");
        }
        assert_eq!(parse_event("evt.t.basket.opened.07", Some("c1")), None);
        assert_eq!(parse_event("evt.t.cart.opened.07", Some("c.1")), None);
        assert_eq!(parse_query_view("q.t.view.cart.c1.x"), None);
        assert_eq!(parse_query_active_orders("q.t.active_orders.x"), None);
        assert_eq!(parse_query_lock("q.t.lock.ada.x"), None);
        assert_eq!(parse_query_lock("q.t.lock_history.ada"), None);
        assert_eq!(parse_query_carts("q.t.carts"), None);
        assert_eq!(parse_query_orders("q.t.carts.ada"), None);
        assert_eq!(parse_query_tables("q.t.tables.tb1"), None);
        assert_eq!(parse_query_lock_history("q.t.lock_history"), None);
        for bad in ["due.lock.t.c1", "due.lock.t.c1.x", "timer.lock.t.c1.7", "due.lock.t.c1.7.x"] {
            assert_eq!(parse_lock_due(bad), None, "{bad}");
        }
        assert_eq!(parse_query_view("q.t.view.lock.ada"), None);
        assert_eq!(parse_query_user_validate("q.t.user.ada.state"), None);
        assert_eq!(parse_query_user_state("q.t.user.ada"), None);
    }
}
