//! What a batch does to money, beside its aggregates.

use brigade_contracts::{Address, payment::Status};

use super::BatchState;
use crate::{
    ledger::Ledger,
    state::{Payment, State},
};

impl BatchState {
    /// Returns what has moved between the sums of money.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the payments whose result became unknown, or ceased to be.
    pub fn doubted(&self) -> impl Iterator<Item = &Payment> {
        let states = self.doubted.iter().filter_map(|address| self.loaded.states.get(address));
        states.filter_map(State::payment)
    }

    /// Books what a payment has moved, and whether its result is in doubt now.
    pub(super) fn book(&mut self, address: &Address, before: Option<&State>) {
        let before = before.and_then(State::payment);
        let Some(after) = self.loaded.states.get(address).and_then(State::payment) else { return };
        self.ledger.book(before, after);
        let is_unknown = |payment: &Payment| payment.status == Status::Unknown;
        if before.is_some_and(is_unknown) != is_unknown(after) {
            self.doubted.insert(address.clone());
        }
    }
}
