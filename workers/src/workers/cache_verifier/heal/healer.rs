//! Does stored heals, batch by batch.

use anyhow::{Context as _, bail};
use async_nats::jetstream::response::Response;
use brigade_contracts::{Address, Part, Token, key::Bucket};
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::time::{Duration, Instant, sleep};

use super::{
    HealStep,
    backlog::{self, HealQueue},
    events::{self, LoggedEvent},
    step::HealPosition,
    store::{self, Heal, HealProgress},
    walk,
};
use crate::{
    infra::{
        Context,
        lease::LeasedRounds,
        postgres::{Pooled, bounded},
    },
    store::outbox::repeat_parts,
    workers::cache_verifier::metrics::{HealedRows, VerifierMetrics},
};

/// A batch waits until fewer entries than these are left in the heal backlog: some seconds of work
/// for one command-handler.
const BACKLOG_ROOM: i64 = 10_000;
/// A batch waits until fewer events than these are still to be published once more: an event of the
/// moment waits for them, well below a second.
const OUTBOX_ROOM: i64 = 4_000;
/// Without any progress for this long healing goes on all the same: what is left may be an aggregate
/// that cannot be projected at all.
const BACKLOG_STALLED: Duration = Duration::from_secs(3);
/// The same for events. Long, since without a relay the outbox only grows.
const OUTBOX_STALLED: Duration = Duration::from_secs(30);
/// The time between two looks at a queue.
const QUEUE_PERIOD: Duration = Duration::from_millis(100);

/// The rows that a batch puts into SQL.
enum BatchRows {
    Nothing,
    Aggregates(Vec<Address>),
    Parts(Vec<(Address, Part)>),
    Events { events: Vec<LoggedEvent>, under_new_ids: bool },
}

struct HealBatch {
    rows: BatchRows,
    walked: usize,
    next: HealPosition,
}

/// Heals in a round, under its lease.
pub struct Healer<'a> {
    pub cx: &'a Context,
    pub metrics: &'a VerifierMetrics,
    pub rounds: &'a mut LeasedRounds,
}

