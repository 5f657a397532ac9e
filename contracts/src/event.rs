//! Events: their names, the parts they touch, and their envelope.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Address, Aggregate, Part, SCHEMA_VERSION, Timestamp, Token, Via, header, subject};

/// A kind of event: its bare name, what it touches, and whether its aggregate ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind {
    pub aggregate: Aggregate,
    pub name: &'static str,
    /// The parts that this event changes.
    pub touches: &'static [Part],
    /// The aggregate is in a final state, and its keys may expire. Only its money may still change,
    /// by a late result of the gateway.
    pub ends: bool,
}

impl EventKind {
    /// Returns true if the payload carries the part's state after the event: a part that a
    /// projector writes and that this event touches, and every part when the aggregate ends.
    #[must_use]
    pub fn carries(&self, part: Part) -> bool {
        let last = self.ends && self.aggregate.parts().contains(&part);
        last || (part.is_written_by_projector() && self.touches.contains(&part))
    }
}

const fn kind(aggregate: Aggregate, name: &'static str, touches: &'static [Part]) -> EventKind {
    EventKind { aggregate, name, touches, ends: false }
}

const fn ending(kind: EventKind) -> EventKind {
    EventKind { ends: true, ..kind }
}

const NONE: &[Part] = &[];
const CORE: &[Part] = &[Part::Core];
const PAYMENTS: &[Part] = &[Part::Payments];
const BOTH: &[Part] = &[Part::Core, Part::Payments];
const AUTH: &[Part] = &[Part::Auth];
const SUBSCRIPTION: &[Part] = &[Part::Subscription];
const OF_USER: &[Part] = &[Part::Auth, Part::Subscription, Part::Roles];

pub const CART_OPENED: EventKind = kind(Aggregate::Cart, "opened", BOTH);
pub const CART_INVITED: EventKind = kind(Aggregate::Cart, "invited", NONE);
pub const CART_MEMBER_JOINED: EventKind = kind(Aggregate::Cart, "member_joined", BOTH);
pub const CART_MEMBER_LEFT: EventKind = kind(Aggregate::Cart, "member_left", BOTH);
pub const CART_ITEM_ADDED: EventKind = kind(Aggregate::Cart, "item_added", CORE);
pub const CART_ITEM_CHANGED: EventKind = kind(Aggregate::Cart, "item_changed", CORE);
pub const CART_ITEM_REMOVED: EventKind = kind(Aggregate::Cart, "item_removed", CORE);
pub const CART_MEMBER_COMMITTED: EventKind = kind(Aggregate::Cart, "member_committed", PAYMENTS);
pub const CART_CLAIMED: EventKind = kind(Aggregate::Cart, "claimed", BOTH);
pub const CART_LOCKED: EventKind = kind(Aggregate::Cart, "locked", CORE);
pub const CART_TRANSACTION_BOUND: EventKind = kind(Aggregate::Cart, "transaction_bound", NONE);
pub const CART_LOCK_EXTENDED: EventKind = kind(Aggregate::Cart, "lock_extended", CORE);
pub const CART_UNLOCKED: EventKind = kind(Aggregate::Cart, "unlocked", CORE);
pub const CART_LOCK_EXPIRED: EventKind = kind(Aggregate::Cart, "lock_expired", CORE);
pub const CART_PAYMENT_CHANGED: EventKind = kind(Aggregate::Cart, "payment_changed", PAYMENTS);
pub const CART_CHECKED_OUT: EventKind = ending(kind(Aggregate::Cart, "checked_out", CORE));
pub const CART_ABANDONED: EventKind = ending(kind(Aggregate::Cart, "abandoned", CORE));

// Payments: each final state ends one; what the gateway says later still changes it.

pub const PAYMENT_INITIATED: EventKind = kind(Aggregate::Payment, "initiated", CORE);
pub const PAYMENT_TRANSACTION_BOUND: EventKind =
    kind(Aggregate::Payment, "transaction_bound", CORE);
