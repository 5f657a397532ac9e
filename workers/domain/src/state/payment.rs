use brigade_contracts::{
    Currency, Money, Token, cart,
    payment::{Core, Method, RefundTask, Status, Target},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::entry::Entry;
use crate::{head::Head, json::raw};

/// A payment as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Payment {
    pub head: Head,
    pub target: Target,
    pub method: Method,
    pub status: Status,
    /// The requested amount; once captured, the amount of the first capture.
    pub amount: Money,
    pub currency: Currency,
    pub refunded_amount: Money,
    pub user: Option<Token>,
    /// For a cart: the fencing token of the lock that it was initiated under.
    pub token: Option<i64>,
    /// For a cart: the fingerprint of its contents when it was initiated.
    pub fingerprint: Option<String>,
    pub transaction_id: Option<Token>,
    /// The part of the amount that was applied; for all else that was captured there are refund
    /// tasks.
    pub applied: Money,
    /// Each transaction that captured, the first one first.
    pub captures: Vec<Capture>,
    /// The order that the cart becomes with the capture that pays it fully.
    pub order_id: Option<Token>,
    pub table_id: Option<Token>,
    /// The turn of the table that the order is for; without one, whichever is open by then.
    pub turn_id: Option<Token>,
    /// Oldest first; the n-th has the id `<payment>.<n>`.
    pub tasks: Vec<RefundTask>,
}

/// Money that came in. Cash has no transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    pub transaction_id: Option<Token>,
    pub amount: Money,
    pub currency: Currency,
    /// The amount of it that has gone back, as far as its gateway has told.
    #[serde(default)]
    pub refunded: Money,
}

impl Payment {
    /// Returns the part `core`.
    pub(super) fn core(&self) -> Box<RawValue> {
        raw(&Core {
            version: self.head.version,
            at: self.head.at,
            target: self.target.clone(),
            method: self.method,
            status: self.status,
            amount: self.amount,
            currency: self.currency,
            refunded_amount: self.refunded_amount,
            bound: self.transaction_id.is_some(),
        })
    }

    /// Returns what its cart or order keeps of it.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            payment: cart::PaymentSummary {
                id: self.head.address.id.clone(),
                user: self.user.clone(),
                method: self.method,
                status: self.status,
                amount: self.amount,
                refunded_amount: self.refunded_amount,
            },
            token: self.token,
            applied: self.applied,
        }
    }
}
