//! Healing: brings back what was lost, by rows in SQL for those who own it.
//!
//! [`plan`] decides what has to be done; this module does it. All of it may be repeated: the
//! projection backlog never lowers a version, and an event that is published once more changes
//! nothing. It goes in batches, so that no statement holds rows for long that command-handler waits
//! for, and so that progress is seen.

mod backlog;
mod events;
mod plan;
mod scan;
mod scope;

use anyhow::bail;
use async_nats::jetstream::response::Response;
use brigade_contracts::{Address, Part, Timestamp};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use self::{backlog::BacklogSample, scope::HealAction};
pub use self::{
    backlog::in_backlog,
    plan::{EventReplay, HealPlan},
};
use super::metrics::{HealedRows, VerifierMetrics};
use crate::{
    infra::{Context, lease::LeasedRounds, postgres::bounded},
    store::outbox::repeat_parts,
};

/// Rows of a batch: some 50 ms.
const BATCH: i64 = 2000;
/// After a loss of `versions`, events wait until the backlog is projected, but without any progress
/// of that for this long healing goes on.
const STALLED: Duration = Duration::from_secs(3);
/// The time between two reads of the backlog's progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// The shortest time between two log lines about the backlog's progress.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// An aggregate, and its version in SQL.
pub type VersionedAddress = (Address, i64);

/// Heals in a round of the watch of streams or of the audit, under its lease.
pub struct Healer<'a> {
    cx: &'a Context,
    metrics: &'a VerifierMetrics,
    rounds: &'a mut LeasedRounds,
    sample: BacklogSample,
}

impl<'a> Healer<'a> {
    pub fn new(
        cx: &'a Context,
        metrics: &'a VerifierMetrics,
        rounds: &'a mut LeasedRounds,
    ) -> Self {
        Self { cx, metrics, rounds, sample: BacklogSample::default() }
    }

    /// Carries out a plan. All streams but `EVENTS` exist already.
    ///
    /// # Errors
    /// If either server fails or the lease is lost; then all of it has to be done again.
    pub async fn run(&mut self, plan: &HealPlan) -> anyhow::Result<()> {
        let worker = self.cx.worker;
        for scope in plan.scopes() {
            let aggregates = self.heal_scope(scope, HealAction::Project).await?;
            tracing::info!(
                %worker, ?scope, aggregates,
                "aggregates added to the projection backlog: command-handler projects them"
            );
        }
        if plan.lost_versions() {
            // Projectors that find nothing at a key ask `versions`, and a message may only fail so
            // often.
            self.wait_for_backlog().await?;
        }
        if let Some(replay) = plan.event_replay() {
            // Before the stream is there: the relay, and all who consume it, find old events first.
            self.replay_events(replay).await?;
        }
        if plan.is_absent("EVENTS") {
            self.create_stream("EVENTS").await?;
        }
        if plan.lost_projected_parts() {
            for scope in plan.scopes() {
                let parts = self.heal_scope(scope, HealAction::Republish).await?;
                tracing::info!(
                    %worker, ?scope, parts,
                    "last events put into the outbox: projectors write these parts from them"
                );
            }
        }
        Ok(())
    }

    /// Creates a stream of the topology; one that exists stays as it is.
    ///
    /// # Errors
    /// If the server refuses to create it.
    pub async fn create_stream(&self, name: &str) -> anyhow::Result<()> {
        let declared = self.cx.topology.stream(name);
        let request = self.cx.nats.jetstream.request(format!("STREAM.CREATE.{name}"), &declared);
        match request.await? {
            Response::Ok::<Value>(_) => {
                tracing::warn!(
                    worker = %self.cx.worker, stream = name,
                    "stream was absent and is created from the topology"
                );
                Ok(())
            }
            Response::Err { error } => bail!("cannot create {name}: {error}"),
        }
    }

    /// Adds aggregates to the projection backlog, as overdue: they are projected at once.
    ///
    /// # Errors
    /// If Postgres refuses the statement.
    pub async fn add_to_backlog(&self, aggregates: &[VersionedAddress]) -> sqlx::Result<u64> {
        let added = bounded(&self.cx.postgres, async |c| backlog::add(c, aggregates).await).await?;
        self.metrics.count_healed(HealedRows::Aggregates, added);
        Ok(added)
    }

    /// Puts the newest event that carries each of these parts into the outbox.
    ///
    /// # Errors
    /// If Postgres refuses the statement.
    pub async fn republish(&self, parts: &[(Address, Part)]) -> sqlx::Result<u64> {
        let added = bounded(&self.cx.postgres, async |c| repeat_parts(c, parts).await).await?;
        self.metrics.count_healed(HealedRows::Parts, added);
        Ok(added)
    }

    async fn replay_events(&mut self, replay: &EventReplay) -> anyhow::Result<()> {
        let mut count = 0;
        let mut range = events::range_since(self.cx, replay.since).await?;
        loop {
            self.ensure_lease().await?;
            let batch = events::load_batch(self.cx, &mut range, BATCH).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let added = events::republish(self.cx, &batch, replay.under_new_ids).await?;
            count += added;
            self.metrics.count_healed(HealedRows::Events, added);
            tracing::info!(
                worker = %self.cx.worker, events = count, since = %Timestamp::from(replay.since),
                "events since then put into the outbox again: outbox-relay publishes what the \
                 stream has not got"
            );
        }
    }

    /// Waits until command-handler has projected what is overdue, and logs the progress.
    async fn wait_for_backlog(&mut self) -> anyhow::Result<()> {
        let (mut least, mut since) = (i64::MAX, Instant::now());
        loop {
            self.ensure_lease().await?;
            let left = backlog::estimate_overdue(self.cx, &self.sample).await?;
            self.metrics.heal_left.set(left);
            if left < least {
                if since.elapsed() > LOG_PERIOD || least == i64::MAX {
                    let message = "republishing waits until command-handler has projected about so \
                                   many aggregates";
                    tracing::info!(worker = %self.cx.worker, left, "{message}");
                }
                (least, since) = (left, Instant::now());
            }
            if left == 0 || since.elapsed() > STALLED || self.cx.drain.is_cancelled() {
                return Ok(());
            }
            sleep(PROGRESS_PERIOD).await;
        }
    }

    /// Renews the lease between batches, if it is time. Another holder heals as well.
    async fn ensure_lease(&mut self) -> anyhow::Result<()> {
        if self.cx.drain.is_cancelled() {
            bail!("draining: the next holder of the lease heals");
        }
        if !self.rounds.renew().await? {
            bail!("lease lost: another instance heals");
        }
        self.rounds.duty().moved();
        Ok(())
    }
}
