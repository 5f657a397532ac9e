//! The policy of sub-batches: the commands of a batch that are decided in one transaction, and the
//! next step after a try that failed.
//!
//! Nothing here does any I/O: [`next`] and [`isolate`] are the whole policy of retrying, splitting,
//! holding and giving up, and the engine ([`super::batch`]) carries it out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use brigade_domain::Missing;

use crate::infra::postgres::{Failure, failure, is_held_up, is_mismatch, is_too_slow};

/// Rounds of a command that lacks something new each time. A payment takes two or three; others
/// may move what it needs (a cart changes its owner) between two of them.
const MAX_ROUNDS: usize = 10;
/// Tries of a single command whose transaction keeps meeting others.
const MAX_TRIES_ALONE: usize = 5;
/// Longest time for which a batch that cannot be decided as a whole is tried in smaller
/// sub-batches, before the rest of it is held.
const ISOLATION_LIMIT: Duration = Duration::from_secs(1);
/// Sub-batches that fail one after the other before the database is said to be at fault, and not
/// some of the commands.
const MAX_FAILURES: usize = 16;

/// Commands of a batch that are decided in one transaction.
#[derive(Clone, Debug, Default)]
pub struct SubBatch {
    /// The positions of its commands in the batch, in order of arrival.
    pub positions: Vec<usize>,
    tries: usize,
    /// Everything that its commands lacked when they were decided before.
    pub missing: BTreeSet<Missing>,
    rounds: usize,
    /// Its command may wait for something that somebody else has locked.
    pub is_suspect: bool,
}

/// The cause of a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A lock of somebody else was waited for in vain.
    Locked,
    /// The statement took longer than any may, which may be for a lock.
    TooSlow,
    /// The statement does not fit this database, or a row does not fit this program.
    Mismatch,
    /// Postgres cannot be reached, or takes no work.
    Unavailable,
    /// Others got in the way, or the data of a command is refused.
    Conflict,
}

impl Cause {
    /// Returns the cause of a failed transaction.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Self {
        if is_too_slow(error) {
            Self::TooSlow
        } else if is_held_up(error) {
            Self::Locked
        } else if is_mismatch(error) {
            Self::Mismatch
        } else {
            match failure(error) {
                Failure::Away => Self::Unavailable,
                Failure::Conflict | Failure::Fault => Self::Conflict,
            }
        }
    }

    /// Returns whether a lock may be the reason, so that it is worth querying what is locked.
    #[must_use]
    pub fn is_lock(self) -> bool {
        matches!(self, Self::Locked | Self::TooSlow)
    }
}

/// The step after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is tried again, which also finds in the inbox whether a commit whose response was lost
    /// took place.
    Retry,
    /// It is tried again after a pause.
    RetryAfterPause,
    /// Its halves are tried, so that one bad command spoils only itself.
    Split,
    /// The commands that cannot be decided now are isolated: see [`isolate`].
    Isolate,
    /// Postgres is unavailable: nothing is decided. Stored messages are kept in hand, requests get
    /// `503`.
    GiveUp,
    /// Its only command cannot be decided.
    Fail,
}

/// Returns the step after a failed try.
#[must_use]
pub fn next(cause: Cause, sub_batch: &SubBatch) -> Next {
    let (tries, is_alone) = (sub_batch.tries, sub_batch.positions.len() == 1);
    match cause {
        Cause::Locked | Cause::TooSlow | Cause::Mismatch => Next::Isolate,
        Cause::Unavailable if tries > 0 => Next::GiveUp,
        Cause::Unavailable => Next::RetryAfterPause,
        Cause::Conflict if is_alone && tries >= MAX_TRIES_ALONE => Next::Fail,
        Cause::Conflict if !is_alone && tries > 0 => Next::Split,
        Cause::Conflict => Next::Retry,
    }
}

/// The step for a sub-batch some of whose commands are held up, nobody knows which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// Some were found to be locked and are held; the rest is tried.
    Rest,
    /// The halves are tried.
    Split,
    /// Its commands are suspects, and are tried beside the batches.
    Suspects,
    /// A statement does not fit the database for these commands. They become suspects if others can
    /// be decided; if none can, the database is at fault.
    Mismatched,
}

/// Returns the step for a sub-batch of `count` commands, of which `unlocked` are not known to be
/// locked. With `is_over` nothing is tried in smaller sub-batches any more.
#[must_use]
pub fn isolate(cause: Cause, count: usize, unlocked: usize, is_over: bool) -> Isolated {
    if unlocked < count {
        Isolated::Rest
    } else if count > 1 && !is_over {
        Isolated::Split
    } else if cause.is_lock() {
        Isolated::Suspects
    } else {
        Isolated::Mismatched
    }
}

impl SubBatch {
    #[must_use]
    pub fn of(positions: Vec<usize>) -> Self {
        Self { positions, ..Self::default() }
    }

    /// Returns the sub-batch of a command that may be held up.
    #[must_use]
    pub fn suspect(position: usize) -> Self {
        Self { is_suspect: true, ..Self::of(vec![position]) }
    }

    /// Returns the same for the next try.
    #[must_use]
    pub fn retried(self) -> Self {
        Self { tries: self.tries + 1, ..self }
    }

    /// Returns its halves, the first one last: the last one is decided next.
    #[must_use]
    pub fn split(mut self) -> [Self; 2] {
        let second = self.positions.split_off(self.positions.len() / 2);
        let second = Self { positions: second, missing: self.missing.clone(), ..self };
        [second, self]
    }

    /// Returns the commands that lacked something, with all that they have lacked so far.
    ///
    /// # Errors
    /// The same commands, if they lacked something new in each of too many rounds.
    pub fn with_missing(
        self,
        positions: Vec<usize>,
        missing: BTreeSet<Missing>,
    ) -> Result<Self, Vec<usize>> {
        if self.rounds == MAX_ROUNDS {
            return Err(positions);
        }
        let missing = self.missing.into_iter().chain(missing).collect();
        let (rounds, is_suspect) = (self.rounds + 1, self.is_suspect);
        Ok(Self { positions, tries: 0, missing, rounds, is_suspect })
    }
}

/// The progress of isolating the commands of a batch that cannot be decided now.
#[derive(Debug, Default)]
pub struct Isolation {
    /// From then on nothing is tried in smaller sub-batches.
    until: Option<Instant>,
    /// The number of failures since something was decided.
    failures: usize,
    pub has_decided: bool,
    /// The reason why some commands do not fit the database.
    pub mismatch: Option<String>,
    /// The positions of these commands.
    pub mismatched: Vec<usize>,
}

impl Isolation {
    /// Counts a failed try. After one that was too slow nothing is tried in smaller sub-batches
    /// that may be too slow as well.
    pub fn failed(&mut self, cause: Cause) {
        let limit = if cause == Cause::TooSlow { Duration::ZERO } else { ISOLATION_LIMIT };
        let until = Instant::now() + limit;
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
        self.failures += 1;
    }

    pub fn decided(&mut self) {
        self.has_decided = true;
        self.failures = 0;
    }

    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.until.is_some()
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.failures >= MAX_FAILURES || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests;
