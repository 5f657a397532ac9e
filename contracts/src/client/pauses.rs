//! Which aggregates rest after a try that came to nothing. No I/O.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::PAUSE;
use crate::Address;

/// The longest rest: how late it may be noticed that an aggregate is no longer stuck.
const LONGEST: Duration = Duration::from_secs(10);

/// The number of failures of each aggregate since it was last decided, and the end of its pause.
#[derive(Default)]
pub(super) struct Pauses(HashMap<Address, (u32, Instant)>);

impl Pauses {
    /// Each rest is twice as long as the one before.
    pub(super) fn failed(&mut self, address: Address, now: Instant) {
        let (failures, over) = self.0.entry(address).or_insert((0, now));
        *over = now + PAUSE.saturating_mul(1 << (*failures).min(16)).min(LONGEST);
        *failures = failures.saturating_add(1);
    }

    pub(super) fn end(&mut self, address: &Address) {
        self.0.remove(address);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn failures(&self, address: &Address) -> u32 {
        self.0.get(address).map_or(0, |(failures, _)| *failures)
    }

    pub(super) fn rests(&self, address: &Address, now: Instant) -> bool {
        self.0.get(address).is_some_and(|(_, over)| *over > now)
    }

    /// When the next rest is over.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|(_, over)| *over).filter(|over| *over > now).min()
    }
}
