//! Postgres, there or known to be away, so that nobody waits long for one that is away.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, Error, PgPool};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::together::Question;
use crate::{
    runtime::{Health, supervise::supervise},
    store::postgres::{Failure, connection, failure},
};

/// How long a question may take, its repetitions included.
const PATIENCE: Duration = Duration::from_millis(900);
/// Tries of a question. After a restart of Postgres each connection of the pool is found broken
/// once, which is no reason to call it away.
const TRIES: usize = 6;
/// While Postgres is away, it is looked for this often.
const PROBE: Duration = Duration::from_millis(50);

pub struct Database {
    known: Arc<Known>,
    _probe: AbortOnDropHandle<()>,
}

struct Known {
    pool: PgPool,
    health: Health,
    away: AtomicBool,
    lost: Notify,
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    Away,
    /// The statement or a row is wrong; it was logged.
    Fault,
}

impl Database {
    #[must_use]
    pub fn new(pool: PgPool, health: Health) -> Self {
        let known =
            Arc::new(Known { pool, health, away: AtomicBool::new(false), lost: Notify::new() });
        let probed = known.clone();
        let probe = supervise("the look for Postgres", move || probe(probed.clone()));
        Self { known, _probe: probe }
    }

    /// Runs one statement, again where others got in its way.
    ///
    /// # Errors
    /// At once while Postgres is known to be away, else within [`PATIENCE`].
    pub async fn ask<Q: Question>(
        &self,
        question: &Q,
        keys: &[Q::Key],
    ) -> Result<HashMap<Q::Key, Q::Row>, Unanswered> {
        if self.known.away.load(Ordering::SeqCst) {
            return Err(Unanswered::Away);
        }
        let until = Instant::now() + PATIENCE;
        let mut why = "no answer".to_owned();
        for _ in 0..TRIES {
            let done = match connection(&self.known.pool, until).await {
                Err(Error::PoolTimedOut) => break,
                Err(error) => Ok(Err(error)),
                Ok(mut connection) => {
                    let done = timeout_at(until, question.ask(&mut connection, keys)).await;
                    if !matches!(done, Ok(Ok(_))) {
                        // Given back, it would hold its place in the pool until it answers.
                        connection.close_on_drop();
                    }
                    done
                }
            };
            match done {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if failure(&error) == Failure::Fault => {
                    tracing::error!(%error, "a query cannot be answered");
                    return Err(Unanswered::Fault);
                }
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => break,
            }
        }
        self.known.lose(&why);
        Err(Unanswered::Away)
    }
}

impl Known {
    fn lose(&self, why: &str) {
        self.away.store(true, Ordering::SeqCst);
        self.health.away("postgres", why);
        self.lost.notify_one();
    }
}

/// Looks for a Postgres that was lost, or that was never there, until it answers.
async fn probe(known: Arc<Known>) {
    if !answers(&known.pool).await {
        known.lose("no answer");
    }
    loop {
        known.lost.notified().await;
        while !answers(&known.pool).await {
            sleep(PROBE).await;
        }
        known.away.store(false, Ordering::SeqCst);
        known.health.back("postgres");
    }
}

async fn answers(pool: &PgPool) -> bool {
    let until = Instant::now() + PATIENCE;
    let Ok(mut connection) = connection(pool, until).await else { return false };
    let answers = matches!(timeout_at(until, connection.ping()).await, Ok(Ok(())));
    if !answers {
        connection.close_on_drop();
    }
    answers
}
