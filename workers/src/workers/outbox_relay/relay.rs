//! The state of a relay: the shards that it holds, its tasks, and the times at which the next ones
//! are due. All of this changes here only.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use super::{
    batch::{self, BatchResult, RelayFailure, ShardRead},
    metrics::RelayMetrics,
    shards::{Mask, SHARES, mask, shards_in},
    tasks::{self, Probe, TaskResult},
    watermark::{RelaySessions, Settling, Watermarks},
};
use crate::infra::{
    Context,
    health::{Duty, POSTGRES},
    lease::{self, Fitness, HeldShares},
};

/// Large batches at once: while one is published another is read.
const BATCHES: u32 = 2;
/// Fewer events are a small batch: most of what it costs both servers it costs for being one.
const SMALL: usize = 100;
/// After a small batch the next one gathers what comes in this time. An event that comes after
/// a pause does not wait.
const GATHER: Duration = Duration::from_millis(10);
/// The relay probes its shards again so soon after it had work, and after twice the time after each
/// probe in vain. A wake usually comes first.
const PROBE_SOON: Duration = Duration::from_millis(50);
/// The longest time without a probe.
const PROBE_LATE: Duration = Duration::from_millis(500);
/// The time between steps towards a settled number, while there is work. A read may have to walk
/// over the rows that are deleted in this time.
const SETTLE: Duration = Duration::from_millis(100);
/// The time until a repetition after something failed.
const PAUSE: Duration = Duration::from_millis(100);
/// The time for the tasks under way when a drain begins; what is not finished is repeated by
/// others.
const FINISH: Duration = Duration::from_secs(4);
/// The time for giving shards back, and for closing sessions. A whole process has 10 s to drain.
const LEAVE: Duration = Duration::from_secs(1);

/// The longest step of a batch: a read that has to walk, an acknowledgement, and as many single
/// ones where the stream refuses the batch.
const BATCH_HANGS: Duration = Duration::from_secs(120);

pub struct Relay {
    cx: Context,
    metrics: Arc<RelayMetrics>,
    sessions: RelaySessions,
    tasks: JoinSet<TaskResult>,
    rounds: Duty,
    probes: Duty,
    publishing: Duty,
    /// Fails while nothing that it publishes is stored.
    fitness: Fitness,
    /// `None` before the first round.
    held: Option<Mask>,
    /// Shards that may have something to relay.
    due: Mask,
    /// Shards of which a batch is under way.
    at_work: Mask,
    batches: u32,
    /// The last batch was small: the next one is of all shards, and alone.
    small: bool,
    watermarks: Watermarks,
    probe_after: Duration,
    /// When each is due again; `None` while it is under way.
    next_round: Option<Instant>,
    next_probe: Option<Instant>,
    next_step: Option<Instant>,
    /// Not before.
    next_batch: Instant,
}

impl Relay {
    pub fn new(cx: Context) -> Self {
        let now = Instant::now();
        Self {
            sessions: RelaySessions::new(&cx),
            rounds: cx.health.duty("rounds"),
            probes: cx.health.duty_within("probes", BATCH_HANGS),
            publishing: cx.health.duty_within("publishing", BATCH_HANGS),
            fitness: Fitness::default(),
            metrics: cx.metrics.group(),
            cx,
            tasks: JoinSet::new(),
            held: None,
            due: 0,
            at_work: 0,
            batches: 0,
            small: true,
            watermarks: Watermarks::default(),
            probe_after: PROBE_SOON,
            next_round: Some(now),
            next_probe: Some(now),
            next_step: Some(now),
            next_batch: now,
        }
    }

    /// Resolves when a task has done its work; `None` when there is no task.
    pub async fn done(&mut self) -> Option<Result<TaskResult, JoinError>> {
        self.tasks.join_next().await
    }

    /// Takes in a wake, which is a hint: a payload that is no set of shards is ignored.
    pub fn wake(&mut self, payload: &Bytes) {
        let shards = str::from_utf8(payload).ok().and_then(|text| text.parse::<Mask>().ok());
        self.due |= shards.unwrap_or(0) & self.held();
    }

