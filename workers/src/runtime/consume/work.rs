use std::{panic::AssertUnwindSafe, slice, sync::Arc};

use brigade_contracts::planted::PlantedBug;
use futures::FutureExt;
use prometheus::HistogramTimer;

use super::{
    acknowledge::Acknowledgements,
    attempts::{Attempts, MAX_TRIES},
    handler::{BatchPermit, Handler, RefusalReason},
    remaining::Remaining,
};
use crate::{
    infra::Context,
    runtime::{
        Delivery, Verdict,
        metrics::{ConsumeMetrics, WorkerConsumeMetrics},
    },
};

/// Everything that batches at work need.
pub(super) struct Work<H> {
    pub(super) cx: Context,
    pub(super) handler: H,
    pub(super) attempts: Attempts,
    pub(super) metrics: WorkerConsumeMetrics,
}

/// What is left of a batch that was handled.
pub(super) struct HandledBatch {
    pub(super) remaining: Remaining,
    /// Those of its messages; `None` if it panicked.
    pub(super) acknowledgements: Option<Acknowledgements>,
    /// Runs until they are confirmed.
    pub(super) timer: HistogramTimer,
}

impl<H: Handler> Work<H> {
    pub(super) fn new(cx: Context, handler: H, attempts: Attempts) -> Self {
        let metrics = cx.metrics.group::<ConsumeMetrics>().of(cx.worker);
        Self { cx, handler, attempts, metrics }
    }

    /// Handles a batch. A stored message that is handled alone is one whose tries count.
    pub(super) async fn run(
        self: Arc<Self>,
        batch: Arc<Vec<Delivery>>,
        alone: bool,
        permit: BatchPermit,
    ) -> HandledBatch {
        let timer = self.metrics.batch_seconds.start_timer();
        if PlantedBug::AcknowledgeBeforeDecision.is_planted() {
            for to in batch.iter().filter_map(Delivery::ack_to) {
                let _sent = self.cx.nats.client.publish(to.clone(), "+ACK".into()).await;
            }
        }
        let counted = batch.first().filter(|delivery| alone && delivery.is_stored());
        let verdicts = match counted {
            Some(delivery) => Ok(vec![self.run_counted(delivery, permit).await]),
            None => AssertUnwindSafe(self.judge(&batch, permit)).catch_unwind().await,
        };
        let (remaining, acknowledgements) = match verdicts {
            Ok(verdicts) => {
                let (remaining, acknowledgements) =
                    Acknowledgements::of(self.cx.worker, &self.metrics, batch, verdicts);
                (remaining, Some(acknowledgements))
            }
            Err(_) if batch.len() > 1 => {
                (Remaining { panicked: batch.to_vec(), ..Remaining::default() }, None)
            }
            Err(_) => (self.refuse_or_separate(&batch).await, None),
        };
        HandledBatch { remaining, acknowledgements, timer }
    }

    /// Handles a single message that panicked without being counted: a request is refused, a stored
    /// message gets tries that count.
    async fn refuse_or_separate(&self, batch: &[Delivery]) -> Remaining {
        for delivery in batch.iter().filter(|delivery| !delivery.is_stored()) {
            refuse(&self.handler, delivery, RefusalReason::Panicked).await;
        }
        let stored = batch.iter().filter(|delivery| delivery.is_stored());
        Remaining { panicked: stored.cloned().collect(), ..Remaining::default() }
    }

    /// Handles a message alone, and counts the try. Returns the verdict.
    async fn run_counted(&self, delivery: &Delivery, permit: BatchPermit) -> Verdict {
        let cx = &self.cx;
        let number = match self.attempts.begin(cx, delivery).await {
            Ok(number) => number,
            Err(error) => {
                cx.health.fails("attempts", &format!("{error:#}"));
                return Verdict::Away(format!("{error:#}"));
            }
        };
        cx.health.back("attempts");
        let batch = slice::from_ref(delivery);
        let verdict = if number > MAX_TRIES {
            Verdict::Retry("its process died with every try".to_owned())
        } else {
            match AssertUnwindSafe(self.judge(batch, permit)).catch_unwind().await {
                Ok(mut verdicts) => verdicts.pop().unwrap_or(Verdict::Done),
                Err(_) => Verdict::Retry("the worker panicked".to_owned()),
            }
        };
        match verdict {
            verdict @ (Verdict::Away(_) | Verdict::Held(_)) => {
                self.attempts.revoke(cx, delivery).await;
                verdict
            }
            Verdict::Done => {
                self.attempts.discount(cx, delivery);
                Verdict::Done
            }
            Verdict::Retry(why) if number >= MAX_TRIES => {
                self.after_last_try(delivery, number, why).await
            }
            other => other,
        }
    }

