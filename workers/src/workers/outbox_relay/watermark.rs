//! The watermarks above which the reads of a shard begin.
//!
//! A row of the outbox that was deleted stays in the index until no transaction can see it any
//! more, so while somebody holds back xmin (a backup, a forgotten session) a read from the start
//! would walk over everything that was relayed since. Reads begin above a *low watermark* instead:
//! a sequence number up to which the shard has no row and never will have one. The last number read
//! is not one: a transaction that drew a lower number may commit later.
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
//! A watermark rises to S after a read that started when S was settled, but not above the rows that
//! this read left behind. It depends on no lease. It relies on one rule: **whoever inserts into the
//! outbox draws `seq` from the sequence of `events`, in that very statement or after it has
//! inserted into one of the two tables in the same transaction.**
//!
//! A crash of Postgres breaks all of this: numbers that were drawn but not yet flushed are given
//! out again, and deletes that were not flushed (`synchronous_commit` is off here) come undone. So
//! each statement that uses watermarks names the server whose they are, and fails on any other and
//! after a crash (`brigade.assert_incarnation`; a session says nothing of that, where a pooler
//! stands in between). Then a new *epoch* begins: a [`Watermark`] is of the epoch in which it was
//! read, and one of another epoch counts as 0.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use brigade_contracts::{Era, SHARDS};
use sqlx::{Error, PgConnection, PgPool};
use tokio::time::{Instant, timeout};

use crate::infra::{
    Context,
    postgres::{CONNECT_LIMIT, PATIENCE, connection, finish},
};

/// The limit of a read without a watermark, above its own statement timeout.
const WALK: Duration = Duration::from_secs(31);

/// A sequence number, as long as its epoch lasts. The default is of no epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    pub seq: i64,
    pub epoch: u64,
}

impl Watermark {
    /// Returns the number, or 0 in another epoch.
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

/// The pool of the relay, which counts epochs.
#[derive(Clone)]
pub struct RelaySessions {
    pub pool: PgPool,
    pub era: Era,
    server: Arc<Mutex<KnownServer>>,
    timeout: Arc<WalkTimeout>,
}

/// A server as it was in one epoch.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub name: String,
    pub epoch: u64,
}

#[derive(Debug, Default)]
struct KnownServer {
    server: Server,
    /// No read has failed since it was asked for its name.
    is_certain: bool,
}

/// The limit of reads. A session that is dead on the way looks like one that walks for
/// long, so a walk has the time only once another one has shown that it needs it: at most one is
/// tried in vain, and a dead session costs no more than any other.
#[derive(Debug, Default)]
struct WalkTimeout {
    long_walks: AtomicBool,
}

impl WalkTimeout {
    fn limit(&self, walks: bool) -> Duration {
        if walks && self.long_walks.load(Ordering::SeqCst) { WALK } else { PATIENCE }
    }

    fn took(&self, walks: bool, time: Duration) {
        if walks {
            self.long_walks.store(time >= PATIENCE, Ordering::SeqCst);
        }
    }
}

impl RelaySessions {
    /// Uses the pool of the worker.
    pub fn new(cx: &Context) -> Self {
        let (pool, era) = (cx.postgres.clone(), cx.era);
        Self { pool, era, server: Arc::default(), timeout: Arc::default() }
    }

    /// Reads above watermarks, in a session, given the server that each statement of the read has
    /// to name.
    ///
    /// A read without a watermark may have to walk over everything that was ever deleted, and then
    /// gets the time ([`WalkTimeout`]); any other is quick, or its session is dead.
    pub async fn read<T>(
        &self,
        watermarks: impl Iterator<Item = Watermark>,
        read: impl AsyncFnOnce(&mut PgConnection, &Server) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let mut session = connection(&self.pool, Instant::now() + CONNECT_LIMIT).await?;
        let named = timeout(PATIENCE, self.present_server(&mut session)).await;
        let server = match named.unwrap_or(Err(Error::PoolTimedOut)) {
            Ok(server) => server,
            Err(error) => return finish(&self.pool, session, Err(error)).await,
        };
        let walks = watermarks.map(|watermark| watermark.in_epoch(server.epoch)).min() == Some(0);
        let started = Instant::now();
        let done = timeout(self.timeout.limit(walks), read(&mut session, &server)).await;
        let done = done.unwrap_or(Err(Error::PoolTimedOut));
        if done.is_err() {
            self.known().is_certain = false;
        }
        self.timeout.took(walks, started.elapsed());
        finish(&self.pool, session, done).await
    }

    /// Returns the present epoch.
    pub fn epoch(&self) -> u64 {
        self.known().server.epoch
    }

    /// Returns the server; after a failure it is asked for its name, which may have changed.
    async fn present_server(&self, session: &mut PgConnection) -> sqlx::Result<Server> {
        let known = {
            let known = self.known();
            known.is_certain.then(|| known.server.clone())
        };
        if let Some(server) = known {
            return Ok(server);
        }
        let name = sqlx::query_scalar!(
            r#"select brigade.server_incarnation() as "name!" where brigade.assert_era($1)"#,
            self.era.as_sql(),
        );
        let name = name.fetch_one(session).await?;
        let mut known = self.known();
        known.is_certain = true;
        if known.server.name != name {
            known.server = Server { name, epoch: known.server.epoch + 1 };
        }
        Ok(known.server.clone())
    }

