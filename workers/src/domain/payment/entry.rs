use brigade_contracts::{Money, cart};
use serde::{Deserialize, Serialize};

use super::Payment;

/// A payment as its cart or order keeps it, so that neither has to read payments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub shown: cart::Payment,
    /// Of the lock that it was initiated under.
    pub token: Option<i64>,
    pub applied: Money,
}

impl Entry {
    pub(super) fn of(payment: &Payment) -> Self {
        Self {
            shown: cart::Payment {
                id: payment.head.address.id.clone(),
                user: payment.user.clone(),
                method: payment.method,
                status: payment.status,
                amount: payment.amount,
                refunded_amount: payment.refunded_amount,
            },
            token: payment.token,
            applied: payment.applied,
        }
    }
}

/// Those of which money may still come in.
pub(in crate::domain) fn open(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| entry.shown.status.is_open())
}

/// As the part `payments` shows them.
pub(in crate::domain) fn shown(entries: &[Entry]) -> Vec<cart::Payment> {
    entries.iter().map(|entry| entry.shown.clone()).collect()
}