    /// Makes the next round due: another relay starts, gives shards back or stops.
    pub fn shares_change(&mut self) {
        self.next_round = self.next_round.map(|_| Instant::now());
    }

    /// Returns when something is due that no task and no message announces.
    pub fn next_by_time(&self) -> Instant {
        let batch = (self.ready() != 0 && self.batches < self.at_once()).then_some(self.next_batch);
        let step = self.next_step.filter(|_| self.watermarks.want_to_settle());
        let times = [self.next_round, self.next_probe, step, batch];
        let far = || Instant::now() + PROBE_LATE;
        times.into_iter().flatten().min().unwrap_or_else(far)
    }

    /// Starts the tasks that are due.
    pub fn start_what_is_due(&mut self) {
        let now = Instant::now();
        self.watermarks.begin_epoch(self.sessions.epoch());
        if self.batches == 0 {
            self.publishing.moved();
        }
        if self.next_round.is_some_and(|at| at <= now) {
            self.next_round = None;
            self.start_round();
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            self.next_probe = None;
            self.start_probe();
        }
        if self.watermarks.want_to_settle() && self.next_step.is_some_and(|at| at <= now) {
            self.next_step = None;
            self.start_step();
        }
        while self.batches < self.at_once() && self.ready() != 0 && self.next_batch <= now {
            self.start_batch();
        }
    }

    /// Takes in the result of a task.
    pub fn finish(&mut self, done: TaskResult) {
        match done {
            TaskResult::Round(held) => self.finish_round(held),
            TaskResult::Probe(probed) => self.finish_probe(probed),
            TaskResult::Step(settling) => self.finish_step(settling),
            TaskResult::Batch(shards, result) => self.finish_batch(shards, result),
        }
    }

    /// Finishes what is under way, then gives the shards back.
    pub async fn drain(mut self) {
        let finish = async {
            while let Some(done) = self.tasks.join_next().await {
                if let Ok(done) = done {
                    self.finish(done);
                }
            }
        };
        let _finished = timeout(FINISH, finish).await;
        self.tasks.shutdown().await;
        let give_back = SHARES.give_back(&self.sessions.pool, &self.cx.instance);
        if !matches!(timeout(LEAVE, give_back).await, Ok(Ok(()))) {
            tracing::warn!(worker = %self.cx.worker, "shards not given back: their leases expire");
        }
        self.shards_gauge(0);
        tasks::announce(&self.cx).await;
    }

    fn start_round(&mut self) {
        let (cx, sessions, first) = (self.cx.clone(), self.sessions.clone(), self.held.is_none());
        let fit = self.fitness.is_fit() && !cx.nats.is_away();
        let round =
            async move { TaskResult::Round(tasks::round(&cx, &sessions, first, fit).await) };
        self.tasks.spawn(round);
    }

    fn finish_round(&mut self, held: sqlx::Result<HeldShares>) {
        let again = if self.postgres_is_back(&held) { lease::RENEW } else { PAUSE };
        self.next_round = Some(Instant::now() + again);
        self.rounds.went_round();
        if let Ok(held) = held {
            let held = mask(held.shares.iter().map(|shard| shard.unsigned_abs().into()));
            if held == 0 && self.held() != 0 {
                let worker = self.cx.worker;
                tracing::warn!(%worker, "no shards held: other relays publish them");
            }
            self.due = self.due & held | held & !self.held();
            self.held = Some(held);
            self.shards_gauge(held.count_ones());
            self.rounds.moved();
        }
    }

    fn start_probe(&mut self) {
        let (sessions, settled) = (self.sessions.clone(), self.watermarks.settled);
        let at = self.held() & !self.due & !self.at_work;
        let due = self.dues(at);
        self.tasks.spawn(async move {
            TaskResult::Probe(tasks::probe(&sessions, at, &due, settled).await)
        });
    }

