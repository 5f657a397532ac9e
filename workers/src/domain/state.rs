use brigade_contracts::Part;
use serde_json::value::RawValue;

use super::{Cart, Head, Order};

/// An aggregate of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Cart(Cart),
    Order(Order),
}

impl State {
    #[must_use]
    pub fn head(&self) -> &Head {
        match self {
            Self::Cart(cart) => &cart.head,
            Self::Order(order) => &order.head,
        }
    }

    pub(super) fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Cart(cart) => &mut cart.head,
            Self::Order(order) => &mut order.head,
        }
    }

    /// A part as it is shown: in KV, in queries, in outcomes and in events, all alike.
    #[must_use]
    pub fn part(&self, part: Part) -> Box<RawValue> {
        match self {
            Self::Cart(cart) => cart.part(part),
            Self::Order(order) => order.part(part),
        }
    }

    /// What is due less what is paid is only computed where the two parts meet.
    #[must_use]
    pub fn due(&self) -> i64 {
        let (total, paid) = match self {
            Self::Cart(cart) => (cart.total().unwrap_or_default(), cart.paid),
            Self::Order(order) => (order.total, order.paid),
        };
        total.less(paid).minor_units()
    }

    /// Whether nothing changes any more, so that its keys may expire.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Cart(cart) => cart.status != brigade_contracts::cart::Status::Open,
            Self::Order(order) => !order.status.is_active(),
        }
    }

    #[must_use]
    pub fn cart(&self) -> Option<&Cart> {
        match self {
            Self::Cart(cart) => Some(cart),
            Self::Order(_) => None,
        }
    }

    #[must_use]
    pub fn order(&self) -> Option<&Order> {
        match self {
            Self::Order(order) => Some(order),
            Self::Cart(_) => None,
        }
    }
}
