//! Turns verdicts into acknowledgements: the only place that does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::Subject;
use brigade_contracts::WorkerName;
use futures::future::{FutureExt, join_all};
use tokio::time::timeout;

use super::{in_hand::InHand, limits::HEARTBEAT, remaining::Remaining};
use crate::{
    infra::Context,
    runtime::{
        Delivery, Verdict,
        dead_letter::bury,
        delivery::Origin,
        metrics::{VerdictLabel, WorkerConsumeMetrics},
        verdict::{Acknowledgement, acknowledgement},
    },
};

/// Longest wait for a confirmation. It takes milliseconds, or never comes: the consumer went with
/// its stream. The client's own limit of 10 s would hold up all messages behind.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Most times that an acknowledgement is sent.
const MAX_SENT: usize = 3;

/// What is sent to the server about the messages of a batch.
pub(super) struct Acknowledgements {
    batch: Arc<Vec<Delivery>>,
    /// One a message.
    each: Vec<Acknowledgement>,
}

impl Acknowledgements {
    /// Turns the verdicts on a batch into its acknowledgements, and counts them. Returns the
    /// messages that stay in hand as well.
    pub(super) fn of(
        worker: WorkerName,
        metrics: &WorkerConsumeMetrics,
        batch: Arc<Vec<Delivery>>,
        verdicts: Vec<Verdict>,
    ) -> (Remaining, Self) {
        let mut remaining = Remaining::default();
        let mut each = Vec::with_capacity(batch.len());
        for (delivery, verdict) in batch.iter().zip(verdicts) {
            if let Verdict::Retry(reason) = &verdict {
                remaining.failures.add(worker, delivery, reason);
            }
            let acknowledgement = count(metrics, delivery, verdict);
            match &acknowledgement {
                Acknowledgement::Keep => remaining.away.push(delivery.clone()),
                Acknowledgement::Hold(name) => {
                    remaining.held.push((delivery.clone(), name.clone()));
                }
                _ => {}
            }
            each.push(acknowledgement);
        }
        (remaining, Self { batch, each })
    }

    /// Returns the messages whose acknowledgements are to be confirmed. The server must not deliver
    /// them again meanwhile.
    pub(super) fn unconfirmed(&self) -> Arc<Vec<Delivery>> {
        let is_confirmed = |of: &Acknowledgement| {
            matches!(of, Acknowledgement::Ack | Acknowledgement::DeadLetter(_))
        };
        if self.each.iter().all(is_confirmed) {
            return self.batch.clone();
        }
        let each = self.batch.iter().zip(&self.each);
        let confirmed = each.filter(|(_, of)| is_confirmed(of));
        Arc::new(confirmed.map(|(delivery, _)| delivery.clone()).collect())
    }

    /// Sends them, all at once, and waits until the server has confirmed them.
    pub(super) async fn send(self, cx: Context) {
        let cx = &cx;
        cx.fail.point(&format!("{}.before_ack", cx.worker)).await;
        let mut done: BTreeMap<&str, Vec<&Subject>> = BTreeMap::new();
        let mut others = Vec::new();
        for (delivery, acknowledgement) in self.batch.iter().zip(self.each) {
            match acknowledgement {
                // A loss of these costs a delivery, and their consumer may be gone.
                Acknowledgement::Ack if delivery.overtakes => leave(cx, delivery).await,
                Acknowledgement::Ack => {
                    if let (Origin::Stored { stream, .. }, Some(to)) =
                        (&delivery.origin, delivery.ack_to())
                    {
                        done.entry(stream).or_default().push(to);
                    }
                }
                Acknowledgement::Keep | Acknowledgement::Hold(_) => {}
                Acknowledgement::Nak(delay) => others.push(nak(cx, delivery, delay).left_future()),
                Acknowledgement::DeadLetter(reason) => {
                    others.push(dead_letter(cx, delivery, reason).right_future());
                }
            }
        }
        let done = join_all(done.values().map(|batch| confirm(cx, batch, "+ACK")));
        tokio::join!(join_all(others), done);
    }
}