    /// Returns the verdict on a message that has used up its tries.
    async fn after_last_try(&self, delivery: &Delivery, number: u32, why: String) -> Verdict {
        // A message that panics here was certainly not done.
        match AssertUnwindSafe(self.handler.is_done(delivery)).catch_unwind().await {
            Ok(Ok(true)) => Verdict::Done,
            Ok(Ok(false)) | Err(_) => {
                if delivery.overtakes && number == MAX_TRIES {
                    // The last try belongs to the consumer that dead-letters it.
                    self.attempts.revoke(&self.cx, delivery).await;
                }
                Verdict::Dead(why)
            }
            // Without this knowledge it could not have been decided either: the next try begins as
            // this one did.
            Ok(Err(error)) => {
                self.attempts.revoke(&self.cx, delivery).await;
                Verdict::Away(format!("{error:#}"))
            }
        }
    }

    /// Decodes and handles a batch. Returns one verdict a message.
    async fn judge(&self, batch: &[Delivery], permit: BatchPermit) -> Vec<Verdict> {
        let mut dead = Vec::with_capacity(batch.len());
        let mut messages = Vec::with_capacity(batch.len());
        for delivery in batch {
            self.cx.fail.message(delivery.payload());
            // The handler itself refuses a request that cannot be read.
            let readable = if delivery.is_stored() { delivery.readable() } else { Ok(()) };
            let readable = readable.map_err(|why| format!("bad_header: {why}"));
            match readable.and_then(|()| self.handler.decode(delivery)) {
                Ok(message) => {
                    messages.push(message);
                    dead.push(None);
                }
                Err(reason) => dead.push(Some(Verdict::Dead(reason))),
            }
        }
        let handled = if messages.is_empty() {
            Vec::new()
        } else {
            self.handler.handle(messages, permit).await
        };
        let mut handled = handled.into_iter();
        let missing = || Verdict::Retry("the worker gave no verdict".to_owned());
        let verdicts = dead.into_iter();
        verdicts.map(|dead| dead.or_else(|| handled.next()).unwrap_or_else(missing)).collect()
    }
}

/// Refuses a request. A message that panicked once may panic here again, and must not take the loop
/// along.
pub(super) async fn refuse<H: Handler>(handler: &H, request: &Delivery, reason: RefusalReason) {
    if AssertUnwindSafe(handler.refuse(request, reason)).catch_unwind().await.is_err() {
        let subject = request.subject();
        tracing::error!(subject, ?reason, "panicked while it refused a request");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    use brigade_contracts::WorkerName;

    use super::*;
    use crate::{
        runtime::consume::queues::tests::delivery,
        testing::{SUPERUSER, TestServers},
    };

    /// Fails as long as the database is at fault; nothing can be found out meanwhile.
    #[derive(Default)]
    struct FaultyHandler {
        is_mended: AtomicBool,
        tries: AtomicU32,
    }

    impl Handler for FaultyHandler {
        type Message = ();

        fn decode(&self, _delivery: &Delivery) -> Result<(), String> {
            Ok(())
        }

        async fn handle(&self, _batch: Vec<()>, _permit: BatchPermit) -> Vec<Verdict> {
            self.tries.fetch_add(1, SeqCst);
            let is_mended = self.is_mended.load(SeqCst);
            vec![if is_mended { Verdict::Done } else { Verdict::Retry("a fault".to_owned()) }]
        }

        async fn is_done(&self, _delivery: &Delivery) -> anyhow::Result<bool> {
            anyhow::ensure!(self.is_mended.load(SeqCst), "cannot be found out");
            Ok(false)
        }
    }

    #[tokio::test]
    async fn a_message_whose_tries_were_used_up_while_nothing_could_be_found_out_is_tried_again()
    -> anyhow::Result<()> {
        let servers = TestServers::start().await?;
        let cx = servers.context_as(WorkerName::OutboxRelay, SUPERUSER).await?;
        let attempts = Attempts::open(&cx).await?;
        let work = Arc::new(Work::new(cx, FaultyHandler::default(), attempts));
        let batch = Arc::new(vec![delivery(0, 3)]);
        let run = async || work.clone().run(batch.clone(), true, BatchPermit::beside()).await;
        for number in 1..=MAX_TRIES + 3 {
            let HandledBatch { remaining, .. } = run().await;
            assert_eq!(remaining.away.len(), usize::from(number >= MAX_TRIES), "{number}");
        }
        work.handler.is_mended.store(true, SeqCst);
        assert_eq!(run().await.remaining.away.len(), 0);
        assert_eq!(work.handler.tries.load(SeqCst), MAX_TRIES + 4);
        assert_eq!(work.metrics.verdict(Verdict::Dead(String::new()).label()).get(), 0);
        Ok(())
    }
}
