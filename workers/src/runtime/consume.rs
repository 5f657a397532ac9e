//! The one loop that takes messages, hands them to a worker and settles them.
//!
//! Messages wait in one queue a source, so that a batch can be made up fairly from all of them.
//! A batch is what is there, never waited for. While messages are in hand, the server is told
//! so; when one batch panics or a message keeps failing, its messages are handled alone.

use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    consumer::{PullConsumer, pull},
    response::Response,
};
use brigade_contracts::topology::Topology;
use futures::{FutureExt, StreamExt, future::join_all};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Context, Delivery, Verdict,
    dead_letter::bury,
    delivery::Origin,
    verdict::{Settlement, settlement},
};

/// A worker that consumes.
pub trait Handler: Send + Sync + 'static {
    /// What a message says. Decoded anew for every try.
    type Message: Send;

    /// # Errors
    /// Why the message can never be understood; it becomes a dead letter.
    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String>;

    /// Handles a batch: one verdict a message, in the same order.
    fn handle(&self, batch: Vec<Self::Message>) -> impl Future<Output = Vec<Verdict>> + Send;

    /// A request that will not be handled, so that its sender need not wait in vain.
    fn refuse(&self, _request: &Delivery, _why: Refused) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

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
/// Most messages of a stream in hand: one batch at work and one waiting.
const MAX_IN_HAND: usize = 2 * MAX_BATCH;
/// Most requests that may wait; more are refused as `busy`.
const MAX_WAITING: usize = 10_000;
/// How long one pull stays open. A drain waits for it, so that nothing that the server has
/// already sent is lost and delivered again.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// The shortest `ack_wait` in the topology.
const ACK_WAIT: Duration = Duration::from_millis(1500);
/// Three signs of life fit into the time after which the server gives a message away.
const HEARTBEAT: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 3);
/// Pause after a dependency was found away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// A drain gives back what it has not finished by then, below the 10 s that a process has.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// A batch at work: its messages stay known to the loop, for the signs of life.
struct Batch {
    number: u64,
    source: usize,
    deliveries: Arc<Vec<Delivery>>,
    started: Instant,
}

/// Messages of one source that wait.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Delivery>,
    /// Messages to be handled one by one, because a batch of theirs panicked.
    alone: VecDeque<Delivery>,
    /// Until when nothing is taken, because a dependency is away.
    paused_until: Option<Instant>,
}

