//! Starts workers, each with its own connections, and stops them.

pub mod config;
mod heartbeat;
mod metrics;
pub mod process;
pub mod registry;
mod servers;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use brigade_contracts::{Era, WorkerName, topology::Topology};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use crate::infra::{Context, FailPoints, Health, Metrics, Nats, postgres};

use self::heartbeat::Heartbeat;
pub use metrics::FleetMetrics;
pub use servers::{Servers, Settings};

/// Connections of one worker to Postgres: enough for the statements that it has in flight at once.
const POSTGRES_CONNECTIONS: u32 = 4;
/// A drain that takes longer than this waits for a server that does not answer. With the flushes
/// after it, below the 10 s that a process has.
const DRAIN_LIMIT: Duration = Duration::from_millis(8500);
/// A drain because of a new era takes no longer: what is in hand can neither be decided nor
/// confirmed.
const ERA_DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// Pause before a worker that failed is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// A running worker.
pub struct Instance {
    pub worker: WorkerName,
    pub health: Health,
    drain: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Instance {
    /// Starts a worker. One that fails is started again, until it drains.
    #[must_use]
    pub fn start(
        worker: WorkerName,
        servers: Servers,
        metrics: Arc<Metrics>,
        fail: FailPoints,
    ) -> Self {
        let health = Health::new(worker);
        let drain = CancellationToken::new();
        let starts = Starts {
            id: id(worker),
            worker,
            servers,
            health: health.clone(),
            metrics,
            drain: drain.clone(),
            fail,
        };
        let task = tokio::spawn(starts.run_until_drained());
        Self { worker, health, drain, task: AbortOnDropHandle::new(task) }
    }

    /// Tells the worker to drain; returns at once.
    pub fn drain(&self) {
        self.health.draining();
        self.drain.cancel();
    }

    /// Drains and waits until the worker has stopped.
    pub async fn stop(self) {
        self.drain();
        // An error is a panic or an abort: stopped either way.
        let _stopped = self.task.await;
    }

    /// Stops the worker where it is, as if its process were killed.
    pub async fn kill(self) {
        self.task.abort();
        let _stopped = self.task.await;
    }
}

/// The arguments with which a worker is started, each time.
struct Starts {
    /// The name under which it gives signs of life.
    id: Arc<str>,
    worker: WorkerName,
    servers: Servers,
    health: Health,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    fail: FailPoints,
}

impl Starts {
    async fn run_until_drained(self) {
        let Self { worker, health, drain, .. } = &self;
        let fleet = self.metrics.group::<FleetMetrics>();
        let mut era = Era::FIRST;
        while !drain.is_cancelled() {
            let why = match self.run(&mut era).await {
                Ok(()) if drain.is_cancelled() => return,
                Ok(()) => "it ended by itself".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            health.away("worker", &why);
            fleet.restarts.with_label_values(&[worker.as_str()]).inc();
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = drain.cancelled() => {}
            }
        }
    }

    /// Connects the worker. Postgres is connected to on first use.
    async fn context(&self) -> anyhow::Result<Context> {
        let Self { worker, servers, health, metrics, drain, fail, .. } = self;
        Ok(Context {
            worker: *worker,
            instance: id(*worker),
            era: Era::FIRST,
            nats: Nats::connect_with(&servers.nats_url, &servers.nats, health, metrics).await?,
            postgres: postgres::pool(&servers.postgres_url, *worker, POSTGRES_CONNECTIONS)?,
            health: health.clone(),
            metrics: metrics.clone(),
            drain: drain.clone(),
            fail: fail.clone(),
            topology: Arc::new(Topology::with_replicas(servers.replicas)),
        })
    }

    /// Runs the worker until it ends, in the era that the database is in, or else was in last.
    async fn run(&self, known_era: &mut Era) -> anyhow::Result<()> {
        let Self { worker, servers, health, drain, .. } = self;
        let worker = *worker;
        let mut cx = self.context().await?;
        let _login = servers.postgres_url_file.clone().map(|file| {
            AbortOnDropHandle::new(tokio::spawn(postgres::follow_file(cx.postgres.clone(), file)))
        });
        cx.era = postgres::era::begin(&cx.postgres, *known_era).await;
        cx.drain = drain.child_token();
        let entry = registry::find(worker);
        health.starting();
        let heartbeat = Arc::new(Heartbeat::new(self.id.clone(), &cx));
        let beats = {
            let (heartbeat, drain) = (heartbeat.clone(), cx.drain.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { heartbeat.run(&drain).await }))
        };
        tracing::info!(%worker, instance = %cx.instance, era = %cx.era, "started");
        let mut task =
            AbortOnDropHandle::new(tokio::spawn((entry.run)(cx.clone(), &servers.settings)));
        let given_up = async {
            drain.cancelled().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        // What is in hand is not lost: nothing is acknowledged or answered before it is durable.
        let result = tokio::select! {
            result = &mut task => result.context("the worker panicked")?,
            why = health.hangs() => {
                tracing::error!(%worker, why, "hangs, and is started again");
                // With new connections: these may be what it waits for.
                drop(cx.postgres.close());
                anyhow::bail!(why);
            }
            error = postgres::wrong_settings(&cx.postgres, worker) => {
                tracing::error!(%worker, "refuses to work: {error:#}");
                drop(cx.postgres.close());
                return Err(error);
            }
            era = postgres::era::ended(&cx.postgres, cx.era) => {
                // What it remembers may never have been. Whoever waits for an answer is told 503.
                *known_era = era;
                cx.drain.cancel();
                let _drained = tokio::time::timeout(ERA_DRAIN_LIMIT, task).await;
                Err(anyhow::anyhow!("the database is in era {era}, no longer in {}", cx.era))
            }
            () = cx.nats.died() => Err(anyhow::anyhow!("the connection to NATS has died")),
            () = given_up => {
                tracing::warn!(%worker, "drained as far as possible; a server does not answer");
                // Nobody waits for a connection any more.
                drop(cx.postgres.close());
                return Ok(());
            }
        };
        // Telemetry and answers that are still in the client's buffer leave before the connection.
        let leaves = async {
            // One that is started again is missed until then.
            if drain.is_cancelled() {
                let _ended = beats.await;
                heartbeat.leave().await;
            }
        };
        let last = async { tokio::join!(cx.nats.client.flush(), leaves) };
        let _flushed = tokio::time::timeout(Duration::from_secs(1), last).await;
        let _closed = tokio::time::timeout(Duration::from_secs(1), cx.postgres.close()).await;
        tracing::info!(%worker, "stopped");
        result
    }
}

/// Returns a name that is this instance's own.
fn id(worker: WorkerName) -> Arc<str> {
    format!("{worker}.{}", Uuid::now_v7()).into()
}
