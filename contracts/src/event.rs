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

const CORE: &[Part] = &[Part::Core];
const PAYMENTS: &[Part] = &[Part::Payments];
const BOTH: &[Part] = &[Part::Core, Part::Payments];

pub const CART_OPENED: Kind = kind(Aggregate::Cart, "opened", BOTH);
pub const CART_MEMBER_JOINED: Kind = kind(Aggregate::Cart, "member_joined", BOTH);
pub const CART_ITEM_ADDED: Kind = kind(Aggregate::Cart, "item_added", CORE);
pub const CART_MEMBER_COMMITTED: Kind = kind(Aggregate::Cart, "member_committed", PAYMENTS);

/// Every kind of event there is.
pub const ALL: &[Kind] = &[CART_OPENED, CART_MEMBER_JOINED, CART_ITEM_ADDED, CART_MEMBER_COMMITTED];

/// The subject filters of the events after which a projector has to write `part`.
pub fn filters_touching(part: Part) -> impl Iterator<Item = String> {
    ALL.iter()
        .filter(move |kind| kind.touches.contains(&part))
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
