//! The one loop that takes messages, hands them to a worker and settles them.
//!
//! A batch is what is there, never waited for: while others are at work, the next one fills up,
//! which makes batches large under load and small without. Beside a small one no other is begun:
//! that would make them smaller still, and dearer for the servers. While messages are in hand, the
//! server is told so. When a batch panics, each of its messages gets a try of its own.
//!
//! Within a source tenants are served in turn, and each has a most of requests that may wait. What
//! is handled alone and what waits for somebody else's lock have room of their own.
//!
//! Where a consumer has a backlog, others may deliver ahead what is of other tenants ([`Lane`]).
//! Such a message is done, or left to the consumer that delivers it too: that one alone has its
//! last try and buries it. Batches are small meanwhile.

mod aside;
mod attempts;
mod given_back;
mod lane;
mod queues;
mod receive;
mod settle;
mod shares;
mod work;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{self, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    aside::Aside,
    attempts::Attempts,
    given_back::GivenBack,
    queues::{Batch, Full, Queues},
    settle::Retried,
    work::{Left, refuse, work},
};
use super::{Delivery, Verdict, delivery::Origin};
use crate::infra::{Context, health::Duty, intake::IntakeKind};

pub use self::{
    aside::REQUEST_WAITS,
    lane::{BACKLOG, Lane},
    queues::ALONE_FROM,
    shares::{OfTenant, Shares},
};

/// A worker that consumes.
pub trait Handler: Send + Sync + 'static {
    /// Batches that may be at work at once, of which one has the turn; beside a small one none.
    const AT_ONCE: usize = 1;

    /// What a message says. Decoded anew for every try.
    type Message: Send;

    /// # Errors
    /// Why the message can never be understood; it becomes a dead letter.
    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String>;

    /// Handles a batch: one verdict a message, in the same order. The next batch may be taken when
    /// `turn` is dropped, at the end at the latest.
    fn handle(
        &self,
        batch: Vec<Self::Message>,
        turn: Turn,
    ) -> impl Future<Output = Vec<Verdict>> + Send;

    /// Whether somebody else still has locked what a [`Verdict::Held`] named. Asked often.
    fn is_locked(&self, _key: &str) -> bool {
        false
    }

    /// A request that will not be handled, so that its sender need not wait in vain.
    fn refuse(&self, _request: &Delivery, _why: Refused) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Whether a message that has failed its number of tries was done after all, so that it is
    /// acknowledged instead of dead-lettered.
    ///
    /// # Errors
    /// Where that cannot be told now; the message is then kept.
    fn is_done(&self, _delivery: &Delivery) -> impl Future<Output = anyhow::Result<bool>> + Send {
        std::future::ready(Ok(false))
    }
}

/// The right to be the batch that others wait for; what was put aside is handled without it.
#[derive(Debug)]
pub struct Turn(Option<OwnedSemaphorePermit>);

impl Turn {
    /// Whether nobody waits for this batch.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.0.is_none()
    }
}

/// Why a request is not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait already.
    Busy,
    /// Too many of its tenant wait already.
    TooMany,
    /// The worker panicked over it.
    Panicked,
    /// The worker ends while somebody else has locked what it needs.
    Drained,
}

/// What a worker consumes.
#[derive(Clone, Debug)]
pub enum Source {
    /// The worker's durable consumer of this stream.
    Stream(&'static str),
    /// This consumer.
    Lane(Arc<Lane>),
    /// Core requests, shared by all instances of the worker.
    Requests(&'static str),
}

impl Source {
    fn intake_kind(&self) -> IntakeKind {
        match self {
            Self::Requests(_) => IntakeKind::Requests,
            Self::Stream(_) | Self::Lane(_) => IntakeKind::Stored,
        }
    }
}

/// Most messages in one batch.
pub const MAX_BATCH: usize = 256;
/// Most handfuls of messages on their way to the loop, each of what came together.
const HANDFULS: usize = 16;
/// A batch of fewer is small: most of what it costs it costs for being a batch.
const SMALL: usize = 32;
/// Most messages of a stream in hand: two batches at work and one waiting.
const MAX_IN_HAND: usize = 3 * MAX_BATCH;
/// Most requests that may wait; more are refused as `busy`.
const MAX_WAITING: usize = 10_000;
/// Most of them of one tenant; more are refused as `too_many`.
const MAX_WAITING_OF_TENANT: usize = MAX_WAITING / 4;
/// The shortest `ack_wait` in the topology, which a test of the conformance suite holds.
pub const ACK_WAIT: Duration = Duration::from_millis(1500);
/// Three signs of life fit into the time after which the server gives a message away.
const HEARTBEAT: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 3);
/// A drain gives back what it has not finished by then, below the 10 s that a process has.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// A batch that takes longer hangs: patience with either server is over long before.
const BATCH_HANGS: Duration = Duration::from_secs(60);

/// A batch at work: its messages stay known to the loop, for the signs of life.
struct AtWork {
    task: task::Id,
    alone: bool,
    beside: bool,
    deliveries: Arc<Vec<Delivery>>,
    since: Instant,
}

impl AtWork {
    /// Whether no other is begun beside it. One that takes long is held up, and holds up nobody.
    fn is_small(&self) -> bool {
        !self.beside && self.deliveries.len() < SMALL && self.since.elapsed() < HEARTBEAT
    }
}

/// What is in hand: what waits, what is put aside and what is at work.
struct InHand {
    queues: Queues,
    aside: Aside,
    at_work: Vec<AtWork>,
}

impl InHand {
    fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.at_work.is_empty()
    }

