//! Turns verdicts into acknowledgements: the only place that does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::Subject;
use futures::future::{FutureExt, join_all};
use tokio::time::timeout;

use super::work::Left;
use crate::{
    infra::Context,
    runtime::{
        Delivery, Verdict,
        dead_letter::bury,
        delivery::Origin,
        verdict::{Settlement, settlement},
    },
};

/// How long a confirmation is awaited. It takes milliseconds, or never comes: the consumer went
/// with its stream. The client's own limit of 10 s would hold up all messages behind.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Settles each message as its verdict says, all of a batch at once.
pub(super) async fn settle(cx: &Context, batch: &[Delivery], verdicts: Vec<Verdict>) -> Left {
    cx.fail.point(&format!("{}.before_ack", cx.worker)).await;
    let mut done: BTreeMap<&str, Vec<&Subject>> = BTreeMap::new();
    let mut others = Vec::new();
    let mut left = Left::default();
    for (delivery, verdict) in batch.iter().zip(verdicts) {
        if let Verdict::Retry(reason) = &verdict {
            left.retried.note(cx, delivery, reason);
        }
        match note(cx, delivery, verdict) {
            // What is lost of these costs a delivery, and their consumer may be gone.
            Settlement::Ack if delivery.overtakes => leave(cx, delivery).await,
            Settlement::Ack => {
                if let (Origin::Stored { stream, .. }, Some(to)) =
                    (&delivery.origin, delivery.ack_to())
                {
                    done.entry(stream).or_default().push(to);
                }
            }
            Settlement::Keep => left.away.push(delivery.clone()),
            Settlement::Aside(key) => left.aside.push((delivery.clone(), key)),
            Settlement::Nak(delay) => others.push(nak(cx, delivery, delay).left_future()),
            Settlement::Bury(reason) => {
                others.push(bury_and_end(cx, delivery, reason).right_future());
            }
        }
    }
    let done = join_all(done.values().map(|batch| acknowledge(cx, batch, "+ACK")));
    tokio::join!(join_all(others), done);
    left
}

/// Counts a verdict, and says what follows from it.
fn note(cx: &Context, delivery: &Delivery, verdict: Verdict) -> Settlement {
    let label = match &verdict {
        Verdict::Done => "done",
        Verdict::Retry(_) => "retry",
        Verdict::Away(_) => "away",
        Verdict::Held(_) => "held",
        Verdict::Dead(_) => "dead",
    };
    let settlement = settlement(verdict, delivery.deliveries());
    let is_left = delivery.overtakes && matches!(settlement, Settlement::Bury(_));
    let label = if is_left { "left" } else { label };
    cx.metrics.verdicts.with_label_values(&[cx.worker.as_str(), label]).inc();
    if is_left { Settlement::Ack } else { settlement }
}

/// How often a message that will be tried again is told of.
const TOLD: Duration = Duration::from_secs(1);

/// Messages that will be tried again. They may be many, each many times: a line tells of all of a
/// second.
#[derive(Default)]
pub(super) struct Retried {
    count: u64,
    /// The subject of the last one, and why it failed.
    last: Option<(String, String)>,
    told: Option<Instant>,
}

impl Retried {
    fn note(&mut self, cx: &Context, delivery: &Delivery, reason: &str) {
        let subject = delivery.subject();
        tracing::debug!(worker = %cx.worker, subject, reason, "failed");
        self.count += 1;
        self.last = Some((subject.to_owned(), reason.to_owned()));
    }

    pub(super) fn add(&mut self, more: Self) {
        self.count += more.count;
        self.last = more.last.or(self.last.take());
    }

    pub(super) fn tell(&mut self, cx: &Context) {
        if self.told.is_some_and(|told| told.elapsed() < TOLD) {
            return;
        }
        let Some((subject, reason)) = self.last.take() else { return };
        let count = std::mem::take(&mut self.count);
        tracing::warn!(worker = %cx.worker, count, subject, reason, "will retry");
        self.told = Some(Instant::now());
    }
}

/// Acknowledges a message that came ahead of its turn: it is done, or left to the consumer that it
/// overtook.
pub(super) async fn leave(cx: &Context, delivery: &Delivery) {
    send(cx, delivery, "+ACK").await;
}

/// Copies a message to the dead letters and ends it; it stays a message where that fails.
async fn bury_and_end(cx: &Context, delivery: &Delivery, reason: String) {
    match bury(cx, delivery, &reason).await {
        Ok(()) => {
            if let (Origin::Stored { .. }, Some(to)) = (&delivery.origin, delivery.ack_to()) {
                acknowledge(cx, &[to], "+TERM dead-lettered").await;
            }
        }
        Err(error) => {
            tracing::error!(worker = %cx.worker, %error, "cannot write a dead letter");
            nak(cx, delivery, Duration::from_secs(1)).await;
        }
    }
}

/// Acknowledges messages of one consumer and waits for the server's confirmation of the last: it
/// takes them in the order in which they are sent, so by then it has taken all (seen with 256 at
/// once: nothing was left pending). What is not confirmed may be delivered again, which every
/// worker bears.
async fn acknowledge(cx: &Context, batch: &[&Subject], kind: &'static str) {
    let Some((last, others)) = batch.split_last() else { return };
    for _ in 0..3 {
        for &to in others {
            if let Err(error) = cx.nats.client.publish(to.clone(), kind.into()).await {
                tracing::debug!(worker = %cx.worker, %error, "not sent");
            }
        }
        let confirmed = cx.nats.client.request((*last).clone(), kind.into());
        match timeout(CONFIRMED, confirmed).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(worker = %cx.worker, %error, "acknowledging again");
            }
            Err(_) => tracing::debug!(worker = %cx.worker, "no confirmation: once more"),
        }
    }
    tracing::warn!(worker = %cx.worker, messages = batch.len(), "not acknowledged");
}

/// Gives a stored message back to the server, which delivers it again after the delay.
pub(super) async fn nak(cx: &Context, delivery: &Delivery, delay: Duration) {
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
