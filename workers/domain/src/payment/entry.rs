use brigade_contracts::{MAX_PAYMENTS, Money, cart, payment::Status};
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

    /// It ended, and no money came in.
    fn is_spent(&self) -> bool {
        matches!(self.shown.status, Status::Failed | Status::Cancelled)
    }
}

/// Whether one more payment can be begun.
pub(super) fn has_room(entries: &[Entry]) -> bool {
    entries.len() < MAX_PAYMENTS || entries.iter().any(Entry::is_spent)
}

/// Puts an entry in its place. Where there are as many as there may be, a new one takes the place
/// of the oldest that ended without money. Money that comes in for that one all the same is owed
/// back whole: it comes in again in this way, and where no other can make room it is left to the
/// payment itself and its refund task, since money is never refused.
pub(super) fn put(entries: &mut Vec<Entry>, entry: Entry) {
    if let Some(known) = entries.iter_mut().find(|known| known.shown.id == entry.shown.id) {
        *known = entry;
        return;
    }
    if entries.len() >= MAX_PAYMENTS
        && let Some(spent) = entries.iter().position(Entry::is_spent)
    {
        entries.remove(spent);
    }
    if entries.len() < MAX_PAYMENTS {
        entries.push(entry);
    }
}

/// Those of which money may still come in.
pub(crate) fn open(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| entry.shown.status.is_open())
}

/// As the part `payments` shows them.
pub(crate) fn shown(entries: &[Entry]) -> Vec<cart::Payment> {
    entries.iter().map(|entry| entry.shown.clone()).collect()
}
