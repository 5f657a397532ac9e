//! Events: their names, the parts they touch, and their envelope.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Aggregate, Part};

/// A kind of event: its bare name, what it touches, and whether its aggregate ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub aggregate: Aggregate,
    pub name: &'static str,
    /// The parts that show something else after this event.
    pub touches: &'static [Part],
    /// Nothing changes in the aggregate any more, and its keys may expire.
    pub ends: bool,
}

const fn kind(aggregate: Aggregate, name: &'static str, touches: &'static [Part]) -> Kind {
    Kind { aggregate, name, touches, ends: false }
}

const fn ending(kind: Kind) -> Kind {
    Kind { ends: true, ..kind }
}

const CORE: &[Part] = &[Part::Core];
const PAYMENTS: &[Part] = &[Part::Payments];
const BOTH: &[Part] = &[Part::Core, Part::Payments];

pub const CART_OPENED: Kind = kind(Aggregate::Cart, "opened", BOTH);
pub const CART_MEMBER_JOINED: Kind = kind(Aggregate::Cart, "member_joined", BOTH);
pub const CART_MEMBER_LEFT: Kind = kind(Aggregate::Cart, "member_left", BOTH);
pub const CART_ITEM_ADDED: Kind = kind(Aggregate::Cart, "item_added", CORE);
pub const CART_ITEM_CHANGED: Kind = kind(Aggregate::Cart, "item_changed", CORE);
pub const CART_ITEM_REMOVED: Kind = kind(Aggregate::Cart, "item_removed", CORE);
pub const CART_MEMBER_COMMITTED: Kind = kind(Aggregate::Cart, "member_committed", PAYMENTS);
pub const CART_ABANDONED: Kind = ending(kind(Aggregate::Cart, "abandoned", CORE));

pub const ORDER_PLACED: Kind = kind(Aggregate::Order, "placed", BOTH);
pub const ORDER_ACCEPTED: Kind = kind(Aggregate::Order, "accepted", CORE);
pub const ORDER_PREPARING: Kind = kind(Aggregate::Order, "preparing", CORE);
pub const ORDER_READY: Kind = kind(Aggregate::Order, "ready", CORE);
pub const ORDER_SERVED: Kind = kind(Aggregate::Order, "served", CORE);
pub const ORDER_COMPLETED: Kind = ending(kind(Aggregate::Order, "completed", CORE));
pub const ORDER_CANCELLED: Kind = ending(kind(Aggregate::Order, "cancelled", CORE));

/// Every kind of event there is.
pub const ALL: &[Kind] = &[
    CART_OPENED,
    CART_MEMBER_JOINED,
    CART_MEMBER_LEFT,
    CART_ITEM_ADDED,
    CART_ITEM_CHANGED,
    CART_ITEM_REMOVED,
    CART_MEMBER_COMMITTED,
    CART_ABANDONED,
    ORDER_PLACED,
    ORDER_ACCEPTED,
    ORDER_PREPARING,
    ORDER_READY,
    ORDER_SERVED,
    ORDER_COMPLETED,
    ORDER_CANCELLED,
];

/// The subject filters of the events after which a projector has to write `part`: those that
/// touch it, and those that end an aggregate, after which its keys may expire.
pub fn filters_carrying(part: Part) -> impl Iterator<Item = String> {
    ALL.iter()
        .filter(move |kind| kind.touches.contains(&part) || kind.ends)
        .map(|kind| format!("evt.*.{}.*.{}", kind.aggregate, kind.name))
}

/// The payload of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// What happened.
    pub data: Box<RawValue>,
    pub after: After,
}

/// The after-state of the parts that a projector writes from the event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct After {
    /// Whether the aggregate has ended.
    pub ended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payments: Option<Box<RawValue>>,
}