pub const PAYMENT_CAPTURED: EventKind = ending(kind(Aggregate::Payment, "captured", CORE));
pub const PAYMENT_FAILED: EventKind = ending(kind(Aggregate::Payment, "failed", CORE));
pub const PAYMENT_UNKNOWN: EventKind = kind(Aggregate::Payment, "unknown", CORE);
pub const PAYMENT_CASH_CONFIRMED: EventKind =
    ending(kind(Aggregate::Payment, "cash_confirmed", CORE));
pub const PAYMENT_CANCELLED: EventKind = ending(kind(Aggregate::Payment, "cancelled", CORE));
pub const PAYMENT_REFUNDED: EventKind = ending(kind(Aggregate::Payment, "refunded", CORE));
pub const PAYMENT_LATE_CAPTURED: EventKind =
    ending(kind(Aggregate::Payment, "late_captured", CORE));
pub const PAYMENT_REFUND_REQUESTED: EventKind =
    ending(kind(Aggregate::Payment, "refund_requested", CORE));
pub const PAYMENT_REFUND_SETTLED: EventKind =
    ending(kind(Aggregate::Payment, "refund_settled", CORE));

pub const ORDER_PLACED: EventKind = kind(Aggregate::Order, "placed", BOTH);
pub const ORDER_ACCEPTED: EventKind = kind(Aggregate::Order, "accepted", CORE);
pub const ORDER_PREPARING: EventKind = kind(Aggregate::Order, "preparing", CORE);
pub const ORDER_READY: EventKind = kind(Aggregate::Order, "ready", CORE);
pub const ORDER_SERVED: EventKind = kind(Aggregate::Order, "served", CORE);
pub const ORDER_PAYMENT_CHANGED: EventKind = kind(Aggregate::Order, "payment_changed", PAYMENTS);
pub const ORDER_PAID: EventKind = kind(Aggregate::Order, "paid", PAYMENTS);
pub const ORDER_COMPLETED: EventKind = ending(kind(Aggregate::Order, "completed", CORE));
pub const ORDER_CANCELLED: EventKind = ending(kind(Aggregate::Order, "cancelled", CORE));

pub const TABLE_REGISTERED: EventKind = kind(Aggregate::Table, "registered", CORE);
pub const TABLE_TURN_OPENED: EventKind = kind(Aggregate::Table, "turn_opened", CORE);
pub const TABLE_TURN_CLOSED: EventKind = kind(Aggregate::Table, "turn_closed", CORE);
pub const TABLE_STATUS_CHANGED: EventKind = kind(Aggregate::Table, "status_changed", CORE);
pub const TABLE_RECONCILED: EventKind = kind(Aggregate::Table, "reconciled", CORE);
pub const USER_REGISTERED: EventKind = kind(Aggregate::User, "registered", OF_USER);
pub const USER_LOGGED_IN: EventKind = kind(Aggregate::User, "logged_in", AUTH);
pub const USER_REFRESHED: EventKind = kind(Aggregate::User, "refreshed", AUTH);
pub const USER_LOGGED_OUT: EventKind = kind(Aggregate::User, "logged_out", AUTH);
pub const USER_PASSWORD_CHANGED: EventKind = kind(Aggregate::User, "password_changed", AUTH);
pub const USER_PASSWORD_RESET_REQUESTED: EventKind =
    kind(Aggregate::User, "password_reset_requested", NONE);
pub const USER_EMAIL_CHANGED: EventKind = kind(Aggregate::User, "email_changed", AUTH);
pub const USER_SUSPENDED: EventKind = kind(Aggregate::User, "suspended", AUTH);
pub const USER_RESUMED: EventKind = kind(Aggregate::User, "resumed", AUTH);
pub const USER_ERASED: EventKind = kind(Aggregate::User, "erased", OF_USER);
pub const USER_PROFILE_UPDATED: EventKind = kind(Aggregate::User, "profile_updated", AUTH);
pub const USER_ROLES_CHANGED: EventKind = kind(Aggregate::User, "roles_changed", &[Part::Roles]);
pub const USER_SUBSCRIPTION_REGISTERED: EventKind =
    kind(Aggregate::User, "subscription_registered", SUBSCRIPTION);
