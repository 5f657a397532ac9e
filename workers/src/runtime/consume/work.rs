use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{
    Handler, Refused, Turn,
    attempts::{Attempts, MAX_TRIES},
    is_stored,
    settle::settle,
};
use crate::runtime::{Context, Delivery, Verdict};

/// What remains in hand after a batch.
pub(super) enum Left {
    Nothing,
    /// A dependency was away.
    Away(Vec<Delivery>),
    /// The batch panicked.
    Panicked(Vec<Delivery>),
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
            Err(_) if batch.len() > 1 => Left::Panicked(batch.to_vec()),
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
    let stored: Vec<_> = batch.iter().filter(|delivery| is_stored(delivery)).cloned().collect();
    if stored.is_empty() { Left::Nothing } else { Left::Panicked(stored) }
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
    let kept = || Left::Away(vec![delivery.clone()]);
    let number = match attempts.begin(cx, delivery).await {
        Ok(number) => number,
        Err(error) => {
            cx.health.away("attempts", &format!("{error:#}"));
            return kept();
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
        Verdict::Away(why) => {
            attempts.take_back(cx, delivery).await;
            Verdict::Away(why)
        }
        Verdict::Done => {
            attempts.outlive(cx, delivery);
            Verdict::Done
        }
        Verdict::Retry(why) if number >= MAX_TRIES => {
            // One that panics here was certainly not done.
            match AssertUnwindSafe(handler.is_done(delivery)).catch_unwind().await {
                Ok(Ok(true)) => Verdict::Done,
                Ok(Ok(false)) | Err(_) => Verdict::Dead(why),
                Ok(Err(error)) => Verdict::Away(format!("{error:#}")),
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
