//! The eras of the database in a run, and what a failover may have lost.

use brigade_contracts::Era;

use crate::chaos::{
    history::{KeyVersion, Micros, Operation, Way},
    nemesis::Failover,
};

/// The time for which a stream over HTTP may still tell of the former era.
const LATE: Micros = 10_000_000;

/// The eras, and the failover that began each but the first.
#[derive(Clone, Debug, Default)]
pub struct Eras {
    eras: Vec<Era>,
    failovers: Vec<Failover>,
}

impl Eras {
    #[must_use]
    pub fn new(eras: Vec<Era>, failovers: Vec<Failover>) -> Self {
        Self { eras, failovers }
    }

    /// Returns true if each failover began an era, and nothing else did.
    #[must_use]
    pub fn agree(&self) -> bool {
        self.eras.len().max(1) == self.failovers.len() + 1
    }

    /// Returns the era at a time; between two of them the former one.
    #[must_use]
    pub fn at(&self, at: Micros) -> Era {
        let begun = self.failovers.iter().filter(|failover| failover.promoted <= at).count();
        self.eras.get(begun).or(self.eras.last()).copied().unwrap_or_default()
    }

    /// Returns the era that came after one.
    #[must_use]
    pub fn after(&self, era: Era) -> Option<Era> {
        self.eras.iter().copied().find(|other| *other > era)
    }

    /// Returns the era of what an operation told; None if it may be either of two.
    #[must_use]
    pub fn of(&self, by: &Operation, told: &KeyVersion) -> Option<Era> {
        if told.era.is_some() {
            return told.era;
        }
        if by.way == Way::Stream {
            return Some(self.at(by.ended.saturating_sub(LATE)));
        }
        self.between(by.begun, by.ended)
    }

    /// Returns the era from one moment to another, if it is one.
    #[must_use]
    pub fn between(&self, begun: Micros, ended: Micros) -> Option<Era> {
        let is_between = |failover: &Failover| begun < failover.promoted && failover.killed < ended;
        (!self.failovers.iter().any(is_between)).then(|| self.at(begun))
    }

    /// Returns true if what an operation was answered may be lost: the database did not have to
    /// keep it.
    #[must_use]
    pub fn may_be_lost(&self, by: &Operation) -> bool {
        let may = |failover: &Failover| {
            failover.loses() && by.ended > failover.kept && by.begun < failover.promoted
        };
        self.failovers.iter().any(may)
    }

    /// Returns true if a failover came after an operation began.
    #[must_use]
    pub fn ended_after(&self, by: &Operation) -> bool {
        self.failovers.iter().any(|failover| failover.promoted > by.begun)
    }

    /// Returns true if a failover may have lost something that was there at a moment.
    #[must_use]
    pub fn lost_after(&self, at: Micros) -> bool {
        self.failovers.iter().any(|failover| failover.loses() && failover.promoted > at)
    }

    /// Returns when the database that an operation saw was gone for good, if it was.
    #[must_use]
    pub fn end_of(&self, by: &Operation) -> Option<Micros> {
        let after = self.failovers.iter().filter(|failover| failover.promoted > by.begun);
        after.map(|failover| failover.killed).min()
    }
}
