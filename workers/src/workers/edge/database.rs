//! Postgres, there or known to be away, so that nobody waits long for one that is away.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join;
use sqlx::{
    Connection, Error, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::together::Question;
use crate::{
    infra::{
        Health,
        postgres::{Failure, connection, failure, refuse_standby, test_idle},
    },
    runtime::supervise::supervise,
};

/// How long a question may take, its repetitions included.
const PATIENCE: Duration = Duration::from_millis(900);
/// Tries of a question. After a restart of Postgres each connection of the pool is found broken
/// once, which is no reason to call it away.
const TRIES: usize = 6;
/// While Postgres is away, it is looked for this often.
const PROBE: Duration = Duration::from_millis(50);

/// Postgres is looked for this often although nobody asks and nothing was slow.
const LOOK: Duration = Duration::from_secs(1);
/// Why Postgres is away, where no question says more.
const SILENT: &str = "no answer";

pub struct Database {
    known: Arc<Known>,
    _probe: AbortOnDropHandle<()>,
}

struct Known {
    pool: PgPool,
    /// One connection for the pings, which must not wait for questions.
    pings: PgPool,
    health: Health,
    away: AtomicBool,
    /// A question was not answered, and why: Postgres is away, or the question was slow.
    suspected: Notify,
    why: Mutex<String>,
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Not in time, or by no server that could be believed.
    Away,
    /// The statement or a row is wrong; it was logged.
    Fault,
}

impl Database {
    #[must_use]
    pub fn new(pool: PgPool, health: Health) -> Self {
        let pings = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
            .connect_lazy_with(PgConnectOptions::clone(&pool.connect_options()));
        let (away, suspected) = (AtomicBool::new(false), Notify::new());
        let why = Mutex::new(SILENT.to_owned());
        let known = Arc::new(Known { pool, pings, health, away, suspected, why });
        let probed = known.clone();
        let probe = supervise("the look for Postgres", move || probe(probed.clone()));
        Self { known, _probe: probe }
    }

    /// Runs one statement, again where others got in its way. One that is too slow has failed by
    /// itself: it does not make Postgres away for other questions, which only a ping does that is
    /// not answered either.
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
        let mut why = SILENT.to_owned();
        for _ in 0..TRIES {
            let done = match connection(&self.known.pool, until).await {
                Err(Error::PoolTimedOut) => break,
                Err(error) => Ok(Err(error)),
                Ok(mut connection) => {
                    let done = timeout_at(until, question.ask(&mut connection, keys)).await;
                    if !matches!(done, Ok(Ok(_))) {
                        // Given back, it would hold its place in the pool until it answers.
                        connection.give_up();
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
        *self.known.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.known.suspected.notify_one();
        Err(Unanswered::Away)
    }
}

impl Known {
    async fn answers(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        let Ok(mut connection) = connection(&self.pings, until).await else { return false };
        let answers = matches!(timeout_at(until, connection.ping()).await, Ok(Ok(())));
        if !answers {
            connection.give_up();
        }
        answers
    }

    /// Until Postgres answers.
    async fn lose(&self) {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.away.store(true, Ordering::SeqCst);
        self.health.away("postgres", &why);
        while !self.answers().await {
            sleep(PROBE).await;
        }
        self.away.store(false, Ordering::SeqCst);
        SILENT.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
        self.health.back("postgres");
    }
}

/// Looks for a Postgres that is suspected to be away, or was never there, until it answers; and now
/// and then for one that nobody asks.
async fn probe(known: Arc<Known>) {
    let mut suspected = true;
    loop {
        // The questions' own connections may be dead although Postgres is there.
        let test_idle = async {
            if suspected {
                test_idle(&known.pool).await;
            }
        };
        let (answers, ()) = join(known.answers(), test_idle).await;
        if !answers {
            known.lose().await;
        }
        suspected = timeout(LOOK, known.suspected.notified()).await.is_ok();
    }
}
