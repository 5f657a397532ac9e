use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{
    Handler, Refused, Turn,
    attempts::{Attempts, MAX_TRIES},
    is_stored,
    settle::{Retried, settle},
};
use crate::{
    infra::Context,
    runtime::{Delivery, Verdict},
};

/// What remains in hand after a batch.
#[derive(Default)]
pub(super) struct Left {
    /// A dependency was away.
    pub(super) away: Vec<Delivery>,
    /// Somebody else has locked what they need, which is named.
    pub(super) aside: Vec<(Delivery, String)>,
    /// The batch panicked.
    pub(super) panicked: Vec<Delivery>,
    /// Not in hand any more: those that failed, to be told.
    pub(super) retried: Retried,
}

/// Handles and settles a batch; with `attempts` it is one message alone, whose tries count.
pub(super) async fn work<H: Handler>(
    cx: Context,
    handler: Arc<H>,
    batch: Arc<Vec<Delivery>>,
    attempts: Option<Arc<Attempts>>,
    turn: Turn,
) -> Left {
    let timer = cx.metrics.batch_seconds.with_label_values(&[cx.worker.as_str()]).start_timer();
    let left = match attempts.zip(batch.first()).filter(|(_, delivery)| is_stored(delivery)) {
        Some((attempts, delivery)) => work_counted(&cx, &*handler, delivery, &attempts, turn).await,
        None => match AssertUnwindSafe(judge(&cx, &*handler, &batch, turn)).catch_unwind().await {
            Ok(verdicts) => settle(&cx, &batch, verdicts).await,
            Err(_) if batch.len() > 1 => Left { panicked: batch.to_vec(), ..Left::default() },
            Err(_) => refuse_or_separate(&*handler, &batch).await,
        },
    };
    timer.observe_duration();
    left
}

/// A single message panicked without being counted: a request is refused, a stored message gets
/// tries that count.
async fn refuse_or_separate<H: Handler>(handler: &H, batch: &[Delivery]) -> Left {
    for delivery in batch.iter().filter(|delivery| !is_stored(delivery)) {
        refuse(handler, delivery, Refused::Panicked).await;
    }
    let stored = batch.iter().filter(|delivery| is_stored(delivery));
    Left { panicked: stored.cloned().collect(), ..Left::default() }
}

/// Refuses a request; what panicked once may panic here again, and must not take the loop along.
pub(super) async fn refuse<H: Handler>(handler: &H, request: &Delivery, why: Refused) {
    if AssertUnwindSafe(handler.refuse(request, why)).catch_unwind().await.is_err() {
        tracing::error!(subject = request.subject(), "a request cannot even be refused");
    }
}

async fn work_counted<H: Handler>(
    cx: &Context,
    handler: &H,
    delivery: &Delivery,
    attempts: &Attempts,
    turn: Turn,
) -> Left {
    let number = match attempts.begin(cx, delivery).await {
        Ok(number) => number,
        Err(error) => {
            cx.health.away("attempts", &format!("{error:#}"));
            return Left { away: vec![delivery.clone()], ..Left::default() };
        }
    };
    cx.health.back("attempts");
    let batch = std::slice::from_ref(delivery);
    let verdict = if number > MAX_TRIES {
        Verdict::Retry("its process died with every try".to_owned())
    } else {
        match AssertUnwindSafe(judge(cx, handler, batch, turn)).catch_unwind().await {
            Ok(mut verdicts) => verdicts.pop().unwrap_or(Verdict::Done),
            Err(_) => Verdict::Retry("the worker panicked".to_owned()),
        }
    };
    let verdict = match verdict {
        verdict @ (Verdict::Away(_) | Verdict::Held(_)) => {
            attempts.take_back(cx, delivery).await;
            verdict
        }
        Verdict::Done => {
            attempts.outlive(cx, delivery);
            Verdict::Done
        }
        Verdict::Retry(why) if number >= MAX_TRIES => {
            // One that panics here was certainly not done.
            match AssertUnwindSafe(handler.is_done(delivery)).catch_unwind().await {
                Ok(Ok(true)) => Verdict::Done,
                Ok(Ok(false)) | Err(_) => {
                    if delivery.overtakes && number == MAX_TRIES {
                        // The last try is that of the consumer that buries it.
                        attempts.take_back(cx, delivery).await;
                    }
                    Verdict::Dead(why)
                }
                // Whoever cannot tell that could not have decided it either: the next try begins
                // as this one did.
                Ok(Err(error)) => {
                    attempts.take_back(cx, delivery).await;
                    Verdict::Away(format!("{error:#}"))
                }
            }
        }
        other => other,
    };
    settle(cx, batch, vec![verdict]).await
}

