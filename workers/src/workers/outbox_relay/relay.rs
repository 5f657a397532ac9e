//! What a relay holds, what it has under way and what is due next. All of this changes here only.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use super::{
    SHARDS, SHARES,
    batch::{self, Due, Outcome, Trouble},
    floor::{Floors, Sessions, Settling},
    tasks::{self, Done, Looked},
};
use crate::infra::{
    Context,
    health::Duty,
    lease::{self, Fitness, Held},
};

/// Large batches at once: while one is published another is read.
const BATCHES: u32 = 2;
/// Fewer events are a small batch: most of what it costs both servers it costs for being one.
const SMALL: usize = 100;
/// After a small batch the next one gathers what comes in this time. An event that comes after
/// a pause does not wait.
const GATHER: Duration = Duration::from_millis(10);
/// The relay looks again so soon after it had work, and after twice the time after each look in
/// vain. A wake usually comes first.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// The longest time without a look.
const LOOK_LATE: Duration = Duration::from_millis(500);
/// Between steps towards a settled number, while there is work. What is deleted in this time a
/// read may have to walk over.
const SETTLE: Duration = Duration::from_millis(100);
/// After something failed.
pub const PAUSE: Duration = Duration::from_millis(100);
/// For what is under way when a drain begins; what is not finished then is repeated by others.
const FINISH: Duration = Duration::from_secs(4);
/// For giving back, and for leaving Postgres. A whole process has 10 s to drain.
const LEAVE: Duration = Duration::from_secs(1);

/// The longest step of a batch: a read that has to walk, an acknowledgement, and as many single
/// ones where the stream refuses the batch.
const BATCH_HANGS: Duration = Duration::from_secs(120);

/// A set of shards, as in the payload of a wake.
pub type Mask = u16;

pub struct Relay {
    cx: Context,
    sessions: Sessions,
    tasks: JoinSet<Done>,
    rounds: Duty,
    looks: Duty,
    publishing: Duty,
    /// Whether what it publishes is stored.
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
    floors: Floors,
    look_after: Duration,
    /// When each is due again; `None` while it is under way.
    next_round: Option<Instant>,
    next_look: Option<Instant>,
    next_step: Option<Instant>,
    /// Not before.
    next_batch: Instant,
}

impl Relay {
    pub fn new(cx: Context) -> Self {
        let now = Instant::now();
        Self {
            sessions: Sessions::new(&cx.postgres),
            rounds: cx.health.duty("rounds"),
            looks: cx.health.duty_within("looks", BATCH_HANGS),
            publishing: cx.health.duty_within("publishing", BATCH_HANGS),
            fitness: Fitness::default(),
            cx,
            tasks: JoinSet::new(),
            held: None,
            due: 0,
            at_work: 0,
            batches: 0,
            small: true,
            floors: Floors::default(),
            look_after: LOOK_SOON,
            next_round: Some(now),
            next_look: Some(now),
            next_step: Some(now),
            next_batch: now,
        }
    }

    /// Resolves when a task has done its work; `None` when there is no task.
    pub async fn done(&mut self) -> Option<Result<Done, JoinError>> {
        self.tasks.join_next().await
    }

    /// A hint; anything else than a set of shards is none.
    pub fn wake(&mut self, payload: &Bytes) {
        let shards = str::from_utf8(payload).ok().and_then(|text| text.parse::<Mask>().ok());
        self.due |= shards.unwrap_or(0) & self.held();
    }

    /// Another relay comes, gives shards back or goes.
    pub fn shares_change(&mut self) {
        self.next_round = self.next_round.map(|_| Instant::now());
    }

    /// When something is due that no task and no message announces.
    pub fn next_by_time(&self) -> Instant {
        let batch = (self.ready() != 0 && self.batches < self.at_once()).then_some(self.next_batch);
        let step = self.next_step.filter(|_| self.floors.want_to_settle());
        let times = [self.next_round, self.next_look, step, batch];
        let far = || Instant::now() + LOOK_LATE;
        times.into_iter().flatten().min().unwrap_or_else(far)
    }

    pub fn start_what_is_due(&mut self) {
        let now = Instant::now();
        self.floors.begin_epoch(self.sessions.epoch());
        if self.batches == 0 {
            self.publishing.moved();
        }
        if self.next_round.is_some_and(|at| at <= now) {
            self.next_round = None;
            self.start_round();
        }
        if self.next_look.is_some_and(|at| at <= now) {
            self.next_look = None;
            self.start_look();
        }
        if self.floors.want_to_settle() && self.next_step.is_some_and(|at| at <= now) {
            self.next_step = None;
            self.start_step();
        }
        while self.batches < self.at_once() && self.ready() != 0 && self.next_batch <= now {
            self.start_batch();
        }
    }

    /// Takes in what a task has done.
    pub fn finish(&mut self, done: Done) {
        match done {
            Done::Round(held) => self.finish_round(held),
            Done::Look(looked) => self.finish_look(looked),
            Done::Step(settling) => self.finish_step(settling),
            Done::Batch(shards, outcome) => self.finish_batch(shards, outcome),
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
            tracing::warn!(worker = %self.cx.worker, "shards are not given back: they expire");
        }
        self.shards_gauge(0);
        tasks::announce(&self.cx).await;
        let _left = timeout(LEAVE, self.sessions.pool.close()).await;
    }

    fn start_round(&mut self) {
        let (cx, sessions, first) = (self.cx.clone(), self.sessions.clone(), self.held.is_none());
        let fit = self.fitness.is_fit() && !cx.nats.is_away();
        let round = async move { Done::Round(tasks::round(&cx, &sessions, first, fit).await) };
        self.tasks.spawn(round);
    }

