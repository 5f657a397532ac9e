//! Where the reads of a shard begin.
//!
//! A row of the outbox that was deleted stays in the index until no transaction can see it any
//! more, so while somebody holds back xmin (a backup, a forgotten session) a read from the start
//! would walk over everything that was relayed since. Reads begin above a *floor* instead. The
//! last sequence number seen is not one: a transaction that drew a lower number may commit later.
//!
//! **Settled** is a number up to which every row is visible or will never be:
//! 1. Read S, the last number drawn from the sequence.
//! 2. In a later statement, read H, the transactions that hold `RowExclusiveLock` on `events` or
//!    `outbox`. A writer has that lock before it draws a number (the lock is taken when its
//!    statement is planned, the number drawn when it runs) and keeps it until it has ended. So
//!    whoever drew a number up to S is in H or has ended.
//! 3. Once nobody of H holds the lock any more, all of them have ended, and what they committed
//!    is visible to every statement that starts after this was seen. S is settled.
//!
//! A floor rises to S after a read that started when S was settled, but not above what that read
//! left behind. It depends on nobody's lease. It relies on one rule: **whoever inserts into the
//! outbox draws `seq` from the sequence of `events`, in that very statement or after it has
//! inserted into one of the two tables in the same transaction.**
//!
//! A crash of Postgres breaks all of this: numbers that were drawn but not yet flushed are given
//! out again, and deletes that were not flushed (`synchronous_commit` is off here) come undone.
//! But a crash also ends every session. So each new session begins an *epoch*, a [`Mark`] is of
//! the epoch of the session that read it, and a mark of another epoch counts as 0.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Error, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, timeout};

use super::SHARDS;
use crate::infra::{
    postgres::CONNECT_LIMIT,
    postgres::{PATIENCE, connection, finish, refuse_standby},
};

/// Sessions: two batches, and the statements beside them.
const SESSIONS: u32 = 4;

/// What the relay's sessions are set to, besides what all workers' are.
const SETTINGS: [(&str, &str); 6] = [
    // A lost delete repeats an event; a lost lease is asked for again.
    ("synchronous_commit", "off"),
    // The first read of a shard has no floor. Should millions of dead entries lie there, it must
    // take its time once instead of failing for ever.
    ("statement_timeout", "30s"),
    // The outbox is empty when statistics are taken and full when it matters. Everything is
    // found by key; a plan that reads or hashes a whole table is always wrong.
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// How long a read without a floor is waited for, above its own limit.
const WALK: Duration = Duration::from_secs(31);

/// A sequence number, as long as its epoch lasts. The default is of no epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub seq: i64,
    pub epoch: u64,
}

impl Mark {
    /// The number, or 0 in another epoch.
    pub fn in_epoch(self, epoch: u64) -> i64 {
        if self.epoch == epoch { self.seq } else { 0 }
    }

    /// Takes over a later epoch, or a higher number of the same.
    pub fn raise(&mut self, to: Self) {
        if (to.epoch, to.seq) > (self.epoch, self.seq) {
            *self = to;
        }
    }
}

/// The relay's own pool, which counts epochs.
#[derive(Clone)]
pub struct Sessions {
    pub pool: PgPool,
    epoch: Arc<AtomicU64>,
    patience: Arc<Patience>,
}

/// How long reads are waited for. A session that is dead on the way looks like one that walks for
/// long, so a walk has the time only once another one has shown that it needs it: at most one is
/// tried in vain, and a dead session costs no more than any other.
#[derive(Debug, Default)]
struct Patience {
    long_walks: AtomicBool,
}

impl Patience {
    fn limit(&self, walks: bool) -> Duration {
        if walks && self.long_walks.load(Ordering::SeqCst) { WALK } else { PATIENCE }
    }

    fn took(&self, walks: bool, time: Duration) {
        if walks {
            self.long_walks.store(time >= PATIENCE, Ordering::SeqCst);
        }
    }
}