/// Decodes and handles a batch: one verdict a message.
async fn judge<H: Handler>(
    cx: &Context,
    handler: &H,
    batch: &[Delivery],
    turn: Turn,
) -> Vec<Verdict> {
    let mut dead = Vec::with_capacity(batch.len());
    let mut messages = Vec::with_capacity(batch.len());
    for delivery in batch {
        cx.fail.message(delivery.payload());
        // Of a request its handler tells the sender.
        let readable = if is_stored(delivery) { delivery.readable() } else { Ok(()) };
        let readable = readable.map_err(|why| format!("bad_header: {why}"));
        match readable.and_then(|()| handler.decode(delivery)) {
            Ok(message) => {
                messages.push(message);
                dead.push(None);
            }
            Err(reason) => dead.push(Some(Verdict::Dead(reason))),
        }
    }
    let handled =
        if messages.is_empty() { Vec::new() } else { handler.handle(messages, turn).await };
    let mut handled = handled.into_iter();
    let missing = || Verdict::Retry("the worker gave no verdict".to_owned());
    dead.into_iter().map(|dead| dead.or_else(|| handled.next()).unwrap_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    use super::*;
    use crate::{
        infra::Nats, runtime::consume::queues::tests::delivery,
        workers::outbox_relay::tests::servers::TestServers,
    };

    /// Fails as long as the database is at fault, of which nothing can be told meanwhile.
    #[derive(Default)]
    struct Faulty {
        is_mended: AtomicBool,
        tries: AtomicU32,
    }

    impl Handler for Faulty {
        type Message = ();

        fn decode(&self, _delivery: &Delivery) -> Result<(), String> {
            Ok(())
        }

        async fn handle(&self, _batch: Vec<()>, _turn: Turn) -> Vec<Verdict> {
            self.tries.fetch_add(1, SeqCst);
            let is_mended = self.is_mended.load(SeqCst);
            vec![if is_mended { Verdict::Done } else { Verdict::Retry("a fault".to_owned()) }]
        }

        async fn is_done(&self, _delivery: &Delivery) -> anyhow::Result<bool> {
            anyhow::ensure!(self.is_mended.load(SeqCst), "cannot be told");
            Ok(false)
        }
    }

    #[tokio::test]
    async fn a_message_whose_tries_were_used_up_while_nothing_could_be_told_is_tried_again()
    -> anyhow::Result<()> {
        let stand = TestServers::start().await?;
        let mut cx = stand.context().await?;
        let url = format!("nats://test:test@127.0.0.1:{}", stand.nats.port());
        cx.nats = Nats::connect(&url, &cx.health, &cx.metrics).await?;
        let attempts = Arc::new(Attempts::open(&cx).await?);
        let handler = Arc::new(Faulty::default());
        let batch = Arc::new(vec![delivery(0, 3)]);
        let work = async || {
            let (cx, handler, attempts) = (cx.clone(), handler.clone(), attempts.clone());
            work(cx, handler, batch.clone(), Some(attempts), Turn(None)).await
        };
        for number in 1..=MAX_TRIES + 3 {
            let left = work().await;
            assert_eq!(left.away.len(), usize::from(number >= MAX_TRIES), "{number}");
        }
        handler.is_mended.store(true, SeqCst);
        assert_eq!(work().await.away.len(), 0);
        assert_eq!(handler.tries.load(SeqCst), MAX_TRIES + 4);
        let dead = cx.metrics.verdicts.with_label_values(&[cx.worker.as_str(), "dead"]);
        assert_eq!(dead.get(), 0);
        Ok(())
    }
}
