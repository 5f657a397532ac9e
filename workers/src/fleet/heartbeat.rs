//! Signs of life: each worker renews a row of `brigade.instances`, so that one that has died is
//! missed by all others.

use std::{process, sync::Arc, time::Duration};

use brigade_contracts::WorkerName;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::FleetMetrics;
use crate::infra::{Context, Health, postgres::bounded};

/// The time between two signs of life. Three that are missing make a worker a dead one
/// (`migrations/functions/beat.sql`).
const BEAT: Duration = Duration::from_secs(2);
/// The most characters of the reason for which a worker is not ready.
const REASON: usize = 500;

/// The signs of life of a worker, by the name that it keeps when it is started again.
pub struct Heartbeat {
    instance: Arc<str>,
    holder: Arc<str>,
    worker: WorkerName,
    postgres: PgPool,
    health: Health,
    metrics: Arc<FleetMetrics>,
}

impl Heartbeat {
    #[must_use]
    pub fn new(instance: Arc<str>, cx: &Context) -> Self {
        Self {
            instance,
            holder: cx.instance.clone(),
            worker: cx.worker,
            postgres: cx.postgres.clone(),
            health: cx.health.clone(),
            metrics: cx.metrics.group(),
        }
    }

    /// Gives a sign of life every [`BEAT`], until the drain. What Postgres does not take is said by
    /// those who need it.
    pub async fn run(&self, drain: &CancellationToken) {
        let mut tick = interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while drain.run_until_cancelled(tick.tick()).await.is_some() {
            // Before Postgres is asked, which may be what is away.
            self.metrics.show_away(self.worker, &self.health.dependencies_away());
            if let Err(error) = self.beat(false).await {
                tracing::debug!(worker = %self.worker, %error, "no sign of life");
                // What others did since is not known.
                self.metrics.alive.reset();
            }
        }
    }

    /// Takes the row away, so that nobody misses the worker. Best effort.
    pub async fn leave(&self) {
        self.metrics.show_away(self.worker, &[]);
        let _left = self.beat(true).await;
    }

    async fn beat(&self, leaves: bool) -> sqlx::Result<()> {
        let trouble = self.health.ready().err();
        let trouble = trouble.map(|why| why.chars().take(REASON).collect::<String>());
        let sign = json!({
            "instance": &*self.instance,
            "worker": self.worker.as_str(),
            "holder": &*self.holder,
            "version": env!("CARGO_PKG_VERSION"),
            "host": rustix::system::uname().nodename().to_string_lossy(),
            "process": process::id(),
            "trouble": trouble,
            "leaves": leaves,
        });
        let alive = bounded(&self.postgres, async |connection| {
            sqlx::query!(
                r#"select worker as "worker!", alive as "alive!" from brigade.beat($1)"#,
                sign,
            )
            .fetch_all(&mut **connection)
            .await
        });
        let alive = alive.await?;
        for worker in WorkerName::ALL.map(WorkerName::as_str) {
            let found = alive.iter().find(|row| row.worker == worker);
            let count = found.map_or(0, |row| row.alive);
            self.metrics.alive.with_label_values(&[worker]).set(count);
        }
        Ok(())
    }
}
