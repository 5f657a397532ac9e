//! Orders: what can be asked of them and what is shown of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, MAX_ITEMS, MAX_NAME, MAX_NOTE, MAX_PAYMENTS, Money, Quantity, Text, Timestamp, Token,
    cart::PaymentSummary,
    verb::{Nothing, Reason, verbs},
};

verbs! {
    /// The verbs of an order.
    pub enum Verb {
        /// 201. Creates the order, of at most 64 KiB of JSON (`too_large`). A turn has at most 200
        /// (`too_many_orders`).
        "place" => Place(Place),
        /// The kitchen takes it.
        "accept" => Accept(Nothing),
        /// The kitchen begins.
        "prepare" => Prepare(Nothing),
        /// It can be served.
        "ready" => Ready(Nothing),
        /// It is on the table, or with the guest.
        "serve" => Serve(Nothing),
        /// Nothing is left to do; it leaves the active list.
        "complete" => Complete(Nothing),
        /// Ends the order before it is served.
        "cancel" => Cancel(Reason),
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OrderStatus")]
pub enum Status {
    Placed,
    Accepted,
    Preparing,
    Ready,
    Served,
    Completed,
    Cancelled,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Served => "served",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status one step on; `None` after the last one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Some(match self {
            Self::Placed => Self::Accepted,
            Self::Accepted => Self::Preparing,
            Self::Preparing => Self::Ready,
            Self::Ready => Self::Served,
            Self::Served => Self::Completed,
            Self::Completed | Self::Cancelled => return None,
        })
    }

    /// Active orders are those that the kitchen's list shows.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Completed | Self::Cancelled)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    pub currency: Currency,
    #[schemars(length(min = 1, max = MAX_ITEMS))]
    pub items: Vec<PlacedItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacedItem {
    pub item_id: Option<Token>,
    pub sku: Text<MAX_NAME>,
    /// Taken from the product where it is absent.
    pub name: Option<Text<MAX_NAME>>,
    /// Taken from the product where it is absent, which has to be in the currency of the order.
    pub unit_price: Option<Money>,
    pub quantity: Quantity,
    pub note: Option<Text<MAX_NOTE>>,
}

/// An item as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OrderItem")]
pub struct Item {
    pub item_id: Option<Token>,
    pub sku: Text<MAX_NAME>,
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub quantity: Quantity,
    pub note: Option<Text<MAX_NOTE>>,
}

/// The part `core` of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    pub version: u64,
    pub at: Timestamp,
    pub status: Status,
    pub currency: Currency,
    pub cart_id: Option<Token>,
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    pub items: Vec<Item>,
    pub total: Money,
    pub created_at: Timestamp,
}

/// The part `payments` of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Payments {
    pub version: u64,
    pub at: Timestamp,
    pub currency: Currency,
    pub paid: Money,
    pub refunded: Money,
    pub paid_at: Option<Timestamp>,
    #[schemars(length(max = MAX_PAYMENTS))]
    pub payments: Vec<PaymentSummary>,
}

/// A row of the bucket `active_orders`: `<tenant>.<order>.core`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveCore {
    pub version: u64,
    pub at: Timestamp,
    pub order: Token,
    pub status: Status,
    pub currency: Currency,
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    pub items: Vec<Item>,
    /// The number of items at its end that the row has no room for; the view of the order has all.
    /// Absent: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items_left_out: u16,
    pub total: Money,
    pub created_at: Timestamp,
    pub change: Change,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// A row of the bucket `active_orders`: `<tenant>.<order>.payment`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActivePayment {
    pub version: u64,
    pub at: Timestamp,
    pub paid: Money,
    pub paid_at: Option<Timestamp>,
}

/// The newest change of an active order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RowChange")]
pub struct Change {
    pub kind: ChangeKind,
    /// The fields that changed; empty for an added row.
    pub fields: Vec<String>,
    /// The reason of its removal.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RowChangeKind")]
pub enum ChangeKind {
    Added,
    Updated,
    Removed,
}