    fn known(&self) -> MutexGuard<'_, KnownServer> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the next settled number.
#[derive(Debug, Default)]
pub enum Settling {
    #[default]
    NotBegun,
    /// `seq` is settled when these transactions have ended.
    Awaiting(Watermark, Vec<String>),
    Settled(Watermark),
}

impl Settling {
    /// Goes one step further.
    pub async fn step(self, sessions: &RelaySessions) -> sqlx::Result<Self> {
        sessions
            .read(std::iter::empty(), async |session, server| self.go(session, server).await)
            .await
    }

    async fn go(self, session: &mut PgConnection, server: &Server) -> sqlx::Result<Self> {
        let epoch = server.epoch;
        let (watermark, earlier) = match self {
            Self::Awaiting(watermark, writers) if watermark.epoch == epoch => {
                (watermark, Some(writers))
            }
            _ => {
                let seq = sqlx::query_scalar!(
                    r#"select case when is_called then last_value else last_value - 1 end as "seq!"
                       from brigade.events_seq_seq
                       where (select brigade.assert_incarnation($1))"#,
                    server.name,
                )
                .fetch_one(&mut *session)
                .await?;
                (Watermark { seq, epoch }, None)
            }
        };
        let mut writers = sqlx::query_scalar!(
            r#"select distinct virtualtransaction as "writer!"
               from pg_locks
               where locktype = 'relation' and mode = 'RowExclusiveLock' and granted
                 and relation in ('brigade.events'::regclass, 'brigade.outbox'::regclass)
                 and database = (select oid from pg_database where datname = current_database())
                 and (select brigade.assert_incarnation($1))"#,
            server.name,
        )
        .fetch_all(&mut *session)
        .await?;
        if let Some(earlier) = earlier {
            writers.retain(|writer| earlier.contains(writer));
        }
        Ok(if writers.is_empty() {
            Self::Settled(watermark)
        } else {
            Self::Awaiting(watermark, writers)
        })
    }
}

/// The watermarks of all shards, as one relay knows them.
#[derive(Debug, Default)]
pub struct Watermarks {
    pub of: [Watermark; SHARDS as usize],
    pub settled: Watermark,
    /// The way to the next settled number, while no step is being taken.
    settling: Settling,
    /// Something was deleted since that way was begun.
    deleted: bool,
}

impl Watermarks {
    /// Records that rows were deleted, above which watermarks should rise.
    pub fn deleted(&mut self) {
        self.deleted = true;
    }

    /// Takes over the epoch of the sessions: a number settled in another one is void.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.deleted |= self.settled.epoch != epoch;
    }

    /// Returns true if there is a step to be taken.
    pub fn want_to_settle(&self) -> bool {
        self.deleted || matches!(self.settling, Settling::Awaiting(..))
    }

    /// Returns the state in which the next step begins; [`Self::stepped`] follows.
    pub fn begin_step(&mut self) -> Settling {
        let settling = mem::take(&mut self.settling);
        if matches!(settling, Settling::NotBegun) {
            self.deleted = false;
        }
        settling
    }

    /// Takes in the result of a step.
    pub fn stepped(&mut self, step: sqlx::Result<Settling>) {
        match step {
            Ok(Settling::Settled(watermark)) => self.settled.raise(watermark),
            Ok(settling) => self.settling = settling,
            // The steps begin again.
            Err(_) => self.deleted = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_has_the_time_once_one_was_too_short() {
        let walks = WalkTimeout::default();
        assert_eq!((walks.limit(true), walks.limit(false)), (PATIENCE, PATIENCE));
        walks.took(false, PATIENCE);
        assert_eq!(walks.limit(true), PATIENCE, "one with a watermark says nothing of walks");
        walks.took(true, PATIENCE);
        assert_eq!((walks.limit(true), walks.limit(false)), (WALK, PATIENCE));
        // Long ones are followed by others; a quick one tells that it was the session.
        walks.took(true, WALK);
        assert_eq!(walks.limit(true), WALK);
        walks.took(true, Duration::from_millis(1));
        assert_eq!(walks.limit(true), PATIENCE);
    }

    #[test]
    fn a_watermark_counts_in_its_epoch_only() {
        let mut watermark = Watermark { seq: 7, epoch: 2 };
        assert_eq!((watermark.in_epoch(2), watermark.in_epoch(3)), (7, 0));
        watermark.raise(Watermark { seq: 9, epoch: 1 });
        watermark.raise(Watermark { seq: 6, epoch: 2 });
        assert_eq!(watermark, Watermark { seq: 7, epoch: 2 });
        watermark.raise(Watermark { seq: 3, epoch: 3 });
        assert_eq!(watermark, Watermark { seq: 3, epoch: 3 });
    }
}