impl Healer<'_> {
    /// Does all heals that are stored, until none is left or the lease is lost.
    ///
    /// # Errors
    /// If either server fails; the heal goes on there.
    pub async fn heal_all(&mut self) -> anyhow::Result<()> {
        loop {
            let (heal, count) = store::load_first(&self.cx.postgres).await?;
            self.metrics.heals_unfinished.set(count);
            let Some(heal) = heal else { return Ok(()) };
            if !self.heal_batch(&heal).await? {
                return Ok(());
            }
        }
    }

    /// Does the next batch of a heal. Returns false if another instance has to go on.
    async fn heal_batch(&mut self, heal: &Heal) -> anyhow::Result<bool> {
        let room = match heal.step() {
            Some(HealStep::Project { .. }) => Some((HealQueue::Backlog, BACKLOG_ROOM)),
            Some(HealStep::AwaitProjections) => Some((HealQueue::Backlog, 1)),
            Some(HealStep::Replay { .. } | HealStep::Republish { .. }) => {
                Some((HealQueue::Outbox, OUTBOX_ROOM))
            }
            Some(HealStep::AwaitPublications) => Some((HealQueue::Outbox, 1)),
            Some(HealStep::DeleteKeys { .. }) | None => None,
        };
        if let Some((queue, room)) = room
            && !self.wait_for_room(queue, room).await?
        {
            return Ok(false);
        }
        if !self.keeps_lease().await? {
            return Ok(false);
        }
        let batch = self.load_batch(heal).await.with_context(|| format!("heal {}", heal.id))?;
        let (saved, progress) =
            bounded(&self.cx.postgres, async |c| write(c, heal, &batch).await).await?;
        if saved {
            self.report(heal, &batch, progress);
            self.cx.fail.point("cache-verifier.after_batch").await;
        }
        if saved && batch.next.step >= heal.steps.len() {
            self.cx.fail.point("cache-verifier.after_heal").await;
        }
        Ok(saved)
    }

    async fn load_batch(&self, heal: &Heal) -> anyhow::Result<HealBatch> {
        let position = &*heal.position;
        let nothing =
            || HealBatch { rows: BatchRows::Nothing, walked: 0, next: position.next_step() };
        let (rows, walked, next) = match heal.step() {
            Some(HealStep::DeleteKeys { bucket, tenant }) => {
                delete_keys(self.cx, *bucket, tenant.as_ref()).await?;
                return Ok(nothing());
            }
            Some(HealStep::Project { scope }) => {
                let batch = walk::load_addresses(self.cx, scope, position).await?;
                (BatchRows::Aggregates(batch.addresses), batch.walked, batch.next)
            }
            Some(HealStep::Republish { scope }) => {
                let batch = walk::load_addresses(self.cx, scope, position).await?;
                let parts = walk::projected_parts(&batch.addresses);
                (BatchRows::Parts(parts), batch.walked, batch.next)
            }
            Some(HealStep::Replay { events, under_new_ids }) => {
                let (events, next) = walk::load_events(self.cx, *events, position).await?;
                let walked = events.len();
                (BatchRows::Events { events, under_new_ids: *under_new_ids }, walked, next)
            }
            Some(HealStep::AwaitProjections | HealStep::AwaitPublications) | None => {
                return Ok(nothing());
            }
        };
        Ok(HealBatch { rows, walked, next })
    }

    /// Counts what a batch has put into SQL, and logs which aggregates and events.
    fn report(&self, heal: &Heal, batch: &HealBatch, progress: HealProgress) {
        let (worker, heal_id, reason) = (self.cx.worker, heal.id, heal.reason.as_str());
        let rows = progress.aggregates + progress.events;
        let (what, first, last) = match &batch.rows {
            BatchRows::Nothing => (None, None, None),
            BatchRows::Aggregates(all) => {
                let name = |address: Option<&Address>| address.map(ToString::to_string);
                (Some(HealedRows::Aggregates), name(all.first()), name(all.last()))
            }
            BatchRows::Parts(all) => {
                let name = |part: Option<&(Address, Part)>| part.map(|(a, _)| a.to_string());
                (Some(HealedRows::Parts), name(all.first()), name(all.last()))
            }
            BatchRows::Events { events, .. } => {
                let name = |event: Option<&LoggedEvent>| event.map(|event| event.seq.to_string());
                (Some(HealedRows::Events), name(events.first()), name(events.last()))
            }
        };
        if let Some(what) = what.filter(|_| rows > 0) {
            self.metrics.count_healed(what, rows.unsigned_abs());
            let what = what.as_str();
            tracing::info!(%worker, heal_id, reason, what, rows, first, last, "healing");
        }
        if batch.next.step >= heal.steps.len() {
            let aggregates = heal.aggregates + progress.aggregates;
            let events = heal.events + progress.events;
            tracing::info!(
                %worker, heal_id, reason, aggregates, events,
                "healing is done: the rest is up to command-handler, outbox-relay and the projectors"
            );
        }
    }

    /// Waits until fewer rows than `most` are left in a queue, or nothing moves any more. Returns
    /// false if another instance has to go on.
    async fn wait_for_room(&mut self, queue: HealQueue, most: i64) -> anyhow::Result<bool> {
        let stalled = match queue {
            HealQueue::Backlog => BACKLOG_STALLED,
            HealQueue::Outbox => OUTBOX_STALLED,
        };
        let (mut least, mut since) = (i64::MAX, Instant::now());
        while self.keeps_lease().await? {
            let left = queue.count(self.cx).await?;
            if queue == HealQueue::Backlog {
                self.metrics.heal_left.set(left);
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if left < most || since.elapsed() > stalled {
                return Ok(true);
            }
            sleep(QUEUE_PERIOD).await;
        }
        Ok(false)
    }

    /// Renews the lease between batches, if it is time. Returns false if it is lost, or the worker
    /// drains: the next holder goes on.
    async fn keeps_lease(&mut self) -> sqlx::Result<bool> {
        if self.cx.drain.is_cancelled() || !self.rounds.renew().await? {
            return Ok(false);
        }
        self.rounds.duty().moved();
        Ok(true)
    }
}

/// Writes a batch and the position after it. Returns false if another instance did, and what was
/// written.
async fn write(
    connection: &mut Pooled,
    heal: &Heal,
    batch: &HealBatch,
) -> sqlx::Result<(bool, HealProgress)> {
    let mut tx = connection.begin().await?;
    let mut progress = HealProgress { walked: batch.walked as i64, ..HealProgress::default() };
    match &batch.rows {
        BatchRows::Nothing => {}
        BatchRows::Aggregates(all) => {
            progress.aggregates = backlog::add(&mut tx, all).await?.cast_signed();
        }
        BatchRows::Parts(all) => progress.events = repeat_parts(&mut tx, all).await?.cast_signed(),
        BatchRows::Events { events, under_new_ids } => {
            let added = events::republish(&mut tx, events, *under_new_ids).await?;
            progress.events = added.cast_signed();
        }
    }
    // Last, so that nobody waits for the row while the rest is written.
    let saved = store::save(&mut tx, heal, &batch.next, progress).await?;
    if saved {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok((saved, progress))
}

/// Deletes the keys of a bucket but its canary; of one tenant alone, if it is named.
async fn delete_keys(cx: &Context, bucket: Bucket, tenant: Option<&Token>) -> anyhow::Result<()> {
    let keys = bucket.subject(&format!("{}.>", tenant.map_or("*", Token::as_str)));
    let request = format!("STREAM.PURGE.{}", bucket.stream());
    let payload = json!({ "filter": keys });
    let asked = cx.nats.jetstream.request(request, &payload);
    match asked.await.with_context(|| format!("no answer about {}", bucket.stream()))? {
        Response::Ok::<Value>(_) => Ok(()),
        Response::Err { error } => bail!("cannot delete {keys}: {error}"),
    }
}
