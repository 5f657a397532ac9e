//! Which commands of a batch are decided in one transaction, and what follows a try that failed.
//!
//! Nothing here does any I/O: [`next`] and [`isolate`] are the whole policy of trying again,
//! splitting, putting aside and giving up, and the engine ([`super::batch`]) carries it out.

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
/// How long a batch that cannot be decided as a whole is tried in smaller sub-batches, before the
/// rest of it is put aside.
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
    /// What its commands lacked when they were decided before.
    pub missing: BTreeSet<Missing>,
    rounds: usize,
    /// Its command may wait for something that somebody else has locked.
    pub is_suspect: bool,
}

/// Why a try failed.
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

    /// Returns whether a lock may be the reason, so that it is worth asking what is locked.
    #[must_use]
    pub fn is_lock(self) -> bool {
        matches!(self, Self::Locked | Self::TooSlow)
    }
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is tried again, which also asks the inbox whether a commit whose answer was lost took
    /// place.
    Retry,
    /// It is tried again after a pause.
    RetryAfterPause,
    /// Its halves are tried, so that one bad command spoils only itself.
    Split,
    /// The commands that cannot be decided now are looked for: see [`isolate`].
    Isolate,
    /// Nobody decides now; its messages are kept.
    GiveUp,
    /// Its only command cannot be decided.
    Fail,
}

/// Returns what follows a failed try.
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

/// What becomes of the commands of a sub-batch of which nobody knows which ones are held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// Some were found to be locked and put aside; the rest is tried.
    Rest,
    /// The halves are tried.
    Split,
    /// They are suspects, and are tried beside the batches.
    Suspects,
    /// They do not fit the database, unless the database fits nothing.
    Mismatched,
}

/// Returns what becomes of a sub-batch of `count` commands, of which `unlocked` are not known to be
/// locked; `is_over`: nothing is tried in smaller sub-batches any more.
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
    /// Those commands, if they lacked something new in each of too many rounds.
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

/// How far the commands of a batch that cannot be decided now are found out.
#[derive(Debug, Default)]
pub struct Isolation {
    /// What is not found out by then is not tried in smaller sub-batches.
    until: Option<Instant>,
    /// Since something was decided.
    failures: usize,
    pub has_decided: bool,
    /// Why some commands do not fit the database, and which.
    pub mismatch: Option<String>,
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
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_failed_try() {
        let table = [
            // cause, commands, tries before → next
            (Cause::Locked, 256, 0, Next::Isolate),
            (Cause::Locked, 1, 9, Next::Isolate),
            (Cause::TooSlow, 256, 0, Next::Isolate),
            (Cause::Mismatch, 1, 0, Next::Isolate),
            (Cause::Unavailable, 256, 0, Next::RetryAfterPause),
            (Cause::Unavailable, 256, 1, Next::GiveUp),
            (Cause::Unavailable, 1, 1, Next::GiveUp),
            (Cause::Conflict, 256, 0, Next::Retry),
            (Cause::Conflict, 256, 1, Next::Split),
            (Cause::Conflict, 2, 7, Next::Split),
            (Cause::Conflict, 1, 0, Next::Retry),
            (Cause::Conflict, 1, MAX_TRIES_ALONE - 1, Next::Retry),
            (Cause::Conflict, 1, MAX_TRIES_ALONE, Next::Fail),
        ];
        for (cause, commands, tries, expected) in table {
            let sub_batch = SubBatch { tries, ..SubBatch::of((0..commands).collect()) };
            assert_eq!(next(cause, &sub_batch), expected, "{cause:?} {commands} {tries}");
        }
    }

    #[test]
    fn what_becomes_of_commands_that_somebody_holds_up() {
        let table = [
            // cause, commands, of which not known to be locked, time is over → isolated
            (Cause::Locked, 8, 7, false, Isolated::Rest),
            (Cause::Locked, 8, 0, true, Isolated::Rest),
            (Cause::Locked, 8, 8, false, Isolated::Split),
            (Cause::Mismatch, 8, 8, false, Isolated::Split),
            (Cause::Locked, 8, 8, true, Isolated::Suspects),
            (Cause::TooSlow, 1, 1, false, Isolated::Suspects),
            (Cause::Mismatch, 8, 8, true, Isolated::Mismatched),
            (Cause::Mismatch, 1, 1, false, Isolated::Mismatched),
        ];
        for (cause, count, unlocked, is_over, expected) in table {
            let found = isolate(cause, count, unlocked, is_over);
            assert_eq!(found, expected, "{cause:?} {count} {unlocked} {is_over}");
        }
    }

    #[test]
    fn halves_keep_the_order_and_the_tries() {
        let sub_batch = SubBatch::of(vec![2, 3, 5]).retried();
        let [second, first] = sub_batch.split();
        assert_eq!((first.positions, second.positions), (vec![2], vec![3, 5]));
        assert_eq!((first.tries, second.tries), (1, 1));
    }

    #[test]
    fn a_command_that_lacks_something_new_each_time_is_given_up() {
        let mut sub_batch = SubBatch::of(vec![0]).retried();
        for _ in 0..MAX_ROUNDS {
            sub_batch = sub_batch.with_missing(vec![0], BTreeSet::new()).unwrap();
            assert_eq!(sub_batch.tries, 0);
        }
        assert_eq!(sub_batch.with_missing(vec![0], BTreeSet::new()).unwrap_err(), [0]);
    }

    #[test]
    fn isolation_ends_after_too_many_failures_or_one_that_was_too_slow() {
        let mut isolation = Isolation::default();
        assert!(!isolation.has_begun());
        for _ in 1..MAX_FAILURES {
            isolation.failed(Cause::Locked);
        }
        assert!(isolation.has_begun() && !isolation.is_over());
        isolation.decided();
        isolation.failed(Cause::Mismatch);
        assert!(!isolation.is_over(), "something was decided meanwhile");
        isolation.failed(Cause::TooSlow);
        assert!(isolation.is_over());
    }
}
