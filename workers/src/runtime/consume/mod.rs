//! The one loop that takes messages, hands them to a worker and settles them.
//!
//! A batch is what is there, never waited for: while others are at work, the next one fills up,
//! which makes batches large under load and small without. Beside a small one no other is begun:
//! that would make them smaller still, and dearer for the servers. While messages are in hand, the
//! server is told so. When a batch panics, each of its messages gets a try of its own.

mod attempts;
mod queues;
mod receive;
mod settle;
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
    attempts::Attempts,
    queues::Queues,
    work::{Left, refuse, work},
};
use super::{Context, Delivery, Verdict, delivery::Origin};

pub use self::queues::ALONE_FROM;

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

/// The right to be the batch that others wait for.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit,
);

/// Why a request is not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait already.
    Busy,
    /// The worker panicked over it.
    Panicked,
}

/// What a worker consumes.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The worker's durable consumer of this stream.
    Stream(&'static str),
    /// Core requests, shared by all instances of the worker.
    Requests(&'static str),
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
    deliveries: Arc<Vec<Delivery>>,
    since: Instant,
}

impl AtWork {
    /// Whether no other is begun beside it. One that takes long is held up, and holds up nobody.
    fn is_small(&self) -> bool {
        self.deliveries.len() < SMALL && self.since.elapsed() < HEARTBEAT
    }
}

/// Consumes until the worker has drained.
///
/// # Errors
/// Where the worker cannot use NATS at all.
pub async fn consume<H: Handler>(
    cx: &Context,
    sources: &[Source],
    handler: H,
) -> anyhow::Result<()> {
    let duty = cx.health.duty("messages");
    let (sender, mut received) = mpsc::channel(HANDFULS);
    let intake = cx.nats.intake();
    let opened = Arc::new(Semaphore::new(0));
    let mut receivers = Vec::new();
    for (number, source) in sources.iter().copied().enumerate() {
        let (intake, sender, opened) = (intake.clone(), sender.clone(), opened.clone());
        let task =
            tokio::spawn(receive::receive(cx.clone(), intake, source, number, sender, opened));
        receivers.push(AbortOnDropHandle::new(task));
    }
    drop((sender, intake));
    let attempts = Arc::new(Attempts::open(cx).await?);
    let handler = Arc::new(handler);
    let mut queues = Queues::new(sources.len());
    let mut at_work: Vec<AtWork> = Vec::with_capacity(H::AT_ONCE);
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
    loop {
        if at_work.len() < H::AT_ONCE
            && !at_work.iter().any(AtWork::is_small)
            && turn.is_some()
            && let Some(batch) = queues.next()
            && let Some(turn) = turn.take()
        {
            let (alone, deliveries) = (batch.alone, Arc::new(batch.deliveries));
            let attempts = alone.then(|| attempts.clone());
            let work = work(cx.clone(), handler.clone(), deliveries.clone(), attempts, turn);
            let task = tasks.spawn(work).id();
            at_work.push(AtWork { task, alone, deliveries, since: Instant::now() });
        }
        gauge.set(i64::try_from(queues.len()).unwrap_or(i64::MAX));
        if !open && at_work.is_empty() && queues.is_empty() {
            return Ok(());
        }
        tokio::select! {
            deliveries = received.recv(), if open => match deliveries {
                Some(deliveries) => for delivery in deliveries {
                    if delivery.deliveries() > 1 {
                        redelivered.inc();
                    }
                    if let Err(delivery) = queues.push(delivery) {
                        refuse(&*handler, &delivery, Refused::Busy).await;
                    }
                },
                None => open = false,
            },
            Some(done) = tasks.join_next_with_id() => {
                let (task, left) = done?;
                let at = at_work.iter().position(|work| work.task == task);
                let alone = at.is_some_and(|at| at_work.swap_remove(at).alone);
                match left {
                    Left::Nothing => {}
                    Left::Away(deliveries) => queues.keep(deliveries, alone),
                    Left::Panicked(deliveries) => queues.separate(deliveries),
                }
            }
            permit = turns.clone().acquire_owned(), if turn.is_none() => turn = Some(Turn(permit?)),
            _ = opened.acquire_many(all), if !ready => {
                ready = true;
                duty.moved();
            }
            _ = heartbeat.tick() => {
                // Without a connection nothing is sent, and the loop must not wait for one.
                let alive = keep_alive(cx, &queues, &at_work);
                let _late = timeout(HEARTBEAT / 2, alive).await;
                let take = |limit| at_work.iter().all(|work| work.since.elapsed() < limit);
                if ready && take(DRAIN_LIMIT) {
                    duty.moved();
                } else if take(BATCH_HANGS) {
                    duty.went_round();
                }
                if cx.drain.is_cancelled() {
                    let until = *drain_until.get_or_insert(Instant::now() + DRAIN_LIMIT);
                    if Instant::now() > until {
                        let _late = timeout(HEARTBEAT, give_back(cx, &queues)).await;
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Tells the server that messages are still in hand, before their `ack_wait` is over.
async fn keep_alive(cx: &Context, queues: &Queues, at_work: &[AtWork]) {
    let at_work = at_work.iter().flat_map(|work| work.deliveries.iter());
    let mut in_hand: Vec<_> = queues.iter().chain(at_work).cloned().collect();
    in_hand.retain(|delivery| delivery.received.elapsed() >= HEARTBEAT / 2);
    for delivery in &in_hand {
        settle::send(cx, delivery, "+WPI").await;
    }
}

/// Gives back what could not be finished, so that others have it at once.
async fn give_back(cx: &Context, queues: &Queues) {
    let waiting: Vec<_> = queues.iter().cloned().collect();
    for delivery in &waiting {
        settle::send(cx, delivery, "-NAK").await;
    }
    let _flushed = cx.nats.client.flush().await;
}

/// Whether anybody but the sender waits for a message to be settled.
fn is_stored(delivery: &Delivery) -> bool {
    delivery.origin != Origin::Request
}
