//! Carts: what can be asked of them and what is shown of them.

mod secrets;

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, MAX_NAME, MAX_NOTE, MAX_PAYMENTS, Money, Quantity, Text, Timestamp, Token,
    payment::{self, Method},
    verb::{Nothing, Reason, verbs},
};

pub use secrets::{Claim, Join, SecretKey};

verbs! {
    /// The verbs of a cart.
    pub enum Verb {
        /// 201. Creates the cart. An owner, and a session, has at most 50 that are open
        /// (`too_many_carts`). The answer has the secret by which customers join a team cart.
        "open" => Open(Open),
        /// Gives a new secret by which customers join a team cart; the one before is none any more.
        "invite" => Invite(Nothing),
        /// A user becomes a member of a team cart. A customer shows the secret (`wrong_secret`).
        "join" => Join(Join),
        /// A member leaves a team cart and takes its items with it.
        "leave" => Leave(Member),
        /// Puts an item in. What is left out of name and price comes from the price list. A cart has at most 200, and 64 KiB of JSON (`too_large`).
        "add_item" => AddItem(AddItem),
        /// Changes how many of an item are in.
        "set_item" => SetItem(SetItem),
        /// Takes an item out.
        "remove_item" => RemoveItem(RemoveItem),
        /// A member commits to pay cash on delivery.
        "commit_cod" => CommitCod(Member),
        /// All open carts of this cart's session, and its lock, become the user's. A customer
        /// shows the secret of the session (`wrong_secret`).
        "claim" => Claim(Claim),
        /// Takes the lock of the cart's owner, over all its carts.
        "lock" => Lock(LockCart),
        /// Puts the gateway's real id on the lock; the deadline stays.
        "bind_transaction" => BindTransaction(BindTransaction),
        /// Moves the lock's deadline, up to a cap.
        "extend" => Extend(Extend),
        /// Gives the lock back.
        "unlock" => Unlock(Unlock),
        /// System. Ends a lock that is past its deadline, or extends it for an open payment.
        "expire_lock" => ExpireLock(ExpireLock),
        /// The cart becomes an order, once.
        "check_out" => CheckOut(CheckOut),
        /// Ends the cart without an order.
        "abandon" => Abandon(Reason),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CartKind")]
pub enum Kind {
    Team,
    Menu,
    Ticket,
}

impl Kind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Menu => "menu",
            Self::Ticket => "ticket",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CartStatus")]
pub enum Status {
    Open,
    CheckedOut,
    Abandoned,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::CheckedOut => "checked_out",
            Self::Abandoned => "abandoned",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    pub kind: Kind,
    /// A user, or the session itself before login.
    pub owner: Token,
    pub session: Option<Token>,
    pub currency: Currency,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub user: Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddItem {
    pub item_id: Token,
    pub sku: Text<MAX_NAME>,
    /// Taken from the product where it is absent.
    pub name: Option<Text<MAX_NAME>>,
    /// Taken from the product where it is absent, which has to be in the currency of the cart.
    pub unit_price: Option<Money>,
    pub quantity: Quantity,
    /// The member who ordered the item; without one, all members share it.
    pub user: Option<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetItem {
    pub item_id: Token,
    pub quantity: Quantity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveItem {
    pub item_id: Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockCart {
    /// May be a temporary one, to be bound to the gateway's later.
    pub transaction_id: Token,
    pub method: Method,
    /// The contents according to the sender; if they differ from the cart's, the lock is refused.
    pub fingerprint: Option<Text<MAX_NAME>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BindTransaction {
    pub token: i64,
    pub transaction_id: Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    pub token: i64,
    pub seconds: NonZeroU32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    pub token: i64,
    pub reason: Text<MAX_NOTE>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireLock {
    /// The fencing token of the lock that is meant.
    pub token: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckOut {
    pub order_id: Token,
    pub table_id: Option<Token>,
    /// The open turn of the table. A customer who names a table has to know it (`turn_required`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<Token>,
    /// The token of the lock, if the cart is locked.
    pub token: Option<i64>,
}

/// An item as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CartItem")]
pub struct Item {
    pub item_id: Token,
    pub sku: Text<MAX_NAME>,
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub quantity: Quantity,
    pub user: Option<Token>,
}

/// The part `core` of a cart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    pub version: u64,
    pub at: Timestamp,
    pub kind: Kind,
    pub owner: Token,
    pub session: Option<Token>,
    pub status: Status,
    pub currency: Currency,
    pub members: Vec<Share>,
    pub items: Vec<Item>,
    pub total: Money,
    pub locked_until: Option<Timestamp>,
    pub order_id: Option<Token>,
}

/// A member's share of the total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    pub user: Token,
    pub share: Money,
}

/// The part `payments` of a cart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Payments {
    pub version: u64,
    pub at: Timestamp,
    pub currency: Currency,
    pub paid: Money,
    pub refunded: Money,
    pub members: Vec<MemberPayment>,
    #[schemars(length(max = MAX_PAYMENTS))]
    pub payments: Vec<PaymentSummary>,
}

/// A member's commitment and payments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Standing")]
pub struct MemberPayment {
    pub user: Token,
    pub committed: Option<Commitment>,
    pub paid: Money,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Commitment {
    /// Cash on delivery.
    Cod,
}

/// A payment as its cart or order shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PaymentOfTarget")]
pub struct PaymentSummary {
    pub id: Token,
    pub user: Option<Token>,
    pub method: Method,
    pub status: payment::Status,
    pub amount: Money,
    pub refunded_amount: Money,
}