/// Consumes until the worker has drained.
///
/// # Errors
/// Where a source cannot be opened at all.
pub async fn consume<H: Handler>(
    cx: &Context,
    sources: &[Source],
    handler: H,
) -> anyhow::Result<()> {
    let (sender, mut received) = mpsc::channel(MAX_BATCH);
    let mut receivers = Vec::new();
    for (index, source) in sources.iter().copied().enumerate() {
        let (cx, sender) = (cx.clone(), sender.clone());
        receivers.push(AbortOnDropHandle::new(tokio::spawn(async move {
            match source {
                Source::Stream(stream) => pull_from(&cx, stream, index, &sender).await,
                Source::Requests(subject) => listen_to(&cx, subject, index, &sender).await,
            }
        })));
    }
    drop(sender);
    let handler = Arc::new(handler);
    let mut queues: Vec<Queue> = sources.iter().map(|_| Queue::default()).collect();
    let mut at_work: Vec<Batch> = Vec::new();
    let mut tasks = JoinSet::new();
    let mut next_number = 0;
    let mut open = true;
    let mut drain_until = None;
    let gauge = cx.metrics.waiting.with_label_values(&[cx.worker.as_str()]);
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        // One batch at a time a worker: the next one fills up meanwhile, which is what makes
        // batches large under load and small without.
        if tasks.is_empty()
            && let Some((source, deliveries)) = next_batch(&mut queues)
        {
            let batch = Batch {
                number: next_number,
                source,
                deliveries: Arc::new(deliveries),
                started: Instant::now(),
            };
            next_number += 1;
            tasks.spawn(work(cx.clone(), handler.clone(), batch.number, batch.deliveries.clone()));
            at_work.push(batch);
        }
        gauge.set(queues.iter().map(Queue::len).sum());
        let idle = tasks.is_empty() && queues.iter().all(Queue::is_empty);
        if !open && idle {
            return Ok(());
        }
        tokio::select! {
            delivery = received.recv(), if open => match delivery {
                Some((source, delivery)) => {
                    let queue: &mut Queue = &mut queues[source];
                    if queue.waiting.len() < MAX_WAITING {
                        queue.waiting.push_back(delivery);
                    } else {
                        handler.refuse(&delivery, Refused::Busy).await;
                    }
                }
                None => open = false,
            },
            Some(done) = tasks.join_next() => {
                let (number, left) = done?;
                let at = at_work.iter().position(|batch| batch.number == number);
                let batch = at.map(|at| at_work.swap_remove(at));
                if let Some(batch) = batch {
                    queues[batch.source].put_back(left);
                }
                cx.health.moved();
            }
            _ = heartbeat.tick() => {
                keep_alive(cx, &queues, &at_work).await;
                if at_work.iter().all(|batch| batch.started.elapsed() < DRAIN_LIMIT) {
                    cx.health.moved();
                }
                if cx.drain.is_cancelled() {
                    let until = *drain_until.get_or_insert(Instant::now() + DRAIN_LIMIT);
                    if Instant::now() > until {
                        give_back(&queues, cx).await;
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Queue {
    fn len(&self) -> i64 {
        i64::try_from(self.waiting.len() + self.alone.len()).unwrap_or(i64::MAX)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.alone.is_empty()
    }

    fn is_paused(&self) -> bool {
        self.paused_until.is_some_and(|until| until > Instant::now())
    }

    fn put_back(&mut self, left: Left) {
        match left {
            Left::Nothing => self.paused_until = None,
            Left::Away(deliveries) => {
                self.paused_until = Some(Instant::now() + AWAY_PAUSE);
                for delivery in deliveries.into_iter().rev() {
                    self.waiting.push_front(delivery);
                }
            }
            Left::Panicked(deliveries) => self.alone.extend(deliveries),
        }
    }
}

/// The next batch: up to [`MAX_BATCH`], from all sources that have work, in equal shares.
fn next_batch(queues: &mut [Queue]) -> Option<(usize, Vec<Delivery>)> {
    let ready = |queue: &Queue| !queue.is_empty() && !queue.is_paused();
    let source = queues.iter().position(|queue| ready(queue) && !queue.alone.is_empty());
    if let Some(source) = source {
        return queues[source].alone.pop_front().map(|delivery| (source, vec![delivery]));
    }
    let source = queues.iter().position(ready)?;
    let count = queues[source].waiting.len().min(MAX_BATCH);
    Some((source, queues[source].waiting.drain(..count).collect()))
}

/// What remains in hand after a batch.
enum Left {
    Nothing,
    Away(Vec<Delivery>),
    Panicked(Vec<Delivery>),
}

async fn work<H: Handler>(
    cx: Context,
    handler: Arc<H>,
    number: u64,
    batch: Arc<Vec<Delivery>>,
) -> (u64, Left) {
    let timer = cx.metrics.batch_seconds.with_label_values(&[cx.worker.as_str()]).start_timer();
    let left = match AssertUnwindSafe(judge(&*handler, &batch)).catch_unwind().await {
        Ok(verdicts) => settle(&cx, &batch, verdicts).await,
        Err(_) if batch.len() > 1 => Left::Panicked(batch.to_vec()),
        Err(_) => {
            for delivery in batch.iter().filter(|d| d.origin == Origin::Request) {
                handler.refuse(delivery, Refused::Panicked).await;
            }
            let verdict = Verdict::Retry("the worker panicked".to_owned());
            settle(&cx, &batch, vec![verdict]).await
        }
    };
    timer.observe_duration();
    (number, left)
}

/// Decodes and handles a batch: one verdict a message.
async fn judge<H: Handler>(handler: &H, batch: &[Delivery]) -> Vec<Verdict> {
    let mut dead = Vec::with_capacity(batch.len());
    let mut messages = Vec::with_capacity(batch.len());
    for delivery in batch {
        match handler.decode(delivery) {
            Ok(message) => {
                messages.push(message);
                dead.push(None);
            }
            Err(reason) => dead.push(Some(Verdict::Dead(reason))),
        }
    }
    let handled = if messages.is_empty() { Vec::new() } else { handler.handle(messages).await };
    let mut handled = handled.into_iter();
    let missing = || Verdict::Retry("the worker gave no verdict".to_owned());
    dead.into_iter().map(|dead| dead.or_else(|| handled.next()).unwrap_or_else(missing)).collect()
}

/// Settles each message as its verdict says, all of a batch at once.
async fn settle(cx: &Context, batch: &[Delivery], verdicts: Vec<Verdict>) -> Left {
    cx.fail.point(&format!("{}.before_ack", cx.worker)).await;
    let mut settled = Vec::with_capacity(batch.len());
    for (delivery, verdict) in batch.iter().zip(verdicts) {
        settled.push(settle_one(cx, delivery, verdict));
    }
    let kept: Vec<_> = join_all(settled).await.into_iter().flatten().collect();
    if kept.is_empty() { Left::Nothing } else { Left::Away(kept) }
}

/// Returns the message if it stays in hand.
async fn settle_one(cx: &Context, delivery: &Delivery, verdict: Verdict) -> Option<Delivery> {
    let label = match &verdict {
        Verdict::Done => "done",
        Verdict::Retry(reason) => {
            tracing::warn!(worker = %cx.worker, subject = delivery.subject(), reason, "will retry");
            "retry"
        }
        Verdict::Away(_) => "away",
        Verdict::Dead(_) => "dead",
    };
    cx.metrics.verdicts.with_label_values(&[cx.worker.as_str(), label]).inc();
    match settlement(verdict, delivery.deliveries()) {
        Settlement::Keep => return Some(delivery.clone()),
        Settlement::Ack => acknowledge(cx, delivery, "+ACK").await,
        Settlement::Nak(delay) => nak(cx, delivery, delay).await,
        Settlement::Bury(reason) => match bury(cx, delivery, &reason).await {
            Ok(()) => acknowledge(cx, delivery, "+TERM dead-lettered").await,
            Err(error) => {
                tracing::error!(worker = %cx.worker, %error, "cannot write a dead letter");
                nak(cx, delivery, Duration::from_secs(1)).await;
            }
        },
    }
    None
}

/// Acknowledges and waits for the server's confirmation; a message whose confirmation does not
/// come may be delivered again, which every worker bears.
async fn acknowledge(cx: &Context, delivery: &Delivery, kind: &'static str) {
    let (Origin::Stored { .. }, Some(reply)) = (&delivery.origin, delivery.reply()) else { return };
    for _ in 0..3 {
        match cx.nats.client.request(reply.clone(), kind.into()).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(worker = %cx.worker, %error, "acknowledging again"),
        }
    }
    tracing::warn!(worker = %cx.worker, subject = delivery.subject(), "not acknowledged");
}

async fn nak(cx: &Context, delivery: &Delivery, delay: Duration) {
    let body = format!("-NAK {{\"delay\": {}}}", delay.as_nanos());
    send(cx, delivery, body).await;
}

async fn send(cx: &Context, delivery: &Delivery, body: impl Into<bytes::Bytes>) {
    let (Origin::Stored { .. }, Some(reply)) = (&delivery.origin, delivery.reply()) else { return };
    if let Err(error) = cx.nats.client.publish(reply.clone(), body.into()).await {
        tracing::debug!(worker = %cx.worker, %error, "not sent");
    }
}

/// Tells the server that messages are still in hand, before their `ack_wait` is over.
async fn keep_alive(cx: &Context, queues: &[Queue], at_work: &[Batch]) {
    let mut in_hand = waiting(queues);
    in_hand.extend(at_work.iter().flat_map(|batch| batch.deliveries.iter().cloned()));
    in_hand.retain(|delivery| delivery.received.elapsed() >= HEARTBEAT / 2);
    for delivery in &in_hand {
        send(cx, delivery, "+WPI").await;
    }
}

/// Gives back what could not be finished, so that others have it at once.
async fn give_back(queues: &[Queue], cx: &Context) {
    for delivery in &waiting(queues) {
        send(cx, delivery, "-NAK").await;
    }
    let _flushed = cx.nats.client.flush().await;
}

fn waiting(queues: &[Queue]) -> Vec<Delivery> {
    queues.iter().flat_map(|queue| queue.waiting.iter().chain(&queue.alone)).cloned().collect()
}

type Sender = mpsc::Sender<(usize, Delivery)>;

/// Pulls from the worker's durable consumer until the drain.
async fn pull_from(cx: &Context, stream: &'static str, source: usize, sender: &Sender) {
    let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
    let mut consumer = None;
    while !cx.drain.is_cancelled() {
        if let Err(error) = pull_once(cx, stream, source, sender, &permits, &mut consumer).await {
            // The stream or the consumer may be gone, or the server: look again from the start.
            cx.health.away("stream", &format!("{stream}: {error:#}"));
            consumer = None;
            sleep(Duration::from_millis(100)).await;
        } else {
            cx.health.back("stream");
        }
    }
}

async fn pull_once(
    cx: &Context,
    stream: &str,
    source: usize,
    sender: &Sender,
    permits: &Arc<Semaphore>,
    consumer: &mut Option<PullConsumer>,
) -> anyhow::Result<()> {
    let consumer = match consumer {
        Some(consumer) => consumer,
        None => consumer.insert(durable(cx, stream).await?),
    };
    // Waits for room first: what is pulled without room would use up its time.
    let first = tokio::select! {
        permit = permits.clone().acquire_owned() => permit?,
        () = cx.drain.cancelled() => return Ok(()),
    };
    let more = permits.available_permits().min(MAX_BATCH - 1);
    let mut room = vec![first];
    room.extend((0..more).map_while(|_| permits.clone().try_acquire_owned().ok()));
    let mut messages =
        consumer.batch().max_messages(room.len()).expires(PULL_EXPIRES).messages().await?;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = cx.nats.reconnected() => None,
        };
        let Some(message) = message else { return Ok(()) };
        let message = message.map_err(|error| anyhow::anyhow!(error))?;
        let Some(permit) = room.pop() else { return Ok(()) };
        sender.send((source, Delivery::stored(message, permit)?)).await?;
    }
}

/// The worker's durable consumer, made from the topology if it is not there (any more). One that
/// is there stays as it is: changing it is for `provision`.
async fn durable(cx: &Context, stream: &str) -> anyhow::Result<PullConsumer> {
    let (js, durable) = (&cx.nats.jetstream, cx.worker.as_str());
    let handle = js.get_stream_no_info(stream).await?;
    if let Ok(consumer) = handle.get_consumer::<pull::Config>(durable).await {
        return Ok(consumer);
    }
    let config = Topology::compiled_in().consumer(stream, durable);
    let request = serde_json::json!({ "stream_name": stream, "config": config });
    let created: Response<serde_json::Value> =
        js.request(format!("CONSUMER.CREATE.{stream}.{durable}"), &request).await?;
    if let Response::Err { error } = created {
        anyhow::bail!("cannot make the consumer {durable}: {error}");
    }
    handle.get_consumer::<pull::Config>(durable).await.map_err(|error| anyhow::anyhow!(error))
}

/// Listens to requests until the drain, then takes those that were already on their way.
async fn listen_to(cx: &Context, subject: &'static str, source: usize, sender: &Sender) {
    let group = cx.worker.to_string();
    let mut requests = match cx.nats.client.queue_subscribe(subject, group).await {
        Ok(requests) => requests,
        // The worker ends, and is started again.
        Err(error) => return cx.health.away("requests", &error.to_string()),
    };
    cx.health.back("requests");
    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(request) => {
                    if sender.send((source, Delivery::request(request))).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            () = cx.drain.cancelled() => break,
        }
    }
    if requests.drain().await.is_ok() {
        while let Some(request) = requests.next().await {
            if sender.send((source, Delivery::request(request))).await.is_err() {
                return;
            }
        }
    }
}
