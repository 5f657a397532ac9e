//! Overtaking: the commands of other tenants do not wait behind a flood that one tenant has put
//! into `COMMANDS`.
//!
//! The stream has one consumer that all tenants share, first in, first out. While it has a backlog,
//! or so many of its messages wait for their next try that it may soon deliver nothing new, another
//! consumer delivers the commands of all tenants but the **heavy** ones, who cause that backlog. It
//! begins near the position of the shared one. If it gets a backlog of its own, a third one
//! overtakes it, and so on: each is a lane beside the one before it, and a batch takes equal shares
//! of all lanes.
//!
//! A command that was decided ahead of its turn is delivered by the shared consumer later, found in
//! the inbox and acknowledged. The floor of the shared one alone tells which commands are decided:
//! a command that an overtaking lane has tried in vain is left to it, with its last try and its
//! dead letter.
//!
//! One command-handler makes and deletes the consumers, by a lease. It keeps no state: the names of
//! the heavy tenants are in the consumer's metadata. A lane that outlives its purpose, is missing
//! or was deleted by hand costs nothing but time.

mod consumer;
mod plan;

use std::{sync::Arc, time::Duration};

use prometheus::IntGauge;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::{
    consumer::ConsumerState,
    plan::{LaneStep, MAX_TENANTS, next_step},
};
use super::tenants::KnownTenants;
use crate::{
    infra::{
        Context, Lease,
        lease::{self, Fitness},
    },
    runtime::consume::Lane,
};

const LEASE: &str = "command-handler.overtaking";
/// A lane is deleted when there was nothing to overtake for this long.
const CALM: Duration = Duration::from_secs(2);

/// Makes and deletes the overtaking consumers, under the lease, until the drain. `gauge` shows how
/// many there are.
pub async fn keep(cx: Context, lanes: Vec<Arc<Lane>>, tenants: Arc<KnownTenants>, gauge: IntGauge) {
    let mut tick = interval(lease::RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let duty = cx.health.duty("overtaking");
    let mut fitness = Fitness::default();
    let mut monitors = vec![LaneMonitor::default(); lanes.len() - 1];
    let mut is_alert = true;
    loop {
        tokio::select! {
            _ = tick.tick() => is_alert = false,
            // At once when a backlog begins.
            () = lanes[0].backlogged(), if !is_alert => is_alert = true,
            () = cx.drain.cancelled() => return,
        }
        // Other duties report a Postgres that is away.
        duty.moved();
        if !Lease::hold(&cx, LEASE, &fitness).await.unwrap_or(false) {
            monitors.fill(LaneMonitor::default());
            gauge.set(0);
            continue;
        }
        match (Round { cx: &cx, lanes: &lanes, tenants: &tenants }).run(&mut monitors).await {
            Ok(()) => fitness.works(),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(worker = %cx.worker, error, "cannot look after the overtaking lanes");
                fitness.fails();
            }
        }
        let existing = monitors.iter().filter(|monitor| monitor.exists == Some(true)).count();
        gauge.set(i64::try_from(existing).unwrap_or(i64::MAX));
    }
}

/// The memory of the lease holder about an overtaking consumer.
#[derive(Clone, Default)]
struct LaneMonitor {
    /// The consumer exists; a new holder cannot know.
    exists: Option<bool>,
    /// The time since when there is nothing to overtake.
    calm_since: Option<Instant>,
    /// The creation time of the consumer, and since when it is known.
    known: Option<(String, Instant)>,
}

impl LaneMonitor {
    fn observe(&mut self, consumer: Option<&ConsumerState>, is_backlogged: bool) {
        self.exists = Some(consumer.is_some());
        self.calm_since = (!is_backlogged).then(|| self.calm_since.unwrap_or_else(Instant::now));
        self.known = consumer.map(|consumer| match self.known.take() {
            Some((created, since)) if created == consumer.created => (created, since),
            _ => (consumer.created.clone(), Instant::now()),
        });
    }

    fn is_calm(&self) -> bool {
        self.calm_since.is_some_and(|since| since.elapsed() >= CALM)
    }

    /// Returns the time for which the consumer is known to be unchanged.
    fn age(&self) -> Duration {
        self.known.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}

/// One look at each lane.
struct Round<'a> {
    cx: &'a Context,
    lanes: &'a [Arc<Lane>],
    tenants: &'a KnownTenants,
}

impl Round<'_> {
    /// Looks at each lane once, with its monitor. Ends with the first lane that it changes.
    async fn run(&self, monitors: &mut [LaneMonitor]) -> anyhow::Result<()> {
        let nats = &self.cx.nats;
        let mut below = consumer::look_up(nats, self.lanes[0].durable).await?;
        let mut listed = None;
        for (pair, monitor) in self.lanes.windows(2).zip(monitors) {
            let [lane_below, lane] = pair else { continue };
            let overtaken = below.take().filter(ConsumerState::is_overtaken);
            let above = if overtaken.is_some() || monitor.exists != Some(false) {
                consumer::look_up(nats, lane.durable).await?
            } else {
                None
            };
            monitor.observe(above.as_ref(), overtaken.is_some());
            let step = match &overtaken {
                Some(below) => {
                    if listed.is_none() {
                        listed = Some(self.tenants.list(&self.cx.postgres, 2 * MAX_TENANTS).await?);
                    }
                    let listed = listed.as_deref().unwrap_or_default();
                    let recent = if below.is_stalled() {
                        lane_below.redelivered()
                    } else {
                        lane_below.recent()
                    };
                    next_step(below, above.as_ref(), monitor.age(), &recent, listed)
                }
                None if above.is_some() && monitor.is_calm() => LaneStep::Delete,
                None => LaneStep::Leave,
            };
            if step == LaneStep::Leave {
                below = above;
                continue;
            }
            monitor.exists = matches!(step, LaneStep::Make { .. }).then_some(true);
            return self.carry_out(step, lane, overtaken.as_ref(), above.is_some()).await;
        }
        Ok(())
    }

    /// Makes or deletes the consumer of a lane.
    async fn carry_out(
        &self,
        step: LaneStep,
        lane: &Lane,
        overtaken: Option<&ConsumerState>,
        exists: bool,
    ) -> anyhow::Result<()> {
        let (cx, consumer) = (self.cx, lane.durable);
        match step {
            LaneStep::Leave => Ok(()),
            LaneStep::Make { tenants, heavy } => {
                let start = overtaken.map_or(1, ConsumerState::start_above);
                tracing::info!(
                    worker = %cx.worker, consumer, ?heavy, tenants = tenants.len(), start,
                    "makes a consumer by which tenants overtake the heavy ones"
                );
                if exists {
                    consumer::delete(&cx.nats, consumer).await?;
                }
                consumer::make(cx, consumer, &tenants, &heavy, start).await
            }
            LaneStep::Delete => {
                tracing::info!(
                    worker = %cx.worker, consumer, "deletes a consumer: nothing to overtake"
                );
                consumer::delete(&cx.nats, consumer).await
            }
        }
    }
}