pub const USER_SUBSCRIPTION_ACTIVATED: EventKind =
    kind(Aggregate::User, "subscription_activated", SUBSCRIPTION);
pub const USER_SUBSCRIPTION_CANCELLED: EventKind =
    kind(Aggregate::User, "subscription_cancelled", SUBSCRIPTION);
pub const PRODUCT_SET: EventKind = kind(Aggregate::Product, "set", CORE);
pub const PRODUCT_WITHDRAWN: EventKind = ending(kind(Aggregate::Product, "withdrawn", CORE));

/// Every kind of event there is.
pub const ALL: &[EventKind] = &[
    CART_OPENED,
    CART_INVITED,
    CART_MEMBER_JOINED,
    CART_MEMBER_LEFT,
    CART_ITEM_ADDED,
    CART_ITEM_CHANGED,
    CART_ITEM_REMOVED,
    CART_MEMBER_COMMITTED,
    CART_CLAIMED,
    CART_LOCKED,
    CART_TRANSACTION_BOUND,
    CART_LOCK_EXTENDED,
    CART_UNLOCKED,
    CART_LOCK_EXPIRED,
    CART_PAYMENT_CHANGED,
    CART_CHECKED_OUT,
    CART_ABANDONED,
    PAYMENT_INITIATED,
    PAYMENT_TRANSACTION_BOUND,
    PAYMENT_CAPTURED,
    PAYMENT_FAILED,
    PAYMENT_UNKNOWN,
    PAYMENT_CASH_CONFIRMED,
    PAYMENT_CANCELLED,
    PAYMENT_REFUNDED,
    PAYMENT_LATE_CAPTURED,
    PAYMENT_REFUND_REQUESTED,
    PAYMENT_REFUND_SETTLED,
    ORDER_PLACED,
    ORDER_ACCEPTED,
    ORDER_PREPARING,
    ORDER_READY,
    ORDER_SERVED,
    ORDER_PAYMENT_CHANGED,
    ORDER_PAID,
    ORDER_COMPLETED,
    ORDER_CANCELLED,
    TABLE_REGISTERED,
    TABLE_TURN_OPENED,
    TABLE_TURN_CLOSED,
    TABLE_STATUS_CHANGED,
    TABLE_RECONCILED,
    USER_REGISTERED,
    USER_LOGGED_IN,
    USER_REFRESHED,
    USER_LOGGED_OUT,
    USER_PASSWORD_CHANGED,
    USER_PASSWORD_RESET_REQUESTED,
    USER_EMAIL_CHANGED,
    USER_SUSPENDED,
    USER_RESUMED,
    USER_ERASED,
    USER_PROFILE_UPDATED,
    USER_ROLES_CHANGED,
    USER_SUBSCRIPTION_REGISTERED,
    USER_SUBSCRIPTION_ACTIVATED,
    USER_SUBSCRIPTION_CANCELLED,
    PRODUCT_SET,
    PRODUCT_WITHDRAWN,
];

/// The subject filters of the events after which a projector has to write `part`: those that
/// touch it, and those that end an aggregate, after which its keys may expire.
pub fn filters_carrying(part: Part) -> impl Iterator<Item = String> {
    ALL.iter()
        .filter(move |kind| kind.carries(part))
        .map(|kind| subject::events(kind.aggregate, kind.name))
}

/// The payload of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// The facts of the event.
    pub data: Box<RawValue>,
    pub after: After,
}

impl Payload {
    /// Returns the number of its bytes as JSON, or a few more.
    #[must_use]
    pub fn size(&self) -> usize {
        /// The bytes of the names, and of what is around them.
        const FRAME: usize = 100;
        let After { ended: _, core, payments, subscription, roles } = &self.after;
        let parts = [core, payments, subscription, roles].into_iter().flatten();
        FRAME + self.data.get().len() + parts.map(|part| part.get().len()).sum::<usize>()
    }
}

/// The parts that an event carries, as they are after it: see [`EventKind::carries`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct After {
    /// True if the aggregate has ended.
    pub ended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payments: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Box<RawValue>>,
}