impl Sessions {
    /// A pool to where `worker` leads. Its sessions are kept for good: each new one begins an
    /// epoch.
    pub fn new(worker: &PgPool) -> Self {
        let options = PgConnectOptions::clone(&worker.connect_options()).options(SETTINGS);
        let epoch = Arc::new(AtomicU64::new(0));
        let count = epoch.clone();
        let pool = PgPoolOptions::new()
            .max_connections(SESSIONS)
            .acquire_timeout(CONNECT_LIMIT)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| {
                count.fetch_add(1, Ordering::SeqCst);
                Box::pin(refuse_standby(connection))
            })
            .connect_lazy_with(options);
        Self { pool, epoch, patience: Arc::default() }
    }

    /// Reads above floors, in a session, given the epoch of what is read in it. The order matters:
    /// after a crash the statement either fails, or its session is a new one and has been counted.
    ///
    /// A read without a floor may have to walk over everything that was ever deleted, and is then
    /// given the time ([`Patience`]); any other is quick, or its session is dead. Its next read is
    /// then one of a new session, and so without a floor.
    pub async fn read<T>(
        &self,
        floors: impl Iterator<Item = Mark>,
        read: impl AsyncFnOnce(&mut PgConnection, u64) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let mut session = connection(&self.pool, Instant::now() + CONNECT_LIMIT).await?;
        let epoch = self.epoch();
        let walks = floors.map(|floor| floor.in_epoch(epoch)).min() == Some(0);
        let started = Instant::now();
        let done = timeout(self.patience.limit(walks), read(&mut session, epoch)).await;
        self.patience.took(walks, started.elapsed());
        finish(&self.pool, session, done.unwrap_or(Err(Error::PoolTimedOut))).await
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

/// The way to the next settled number.
#[derive(Debug, Default)]
pub enum Settling {
    #[default]
    NotBegun,
    /// `seq` is settled when these transactions have ended.
    Awaiting(Mark, Vec<String>),
    Settled(Mark),
}

impl Settling {
    /// Goes one step further.
    pub async fn step(self, sessions: &Sessions) -> sqlx::Result<Self> {
        sessions
            .read(std::iter::empty(), async |session, epoch| self.go(session, epoch).await)
            .await
    }

    async fn go(self, session: &mut PgConnection, epoch: u64) -> sqlx::Result<Self> {
        let (mark, earlier) = match self {
            Self::Awaiting(mark, writers) if mark.epoch == epoch => (mark, Some(writers)),
            _ => {
                let seq = sqlx::query_scalar!(
                    r#"select case when is_called then last_value else last_value - 1 end as "seq!"
                       from brigade.events_seq_seq"#
                )
                .fetch_one(&mut *session)
                .await?;
                (Mark { seq, epoch }, None)
            }
        };
        let mut writers = sqlx::query_scalar!(
            r#"select distinct virtualtransaction as "writer!"
               from pg_locks
               where locktype = 'relation' and mode = 'RowExclusiveLock' and granted
                 and relation in ('brigade.events'::regclass, 'brigade.outbox'::regclass)
                 and database = (select oid from pg_database where datname = current_database())"#
        )
        .fetch_all(&mut *session)
        .await?;
        if let Some(earlier) = earlier {
            writers.retain(|writer| earlier.contains(writer));
        }
        Ok(if writers.is_empty() { Self::Settled(mark) } else { Self::Awaiting(mark, writers) })
    }
}

/// What one relay knows of all shards.
#[derive(Debug, Default)]
pub struct Floors {
    pub of: [Mark; SHARDS as usize],
    pub settled: Mark,
    /// The way to the next settled number, while no step is being taken.
    settling: Settling,
    /// Something was deleted since that way was begun.
    deleted: bool,
}

impl Floors {
    /// Rows were deleted, above which floors should rise.
    pub fn deleted(&mut self) {
        self.deleted = true;
    }

    /// The sessions are of this epoch: what was settled in another one says nothing.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.deleted |= self.settled.epoch != epoch;
    }

    /// Whether there is a step to be taken.
    pub fn want_to_settle(&self) -> bool {
        self.deleted || matches!(self.settling, Settling::Awaiting(..))
    }

    /// What the next step begins with; [`Self::stepped`] follows.
    pub fn begin_step(&mut self) -> Settling {
        let settling = mem::take(&mut self.settling);
        if matches!(settling, Settling::NotBegun) {
            self.deleted = false;
        }
        settling
    }

    pub fn stepped(&mut self, step: sqlx::Result<Settling>) {
        match step {
            Ok(Settling::Settled(mark)) => self.settled.raise(mark),
            Ok(settling) => self.settling = settling,
            // The way begins anew.
            Err(_) => self.deleted = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_has_the_time_once_one_was_too_short() {
        let patience = Patience::default();
        assert_eq!((patience.limit(true), patience.limit(false)), (PATIENCE, PATIENCE));
        patience.took(false, PATIENCE);
        assert_eq!(patience.limit(true), PATIENCE, "one with a floor says nothing of walks");
        patience.took(true, PATIENCE);
        assert_eq!((patience.limit(true), patience.limit(false)), (WALK, PATIENCE));
        // Long ones are followed by others; a quick one tells that it was the session.
        patience.took(true, WALK);
        assert_eq!(patience.limit(true), WALK);
        patience.took(true, Duration::from_millis(1));
        assert_eq!(patience.limit(true), PATIENCE);
    }

    #[test]
    fn a_mark_counts_in_its_epoch_only() {
        let mut mark = Mark { seq: 7, epoch: 2 };
        assert_eq!((mark.in_epoch(2), mark.in_epoch(3)), (7, 0));
        mark.raise(Mark { seq: 9, epoch: 1 });
        mark.raise(Mark { seq: 6, epoch: 2 });
        assert_eq!(mark, Mark { seq: 7, epoch: 2 });
        mark.raise(Mark { seq: 3, epoch: 3 });
        assert_eq!(mark, Mark { seq: 3, epoch: 3 });
    }
}