    fn finish_round(&mut self, held: sqlx::Result<Held>) {
        let again = if self.postgres_is_back(&held) { lease::RENEW } else { PAUSE };
        self.next_round = Some(Instant::now() + again);
        self.rounds.went_round();
        if let Ok(held) = held {
            let held = held.shares.iter().fold(0, |mask, shard| mask | 1 << shard);
            if held == 0 && self.held() != 0 {
                tracing::warn!(worker = %self.cx.worker, "shards are left to other relays");
            }
            self.due = self.due & held | held & !self.held();
            self.held = Some(held);
            self.shards_gauge(held.count_ones());
            self.rounds.moved();
        }
    }

    fn start_look(&mut self) {
        let (sessions, settled) = (self.sessions.clone(), self.floors.settled);
        let at = self.held() & !self.due & !self.at_work;
        let due = self.dues(at);
        self.tasks
            .spawn(async move { Done::Look(tasks::look(&sessions, at, &due, settled).await) });
    }

    fn finish_look(&mut self, looked: sqlx::Result<Looked>) {
        if self.postgres_is_back(&looked) {
            self.look_after = (self.look_after * 2).min(LOOK_LATE);
        } else {
            self.look_after = PAUSE;
        }
        self.next_look = Some(Instant::now() + self.look_after);
        self.looks.went_round();
        let Ok(Looked { at, found, floor }) = looked else { return };
        // Shards at work now are read by their batch.
        self.due |= found & !self.at_work;
        for shard in shards_in(at & !found) {
            self.floors.of[shard].raise(floor);
        }
        self.looks.moved();
        if self.due | self.at_work == 0 {
            // Another relay may have done what this one could not.
            self.cx.health.back("stream");
        }
    }

    fn start_step(&mut self) {
        let (sessions, settling) = (self.sessions.clone(), self.floors.begin_step());
        self.tasks.spawn(async move { Done::Step(settling.step(&sessions).await) });
    }

    fn finish_step(&mut self, step: sqlx::Result<Settling>) {
        self.next_step = Some(Instant::now() + SETTLE);
        self.floors.stepped(step);
    }

    fn start_batch(&mut self) {
        // Of two, each has half of the shards.
        let most = self.held().count_ones().div_ceil(self.at_once()) as usize;
        let shards = shards_in(self.ready()).take(most).fold(0, |mask, shard| mask | 1 << shard);
        let due = self.dues(shards);
        self.due &= !shards;
        self.at_work |= shards;
        self.batches += 1;
        let (cx, sessions, settled) = (self.cx.clone(), self.sessions.clone(), self.floors.settled);
        self.tasks.spawn(async move {
            Done::Batch(shards, batch::relay(&cx, &sessions, &due, settled).await)
        });
    }

    fn finish_batch(&mut self, shards: Mask, outcome: Outcome) {
        let now = Instant::now();
        self.publishing.went_round();
        self.batches -= 1;
        self.at_work &= !shards;
        let more = outcome.shards.iter().any(|left| left.more);
        for left in outcome.shards {
            let shard = left.shard.unsigned_abs();
            self.floors.of[usize::from(shard)].raise(left.floor);
            self.due |= Mask::from(left.more) << shard;
        }
        let health = &self.cx.health;
        if outcome.relayed > 0 {
            self.small = outcome.relayed < SMALL && !more;
            if self.small {
                self.next_batch = self.next_batch.max(now + GATHER);
            }
            self.floors.deleted();
            self.look_after = LOOK_SOON;
            self.next_look = self.next_look.map(|at| at.min(now + LOOK_SOON));
            self.fitness.works();
            health.back("stream");
        }
        if let Some(trouble) = outcome.trouble {
            match trouble {
                Trouble::Postgres(why) => health.away("postgres", &why),
                Trouble::Stream(why) => {
                    health.away("stream", &why);
                    if outcome.relayed == 0 {
                        self.fitness.fails();
                    }
                }
            }
            // The look finds again what was not relayed.
            self.next_look = self.next_look.map(|at| at.min(now + PAUSE));
            self.look_after = LOOK_SOON;
            if outcome.relayed == 0 {
                self.next_batch = now + PAUSE;
            }
        } else {
            health.back("postgres");
            self.publishing.moved();
        }
    }

    /// Batches that may be under way.
    fn at_once(&self) -> u32 {
        if self.small { 1 } else { BATCHES }
    }

    fn held(&self) -> Mask {
        self.held.unwrap_or(0)
    }

    fn ready(&self) -> Mask {
        self.held() & self.due & !self.at_work
    }

    fn dues(&self, shards: Mask) -> Vec<Due> {
        let due = |shard: usize| Due { shard: shard as i16, floor: self.floors.of[shard] };
        shards_in(shards).map(due).collect()
    }

    fn postgres_is_back<T>(&self, done: &sqlx::Result<T>) -> bool {
        match done {
            Ok(_) => self.cx.health.back("postgres"),
            Err(error) => self.cx.health.away("postgres", &error.to_string()),
        }
        done.is_ok()
    }

    fn shards_gauge(&self, held: u32) {
        let worker = [self.cx.worker.as_str()];
        self.cx.metrics.outbox_shards.with_label_values(&worker).set(i64::from(held));
    }
}

fn shards_in(mask: Mask) -> impl Iterator<Item = usize> {
    (0..usize::from(SHARDS)).filter(move |shard| mask & 1 << shard != 0)
}