/// Everything about an event but its payload: what its message says in subject and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Unique to the event, in the usual text form of a UUID.
    pub event_id: String,
    /// 0, or n for the n-th repetition that repair asked for.
    pub republication: u32,
    pub address: Address,
    /// The bare name: [`EventKind::name`].
    pub name: Token,
    /// The version of the aggregate after the event.
    pub version: u64,
    pub at: Timestamp,
    pub command_id: Token,
    /// The actor of its command, if it named one.
    pub actor: Option<Token>,
    /// `None` of an event that an earlier version has stored.
    pub via: Option<Via>,
    pub traceparent: Option<String>,
}

impl Envelope {
    #[must_use]
    pub fn subject(&self) -> String {
        subject::event(&self.address, &self.name)
    }

    /// CloudEvents in binary mode, and what consumers of ours look at.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Address { tenant, aggregate, id } = &self.address;
        let message_id = match self.republication {
            0 => self.event_id.clone(),
            n => format!("{}.{n}", self.event_id),
        };
        [
            (header::CE_SPECVERSION, "1.0".to_owned()),
            (header::CE_TYPE, format!("brigade.{aggregate}.{}", self.name)),
            (header::CE_SOURCE, format!("/brigade/{tenant}")),
            (header::CE_SUBJECT, id.to_string()),
            (header::CE_TIME, self.at.to_string()),
            (header::CE_ID, self.event_id.clone()),
            (header::MSG_ID, message_id),
            (header::AGGREGATE_VERSION, self.version.to_string()),
            (header::SCHEMA_VERSION, SCHEMA_VERSION.to_string()),
            (header::COMMAND_ID, self.command_id.to_string()),
        ]
        .into_iter()
        .chain(self.actor.iter().map(|actor| (header::ACTOR, actor.to_string())))
        .chain(self.via.iter().map(|via| (header::ACTOR_VIA, via.as_str().to_owned())))
        .chain(self.traceparent.clone().map(|trace| (header::TRACEPARENT, trace)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn envelope() -> Envelope {
        let token = |text| Token::new(text).unwrap();
        Envelope {
            event_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            republication: 0,
            address: Address::new("t1", Aggregate::Cart, "c1").unwrap(),
            name: token("item_added"),
            version: 7,
            at: Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap(),
            command_id: token("k1"),
            actor: None,
            via: None,
            traceparent: Some(TRACE.into()),
        }
    }

    #[test]
    fn an_envelope_reads_as_the_contract_says() {
        let envelope = envelope();
        assert_eq!(envelope.subject(), "evt.t1.cart.item_added.00");
        let text = |envelope: &Envelope| {
            envelope.headers().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>()
        };
        let golden = "\
ce-specversion: 1.0
ce-type: brigade.cart.item_added
ce-source: /brigade/t1
ce-subject: c1
ce-time: 2026-01-02T03:04:05.678Z
ce-id: 01890a5d-ac96-774b-bcce-b302099a8057
Nats-Msg-Id: 01890a5d-ac96-774b-bcce-b302099a8057
Aggregate-Version: 7
Schema-Version: 1
Command-Id: k1
traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
";
        assert_eq!(text(&envelope), golden);
        let again = text(&Envelope { republication: 2, traceparent: None, ..envelope });
        assert!(again.contains("\nce-id: 01890a5d-ac96-774b-bcce-b302099a8057\n"));
        assert!(again.contains("\nNats-Msg-Id: 01890a5d-ac96-774b-bcce-b302099a8057.2\n"));
        assert!(!again.contains("traceparent"));
    }

    #[test]
    fn an_envelope_names_who_caused_it_where_that_is_known() {
        let (actor, via) = (Some(Token::new("ada").unwrap()), Some(Via::Http));
        let headers: Vec<_> = Envelope { actor, via, ..envelope() }.headers().skip(10).collect();
        let expected =
            [(header::ACTOR, "ada"), (header::ACTOR_VIA, "http"), (header::TRACEPARENT, TRACE)];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
    }
}
