use brigade_contracts::{MAX_PAYMENTS, Money, cart, payment::Status};
use serde::{Deserialize, Serialize};

/// A payment as its cart or order keeps it, so that neither has to load payments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub payment: cart::PaymentSummary,
    /// The fencing token of the lock that it was initiated under.
    pub token: Option<i64>,
    pub applied: Money,
}

impl Entry {
    /// Returns whether it ended and no money came in.
    fn is_spent(&self) -> bool {
        matches!(self.payment.status, Status::Failed | Status::Cancelled)
    }
}

/// Returns whether one more payment can be begun.
pub(crate) fn has_room(entries: &[Entry]) -> bool {
    entries.len() < MAX_PAYMENTS || entries.iter().any(Entry::is_spent)
}

/// Puts an entry in its place. Where there are as many as there may be, a new one takes the place
/// of the oldest that ended without money. Money that comes in for that one all the same is owed
/// back whole: it comes in again in this way, and where no other can make room it is left to the
/// payment itself and its refund task, since money is never refused.
pub(crate) fn put(entries: &mut Vec<Entry>, entry: Entry) {
    if let Some(known) = entries.iter_mut().find(|known| known.payment.id == entry.payment.id) {
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

/// Returns the payments by which money may still come in.
pub(crate) fn open(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| entry.payment.status.is_open())
}

/// Returns the payments as the part `payments` lists them.
pub(crate) fn projected(entries: &[Entry]) -> Vec<cart::PaymentSummary> {
    entries.iter().map(|entry| entry.payment.clone()).collect()
}