    fn finish_probe(&mut self, probed: sqlx::Result<Probe>) {
        if self.postgres_is_back(&probed) {
            self.probe_after = (self.probe_after * 2).min(PROBE_LATE);
        } else {
            self.probe_after = PAUSE;
        }
        self.next_probe = Some(Instant::now() + self.probe_after);
        self.probes.went_round();
        let Ok(Probe { at, found, watermark }) = probed else { return };
        // Shards at work now are read by their batch.
        self.due |= found & !self.at_work;
        for shard in shards_in(at & !found) {
            self.watermarks.of[shard].raise(watermark);
        }
        self.probes.moved();
        if self.due | self.at_work == 0 {
            // Another relay may have done what this one could not.
            self.cx.health.back("stream");
        }
    }

    fn start_step(&mut self) {
        let (sessions, settling) = (self.sessions.clone(), self.watermarks.begin_step());
        self.tasks.spawn(async move { TaskResult::Step(settling.step(&sessions).await) });
    }

    fn finish_step(&mut self, step: sqlx::Result<Settling>) {
        self.next_step = Some(Instant::now() + SETTLE);
        self.watermarks.stepped(step);
    }

    fn start_batch(&mut self) {
        // Of two, each has half of the shards.
        let most = self.held().count_ones().div_ceil(self.at_once()) as usize;
        let shards = mask(shards_in(self.ready()).take(most));
        let due = self.dues(shards);
        self.due &= !shards;
        self.at_work |= shards;
        self.batches += 1;
        let (cx, metrics) = (self.cx.clone(), self.metrics.clone());
        let (sessions, settled) = (self.sessions.clone(), self.watermarks.settled);
        self.tasks.spawn(async move {
            TaskResult::Batch(shards, batch::relay(&cx, &metrics, &sessions, &due, settled).await)
        });
    }

    fn finish_batch(&mut self, shards: Mask, result: BatchResult) {
        let now = Instant::now();
        self.publishing.went_round();
        self.batches -= 1;
        self.at_work &= !shards;
        let more = result.shards.iter().any(|left| left.more);
        for left in result.shards {
            let shard = left.shard.unsigned_abs();
            self.watermarks.of[usize::from(shard)].raise(left.watermark);
            self.due |= Mask::from(left.more) << shard;
        }
        let health = &self.cx.health;
        if result.relayed > 0 {
            self.small = result.relayed < SMALL && !more;
            if self.small {
                self.next_batch = self.next_batch.max(now + GATHER);
            }
            self.watermarks.deleted();
            self.probe_after = PROBE_SOON;
            self.next_probe = self.next_probe.map(|at| at.min(now + PROBE_SOON));
            self.fitness.works();
            health.back("stream");
        }
        if let Some(failure) = result.failure {
            match failure {
                RelayFailure::Postgres(why) => health.away(POSTGRES, &why),
                RelayFailure::Stream(why) => {
                    health.away("stream", &why);
                    if result.relayed == 0 {
                        self.fitness.fails();
                    }
                }
            }
            // The next probe finds again what was not relayed.
            self.next_probe = self.next_probe.map(|at| at.min(now + PAUSE));
            self.probe_after = PROBE_SOON;
            if result.relayed == 0 {
                self.next_batch = now + PAUSE;
            }
        } else {
            health.back(POSTGRES);
            self.publishing.moved();
        }
    }

    /// Returns how many batches may be under way.
    fn at_once(&self) -> u32 {
        if self.small { 1 } else { BATCHES }
    }

    fn held(&self) -> Mask {
        self.held.unwrap_or(0)
    }

    fn ready(&self) -> Mask {
        self.held() & self.due & !self.at_work
    }

    fn dues(&self, shards: Mask) -> Vec<ShardRead> {
        let due =
            |shard: usize| ShardRead { shard: shard as i16, watermark: self.watermarks.of[shard] };
        shards_in(shards).map(due).collect()
    }

    fn postgres_is_back<T>(&self, done: &sqlx::Result<T>) -> bool {
        match done {
            Ok(_) => self.cx.health.back(POSTGRES),
            Err(error) => self.cx.health.away(POSTGRES, &error.to_string()),
        }
        done.is_ok()
    }

    fn shards_gauge(&self, held: u32) {
        let worker = [self.cx.worker.as_str()];
        self.metrics.shards.with_label_values(&worker).set(i64::from(held));
    }
}