    /// How many no batch has taken.
    fn waiting(&self) -> usize {
        self.queues.len() + self.aside.len()
    }

    fn iter_waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.queues.iter().chain(self.aside.iter())
    }

    /// Whether another batch may begin.
    fn has_room(&self, at_once: usize) -> bool {
        self.at_work.iter().filter(|work| !work.beside).count() < at_once
            && !self.at_work.iter().any(AtWork::is_small)
    }

    /// Whether what was put aside is being tried.
    fn is_beside(&self) -> bool {
        self.at_work.iter().any(|work| work.beside)
    }
}

/// Consumes until the worker has drained. A worker that has other duties begins this one before
/// them: else it is ready as soon as they move, and nobody listens yet.
///
/// # Errors
/// Where the worker cannot use NATS at all.
pub async fn consume<H: Handler>(
    cx: &Context,
    duty: Duty,
    sources: &[Source],
    handler: H,
) -> anyhow::Result<()> {
    let (sender, mut received) = mpsc::channel(HANDFULS);
    let (mut requests, mut stored) = (None, None);
    let opened = Arc::new(Semaphore::new(0));
    let mut receivers = Vec::new();
    for (number, source) in sources.iter().cloned().enumerate() {
        let kind = source.intake_kind();
        let intake = if kind == IntakeKind::Stored { &mut stored } else { &mut requests };
        let intake = intake.get_or_insert_with(|| cx.nats.intake(kind)).clone();
        let (sender, opened) = (sender.clone(), opened.clone());
        let task =
            tokio::spawn(receive::receive(cx.clone(), intake, source, number, sender, opened));
        receivers.push(AbortOnDropHandle::new(task));
    }
    drop((sender, requests, stored));
    let attempts = Arc::new(Attempts::open(cx).await?);
    let handler = Arc::new(handler);
    let mut hand = InHand {
        queues: Queues::new(sources.len()),
        aside: Aside::default(),
        at_work: Vec::with_capacity(H::AT_ONCE + 1),
    };
    let mut given_back = GivenBack::default();
    let mut retried = Retried::default();
    let turns = Arc::new(Semaphore::new(1));
    let mut turn = None;
    let mut tasks = JoinSet::new();
    let mut open = true;
    let mut ready = false;
    let all = u32::try_from(sources.len())?;
    let mut drain_until = None;
    let redelivered = cx.metrics.redelivered.with_label_values(&[cx.worker.as_str()]);
    let gauge = cx.metrics.waiting.with_label_values(&[cx.worker.as_str()]);
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut look_aside = interval(aside::PAUSE);
    look_aside.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        if turn.is_some()
            && hand.has_room(H::AT_ONCE)
            && let Some(batch) = hand.queues.next()
            && let Some(turn) = turn.take()
        {
            hand.at_work.push(begin(cx, &handler, &attempts, &mut tasks, batch, turn));
        }
        gauge.set(i64::try_from(hand.waiting()).unwrap_or(i64::MAX));
        if !open && hand.is_empty() {
            return Ok(());
        }
        tokio::select! {
            deliveries = received.recv(), if open => match deliveries {
                Some(deliveries) => for delivery in deliveries {
                    if delivery.deliveries() > 1 {
                        redelivered.inc();
                    }
                    if delivery.overtakes {
                        cx.metrics.commands_overtaking.inc();
                    }
                    if let Err((full, delivery)) = hand.queues.push(delivery) {
                        turn_away(cx, &*handler, &delivery, full, &mut given_back).await;
                    }
                },
                None => open = false,
            },
            Some(done) = tasks.join_next_with_id() => {
                let (task, left) = done?;
                let at = hand.at_work.iter().position(|work| work.task == task);
                let alone = at.is_some_and(|at| hand.at_work.swap_remove(at).alone);
                hand.queues.keep(left.away, alone);
                retried.add(left.retried);
                let (overtaking, panicked): (Vec<_>, _) =
                    left.panicked.into_iter().partition(|delivery| delivery.overtakes);
                for delivery in overtaking {
                    settle::leave(cx, &delivery).await;
                }
                hand.queues.separate(panicked);
                for (delivery, key) in left.aside {
                    if let Err(delivery) = hand.aside.push(delivery, key) {
                        turn_away(cx, &*handler, &delivery, Full::Source, &mut given_back).await;
                    }
                }
            }
            permit = turns.clone().acquire_owned(), if turn.is_none() => {
                turn = Some(Turn(Some(permit?)));
            }
            _ = opened.acquire_many(all), if !ready => {
                ready = true;
                duty.moved();
            }
            _ = look_aside.tick(), if hand.aside.len() > 0 && !hand.is_beside() => {
                if let Some(batch) = hand.aside.next(|key| handler.is_locked(key)) {
                    let beside = Turn(None);
                    hand.at_work.push(begin(cx, &handler, &attempts, &mut tasks, batch, beside));
                }
            }
            _ = heartbeat.tick() => {
                // Without a connection nothing is sent, and the loop must not wait for one.
                let alive = keep_alive(cx, &hand);
                let _late = timeout(HEARTBEAT / 2, alive).await;
                retried.tell(cx);
                let take = |limit| hand.at_work.iter().all(|work| work.since.elapsed() < limit);
                if ready && take(DRAIN_LIMIT) {
                    duty.moved();
                } else if take(BATCH_HANGS) {
                    duty.went_round();
                }
                if cx.drain.is_cancelled() {
                    // Whoever has it locked may have it for long.
                    for delivery in hand.aside.take() {
                        turn_away(cx, &*handler, &delivery, Full::Drained, &mut given_back).await;
                    }
                    let until = *drain_until.get_or_insert(Instant::now() + DRAIN_LIMIT);
                    if Instant::now() > until {
                        let _late = timeout(HEARTBEAT, give_back(cx, &hand, &attempts)).await;
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Sets a batch to work.
fn begin<H: Handler>(
    cx: &Context,
    handler: &Arc<H>,
    attempts: &Arc<Attempts>,
    tasks: &mut JoinSet<Left>,
    batch: Batch,
    turn: Turn,
) -> AtWork {
    let (alone, beside) = (batch.alone, turn.is_beside());
    let deliveries = Arc::new(batch.deliveries);
    let attempts = alone.then(|| attempts.clone());
    let work = work(cx.clone(), handler.clone(), deliveries.clone(), attempts, turn);
    let task = tasks.spawn(work).id();
    AtWork { task, alone, beside, deliveries, since: Instant::now() }
}

/// Does not take a message: a request is refused, a stored message is given back.
async fn turn_away<H: Handler>(
    cx: &Context,
    handler: &H,
    delivery: &Delivery,
    full: Full,
    given_back: &mut GivenBack,
) {
    if is_stored(delivery) {
        let delay = match full {
            Full::Drained => Duration::ZERO,
            _ => given_back.delay(delivery.tenant(), Instant::now()),
        };
        return settle::nak(cx, delivery, delay).await;
    }
    let why = match full {
        Full::Source | Full::Alone => Refused::Busy,
        Full::Tenant => Refused::TooMany,
        Full::Drained => Refused::Drained,
    };
    refuse(handler, delivery, why).await;
}

/// Tells the server that messages are still in hand, before their `ack_wait` is over.
async fn keep_alive(cx: &Context, hand: &InHand) {
    let at_work = hand.at_work.iter().flat_map(|work| work.deliveries.iter());
    let mut in_hand: Vec<_> = hand.iter_waiting().chain(at_work).cloned().collect();
    in_hand.retain(|delivery| delivery.received.elapsed() >= HEARTBEAT / 2);
    for delivery in &in_hand {
        settle::send(cx, delivery, "+WPI").await;
    }
}

/// Gives back what could not be finished, so that others have it at once. A try that is broken off
/// did not fail.
async fn give_back(cx: &Context, hand: &InHand, attempts: &Attempts) {
    let waiting: Vec<_> = hand.iter_waiting().cloned().collect();
    for delivery in &waiting {
        settle::send(cx, delivery, "-NAK").await;
    }
    let alone = hand.at_work.iter().filter(|work| work.alone);
    for delivery in alone.flat_map(|work| work.deliveries.iter()) {
        attempts.take_back(cx, delivery).await;
    }
    let _flushed = cx.nats.client.flush().await;
}

/// Whether anybody but the sender waits for a message to be settled.
fn is_stored(delivery: &Delivery) -> bool {
    delivery.origin != Origin::Request
}
