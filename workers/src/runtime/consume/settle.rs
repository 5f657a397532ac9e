//! Turns verdicts into acknowledgements: the only place that does.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::work::Left;
use crate::runtime::{
    Context, Delivery, Verdict,
    dead_letter::bury,
    delivery::Origin,
    verdict::{Settlement, settlement},
};

/// How long a confirmation is awaited. It takes milliseconds, or never comes: the consumer went with
/// its stream. The client's own limit of 10 s would hold up all messages behind.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Settles each message as its verdict says, all of a batch at once.
pub(super) async fn settle(cx: &Context, batch: &[Delivery], verdicts: Vec<Verdict>) -> Left {
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
    let (Origin::Stored { .. }, Some(reply)) = (&delivery.origin, delivery.ack_to()) else {
        return;
    };
    for _ in 0..3 {
        let confirmed = cx.nats.client.request(reply.clone(), kind.into());
        match timeout(CONFIRMED, confirmed).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(worker = %cx.worker, %error, "acknowledging again");
            }
            Err(_) => tracing::debug!(worker = %cx.worker, "no confirmation: once more"),
        }
    }
    tracing::warn!(worker = %cx.worker, subject = delivery.subject(), "not acknowledged");
}

async fn nak(cx: &Context, delivery: &Delivery, delay: Duration) {
    let body = format!("-NAK {{\"delay\": {}}}", delay.as_nanos());
    send(cx, delivery, body).await;
}

pub(super) async fn send(cx: &Context, delivery: &Delivery, body: impl Into<bytes::Bytes>) {
    let (Origin::Stored { .. }, Some(reply)) = (&delivery.origin, delivery.ack_to()) else {
        return;
    };
    if let Err(error) = cx.nats.client.publish(reply.clone(), body.into()).await {
        tracing::debug!(worker = %cx.worker, %error, "not sent");
    }
}
