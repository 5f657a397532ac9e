//! The reading side of Postgres, with a circuit breaker: while Postgres is known to be unavailable,
//! loads fail at once, so no query waits long for it.
//!
//! A load that gets no answer does not open the circuit by itself, since its statement may just be
//! slow: it raises a suspicion, and a ping on a connection of its own decides. The circuit closes
//! when a ping is answered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use brigade_contracts::Era;
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

use super::loader::Loader;
use crate::{
    infra::{
        Health,
        postgres::{Failure, SeenLogin, connection, failure, refuse_standby, test_idle},
    },
    runtime::supervise::supervise,
};

/// The time limit of a load, its retries included.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Tries of a load. After a restart of Postgres each connection of the pool is found broken once,
/// which is no reason to call it unavailable.
const TRIES: usize = 6;
/// Pause between pings while Postgres is unavailable.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Postgres is pinged this often although nothing is loaded and nothing was slow.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The reason why Postgres is unavailable, unless a load says more.
const NO_ANSWER: &str = "no answer";

/// Postgres as queries read it.
pub struct ReadDatabase {
    era: Era,
    circuit: Arc<ReadCircuit>,
    _prober: AbortOnDropHandle<()>,
}

struct ReadCircuit {
    pool: PgPool,
    /// One connection for the pings, which must not wait for loads.
    pings: PgPool,
    login: SeenLogin,
    health: Health,
    is_open: AtomicBool,
    /// A load got no answer: Postgres is unavailable, or the statement was slow.
    suspected: Notify,
    /// The error of the last load that got no answer.
    last_error: Mutex<String>,
}

/// The reason why nothing was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// There was no answer in time, or none by a server that may be believed.
    Unavailable,
    /// The statement or a row is wrong; the error was logged.
    Fault,
}

impl ReadDatabase {
    /// Starts the pings. Connects on first use.
    #[must_use]
    pub fn new(pool: PgPool, era: Era, health: Health) -> Self {
        let pings = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
            .connect_lazy_with(PgConnectOptions::clone(&pool.connect_options()));
        let login = SeenLogin::new(&pool);
        let (is_open, suspected) = (AtomicBool::new(false), Notify::new());
        let last_error = Mutex::new(NO_ANSWER.to_owned());
        let circuit = ReadCircuit { pool, pings, login, health, is_open, suspected, last_error };
        let circuit = Arc::new(circuit);
        let probed = circuit.clone();
        let _prober = supervise("the pings of Postgres", move || probe(probed.clone()));
        Self { era, circuit, _prober }
    }

    /// Runs one statement of a loader, and retries it where others got in its way. One that is too
    /// slow fails alone: other loads go on unless a ping is not answered either.
    ///
    /// # Errors
    /// At once while Postgres is known to be unavailable, else within [`TIMEOUT`].
    pub async fn load<L: Loader>(
        &self,
        loader: &L,
        keys: &[L::Key],
    ) -> Result<HashMap<L::Key, L::Row>, LoadError> {
        if self.circuit.is_open.load(Ordering::SeqCst) {
            return Err(LoadError::Unavailable);
        }
        let until = Instant::now() + TIMEOUT;
        let mut last_error = NO_ANSWER.to_owned();
        for _ in 0..TRIES {
            let done = match connection(&self.circuit.pool, until).await {
                Err(Error::PoolTimedOut) => break,
                Err(error) => Ok(Err(error)),
                Ok(mut connection) => {
                    let done =
                        timeout_at(until, loader.load(&mut connection, self.era, keys)).await;
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
                    return Err(LoadError::Fault);
                }
                Ok(Err(error)) => last_error = error.to_string(),
                Err(_) => break,
            }
        }
        self.circuit.set_last_error(last_error);
        self.circuit.suspected.notify_one();
        Err(LoadError::Unavailable)
    }
}

impl ReadCircuit {
    fn set_last_error(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    async fn ping(&self) -> bool {
        let until = Instant::now() + TIMEOUT;
        if let Some(options) = self.login.changed() {
            self.pings.set_connect_options(options);
        }
        let Ok(mut connection) = connection(&self.pings, until).await else { return false };
        let answers = matches!(timeout_at(until, connection.ping()).await, Ok(Ok(())));
        if !answers {
            connection.give_up();
        }
        answers
    }

    /// Keeps the circuit open until Postgres answers a ping.
    async fn hold_open(&self) {
        let why = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.is_open.store(true, Ordering::SeqCst);
        self.health.away("postgres", &why);
        while !self.ping().await {
            sleep(RETRY_PAUSE).await;
        }
        self.is_open.store(false, Ordering::SeqCst);
        self.set_last_error(NO_ANSWER.to_owned());
        self.health.back("postgres");
    }
}

/// Pings Postgres at each suspicion and at each interval, and holds the circuit open while it does
/// not answer.
async fn probe(circuit: Arc<ReadCircuit>) {
    let mut suspected = true;
    loop {
        // The connections of the loads may be dead although Postgres is there.
        let test_idle = async {
            if suspected {
                test_idle(&circuit.pool).await;
            }
        };
        let (answers, ()) = join(circuit.ping(), test_idle).await;
        if !answers {
            circuit.hold_open().await;
        }
        suspected = timeout(PING_INTERVAL, circuit.suspected.notified()).await.is_ok();
    }
}
