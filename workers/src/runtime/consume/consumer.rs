use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::HistogramTimer;
use tokio::{
    task::{Id, JoinSet},
    time::{Interval, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    acknowledge::{self, Acknowledgements},
    attempts::Attempts,
    given_back::GivenBack,
    handler::{BatchPermit, Handler, Permit, RefusalReason},
    held,
    in_hand::{BatchKind, InHand, RunningBatch},
    limits::HEARTBEAT,
    queues::{QueueFull, QueuedBatch},
    receive::{self, Receivers},
    redelivery::RedeliverySchedule,
    remaining::{FailureLog, Remaining},
    source::Source,
    work::{HandledBatch, Work, refuse},
};
use crate::{
    infra::{Context, health::Duty},
    runtime::{Delivery, metrics::DeadLetterMetrics},
};

/// A drain gives back what it has not finished by then, below the 10 s that a process has.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// A batch that takes longer hangs: the timeouts towards either server are over long before.
const BATCH_HANGS: Duration = Duration::from_secs(60);

/// Consumes until the worker has drained. A worker that has other duties begins this one before
/// them: else it is ready as soon as they move, and nobody listens yet.
///
/// # Errors
/// If the worker cannot use NATS at all.
pub async fn consume<H: Handler>(
    cx: &Context,
    duty: Duty,
    sources: &[Source],
    handler: H,
) -> anyhow::Result<()> {
    let receivers = receive::spawn(cx, sources);
    // Registered now, so that `/metrics` shows them before the first dead letter.
    let _registered = cx.metrics.group::<DeadLetterMetrics>();
    let attempts = Attempts::open(cx).await?;
    let consumer = Consumer {
        work: Arc::new(Work::new(cx.clone(), handler, attempts)),
        duty,
        in_hand: InHand::new(sources.len(), H::AT_ONCE),
        batches: JoinSet::new(),
        acknowledging: JoinSet::new(),
        main: Permit::default(),
        express: Permit::default(),
        redelivery: RedeliverySchedule::default(),
        given_back: GivenBack::default(),
        failures: FailureLog::default(),
        is_open: true,
        is_ready: false,
        give_back_at: None,
    };
    consumer.run(receivers, u32::try_from(sources.len())?).await
}

/// The state of the loop.
struct Consumer<H: Handler> {
    work: Arc<Work<H>>,
    duty: Duty,
    in_hand: InHand,
    batches: JoinSet<HandledBatch>,
    /// Sends the acknowledgements of batches that were handled, beside those at work.
    acknowledging: JoinSet<()>,
    main: Permit,
    express: Permit,
    redelivery: RedeliverySchedule,
    given_back: GivenBack,
    failures: FailureLog,
    /// More messages may be received.
    is_open: bool,
    /// All sources are open.
    is_ready: bool,
    /// The time at which a drain gives back what is still in hand.
    give_back_at: Option<Instant>,
}

impl<H: Handler> Consumer<H> {
    async fn run(mut self, mut receivers: Receivers, sources: u32) -> anyhow::Result<()> {
        let mut heartbeat = ticks(HEARTBEAT);
        let mut held_pause = ticks(held::PAUSE);
        loop {
            self.begin_batches();
            let waiting = i64::try_from(self.in_hand.waiting()).unwrap_or(i64::MAX);
            self.work.metrics.waiting.set(waiting);
            if !self.is_open && self.in_hand.is_empty() {
                return Ok(());
            }
            let express_at = self.in_hand.express_at();
            tokio::select! {
                deliveries = receivers.messages.recv(), if self.is_open => match deliveries {
                    Some(deliveries) => self.queue(deliveries).await,
                    None => self.is_open = false,
                },
                Some(ended) = self.batches.join_next_with_id() => {
                    let (task, handled) = ended?;
                    self.end_batch(task, handled).await;
                }
                Some(ended) = self.acknowledging.join_next_with_id() => {
                    let (task, ()) = ended?;
                    self.in_hand.confirmed(task);
                }
                () = self.main.given_back(), if !self.main.is_free() => {}
                () = self.express.given_back(), if !self.express.is_free() => {}
                () = until(express_at) => {}
                _ = receivers.opened.acquire_many(sources), if !self.is_ready => {
                    self.is_ready = true;
                    self.duty.moved();
                }
                _ = held_pause.tick(), if self.in_hand.may_try_held() => self.begin_held_batch(),
                _ = heartbeat.tick() => if self.beat().await.is_break() {
                    return Ok(());
                },
            }
        }
    }

    /// Begins the next batch of each kind, if its permit is free and there is room and work for it.
    fn begin_batches(&mut self) {
        for kind in [BatchKind::Main, BatchKind::Express] {
            let permit = if kind == BatchKind::Main { &mut self.main } else { &mut self.express };
            if permit.is_free()
                && self.in_hand.has_room(kind, H::AT_ONCE)
                && let Some(batch) = self.in_hand.next(kind)
                && let Some(permit) = permit.take()
            {
                self.begin(batch, kind, permit);
            }
        }
    }

    /// Begins a batch of held messages whose locks may be free.
    fn begin_held_batch(&mut self) {
        let Self { in_hand, work, .. } = self;
        if let Some(batch) = in_hand.held.next(|name| work.handler.is_locked(name)) {
            self.begin(batch, BatchKind::Beside, BatchPermit::beside());
        }
    }

    fn begin(&mut self, batch: QueuedBatch, kind: BatchKind, permit: BatchPermit) {
        let QueuedBatch { deliveries, alone, beside_flood } = batch;
        let deliveries = Arc::new(deliveries);
        let work = self.work.clone().run(deliveries.clone(), alone, permit);
        let task = self.batches.spawn(work).id();
        let since = Instant::now();
        self.in_hand.running.push(RunningBatch {
            task,
            kind,
            alone,
            beside_flood,
            deliveries,
            since,
        });
    }

    /// Queues messages that were received.
    async fn queue(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let delivery = self.given_back.counted(delivery);
            if delivery.deliveries() > 1 {
                self.work.metrics.redelivered.inc();
            }
            if delivery.overtakes {
                self.work.metrics.overtaking.inc();
            }
            if let Err((full, delivery)) = self.in_hand.queues.push(delivery) {
                self.turn_away(&delivery, full).await;
            }
        }
    }

    /// Takes a batch off, queues what remains of it, and acknowledges the rest.
    async fn end_batch(&mut self, task: Id, handled: HandledBatch) {
        let HandledBatch { remaining, acknowledgements, timer } = handled;
        let Remaining { away, held, panicked, failures } = remaining;
        let Some(batch) = self.in_hand.end(task) else { return };
        self.in_hand.queues.keep(away, batch.alone);
        if let Some(acknowledgements) = acknowledgements {
            self.acknowledge(batch, acknowledgements, timer);
        }
        self.failures.merge(failures);
        for delivery in panicked {
            if delivery.overtakes {
                acknowledge::leave(&self.work.cx, &delivery).await;
            } else {
                self.in_hand.queues.push_alone(delivery);
            }
        }
        for (delivery, name) in held {
            if let Err(delivery) = self.in_hand.held.push(delivery, name) {
                self.turn_away(&delivery, QueueFull::Source).await;
            }
        }
    }

    /// Acknowledges a batch beside those at work: the server takes its time to confirm it, and
    /// nobody waits for that.
    fn acknowledge(
        &mut self,
        batch: RunningBatch,
        acknowledgements: Acknowledgements,
        timer: HistogramTimer,
    ) {
        let deliveries = acknowledgements.unconfirmed();
        let sending = acknowledgements.send(self.work.cx.clone());
        let task = self.acknowledging.spawn(async move {
            sending.await;
            timer.observe_duration();
        });
        let batch = RunningBatch { task: task.id(), deliveries, ..batch };
        self.in_hand.acknowledged.push(batch);
    }

    /// Keeps messages and health alive. Breaks when a drain has to end.
    async fn beat(&mut self) -> ControlFlow<()> {
        let cx = &self.work.cx;
        // Without a connection nothing is sent, and the loop must not wait for one.
        let _late = timeout(HEARTBEAT / 2, acknowledge::keep_alive(cx, &self.in_hand)).await;
        self.failures.log(cx.worker);
        if self.is_ready && self.in_hand.all_younger_than(DRAIN_LIMIT) {
            self.duty.moved();
        } else if self.in_hand.all_younger_than(BATCH_HANGS) {
            self.duty.went_round();
        }
        if cx.drain.is_cancelled() { self.drain().await } else { ControlFlow::Continue(()) }
    }

    /// Gives held messages back, and everything else when the time of the drain is over.
    async fn drain(&mut self) -> ControlFlow<()> {
        // Somebody else may have them locked for long.
        for delivery in self.in_hand.held.take() {
            self.turn_away(&delivery, QueueFull::Drained).await;
        }
        let give_back_at = *self.give_back_at.get_or_insert(Instant::now() + DRAIN_LIMIT);
        if Instant::now() <= give_back_at {
            return ControlFlow::Continue(());
        }
        let _late = timeout(HEARTBEAT, self.give_back()).await;
        ControlFlow::Break(())
    }

    /// Gives back what could not be finished, so that others have it at once. A try that is broken
    /// off did not fail.
    async fn give_back(&self) {
        let Work { cx, attempts, .. } = &*self.work;
        let waiting: Vec<_> = self.in_hand.iter_waiting().cloned().collect();
        for delivery in &waiting {
            acknowledge::send(cx, delivery, "-NAK").await;
        }
        for delivery in self.in_hand.iter_alone() {
            attempts.revoke(cx, delivery).await;
        }
        let _flushed = cx.nats.client.flush().await;
    }

    /// Does not take a message: a request is refused, a stored message is given back.
    async fn turn_away(&mut self, delivery: &Delivery, full: QueueFull) {
        if delivery.is_stored() {
            let delay = match full {
                QueueFull::Drained => Duration::ZERO,
                _ => self.redelivery.delay(delivery, Instant::now()),
            };
            self.given_back.add(delivery);
            return acknowledge::nak(&self.work.cx, delivery, delay).await;
        }
        let reason = match full {
            QueueFull::Source | QueueFull::Alone => RefusalReason::Busy,
            QueueFull::Tenant => RefusalReason::TooMany,
            QueueFull::Drained => RefusalReason::Drained,
        };
        refuse(&self.work.handler, delivery, reason).await;
    }
}

/// Waits until a time, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