/// Counts a verdict, and returns the acknowledgement that follows from it.
fn count(metrics: &WorkerConsumeMetrics, delivery: &Delivery, verdict: Verdict) -> Acknowledgement {
    let label = verdict.label();
    let acknowledgement = acknowledgement(verdict, delivery.deliveries());
    if delivery.overtakes && matches!(acknowledgement, Acknowledgement::DeadLetter(_)) {
        metrics.verdict(VerdictLabel::Left).inc();
        return Acknowledgement::Ack;
    }
    metrics.verdict(label).inc();
    acknowledgement
}

/// Acknowledges a message that came ahead of its turn: it is done, or left to the consumer that it
/// overtook.
pub(super) async fn leave(cx: &Context, delivery: &Delivery) {
    send(cx, delivery, "+ACK").await;
}

/// Copies a message to the dead letters and terminates it; it stays a message if that fails.
async fn dead_letter(cx: &Context, delivery: &Delivery, reason: String) {
    match bury(cx, delivery, &reason).await {
        Ok(()) => {
            if let (Origin::Stored { .. }, Some(to)) = (&delivery.origin, delivery.ack_to()) {
                confirm(cx, &[to], "+TERM dead-lettered").await;
            }
        }
        Err(error) => {
            let subject = delivery.subject();
            tracing::error!(worker = %cx.worker, subject, %error, "cannot store a dead letter");
            nak(cx, delivery, Duration::from_secs(1)).await;
        }
    }
}

/// Acknowledges messages of one consumer and waits for the server's confirmation of the last one.
/// The server takes them in the order in which they are sent, so by then it has taken all (seen
/// with 256 at once: nothing was left pending). An unconfirmed message may be delivered again,
/// which every worker tolerates.
async fn confirm(cx: &Context, batch: &[&Subject], kind: &'static str) {
    let Some((last, others)) = batch.split_last() else { return };
    for _ in 0..MAX_SENT {
        for &to in others {
            if let Err(error) = cx.nats.client.publish(to.clone(), kind.into()).await {
                tracing::debug!(worker = %cx.worker, %error, "an acknowledgement was not sent");
            }
        }
        let confirmed = cx.nats.client.request((*last).clone(), kind.into());
        match timeout(CONFIRMED, confirmed).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(worker = %cx.worker, %error, "acknowledges once more");
            }
            Err(_) => {
                tracing::debug!(worker = %cx.worker, "no confirmation: acknowledges once more")
            }
        }
    }
    tracing::warn!(worker = %cx.worker, messages = batch.len(), "messages were not acknowledged");
}

/// Gives a stored message back to the server, which delivers it again after the delay.
pub(super) async fn nak(cx: &Context, delivery: &Delivery, delay: Duration) {
    let body = format!("-NAK {{\"delay\": {}}}", delay.as_nanos());
    send(cx, delivery, body).await;
}

/// Sends an acknowledgement without waiting for its confirmation. Nothing is sent for a request.
pub(super) async fn send(cx: &Context, delivery: &Delivery, body: impl Into<bytes::Bytes>) {
    let Some(to) = delivery.ack_to() else { return };
    if let Err(error) = cx.nats.client.publish(to.clone(), body.into()).await {
        tracing::debug!(worker = %cx.worker, %error, "an acknowledgement was not sent");
    }
}

/// Tells the server that messages are still in hand, before their `ack_wait` is over.
pub(super) async fn keep_alive(cx: &Context, in_hand: &InHand) {
    let is_due = |delivery: &&Delivery| delivery.received.elapsed() >= HEARTBEAT / 2;
    let due: Vec<_> = in_hand.iter().filter(is_due).cloned().collect();
    for delivery in &due {
        send(cx, delivery, "+WPI").await;
    }
}
