use anyhow::Context as _;
use async_nats::HeaderMap;
use brigade_contracts::subject;
use bytes::Bytes;

use super::{Context, Delivery, delivery::Origin};

/// Copies a message to the dead letters: payload and headers, why, and where it came from. Returns
/// when the copy is stored; only then may the original be terminated.
///
/// # Errors
/// Where the copy is not acknowledged.
pub async fn bury(cx: &Context, delivery: &Delivery, reason: &str) -> anyhow::Result<()> {
    let Origin::Stored { stream, sequence, deliveries, .. } = &delivery.origin else {
        return Ok(());
    };
    let mut headers = copied(delivery.headers());
    headers.insert("Dead-Deliveries", deliveries.to_string());
    headers.insert("Origin-Stream", stream.as_str());
    headers.insert("Origin-Seq", sequence.to_string());
    let (id, payload) = (format!("{stream}.{sequence}"), delivery.payload().clone());
    store(cx, delivery.subject(), &id, reason, headers, payload).await
}

/// The headers of a message, as its dead letter keeps them.
pub fn copied<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut copied = HeaderMap::new();
    for (name, value) in headers {
        // The server would act on its own headers again (ids, expectations, schedules).
        match name.strip_prefix("Nats-") {
            Some(rest) => copied.append(format!("Dead-Nats-{rest}"), value),
            None => copied.append(name, value),
        }
    }
    copied
}

/// Stores a dead letter: what was sent to `subject`, known by this id to the worker. Returns when
/// it is stored.
///
/// # Errors
/// Where it is not acknowledged.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of a dead letter is for people; nothing is decided by it"
)]
pub async fn store(
    cx: &Context,
    subject: &str,
    id: &str,
    reason: &str,
    mut headers: HeaderMap,
    payload: Bytes,
) -> anyhow::Result<()> {
    let at = time::OffsetDateTime::now_utc();
    headers.insert("Nats-Msg-Id", format!("{}.{id}", cx.worker));
    headers.insert("Dead-Reason", one_line(reason));
    headers.insert("Dead-At", brigade_contracts::Timestamp::from(at).to_string());
    headers.insert("Origin-Subject", one_line(subject));
    tracing::error!(worker = %cx.worker, subject, reason, "dead letter");
    let letter = subject::dead_letter(cx.worker, subject);
    let js = &cx.nats.jetstream;
    js.publish_with_headers(letter, headers, payload)
        .await
        .context("not sent")?
        .await
        .context("not acknowledged")?;
    cx.metrics.dead_letters.with_label_values(&[cx.worker.as_str()]).inc();
    Ok(())
}

/// A header's value cannot hold line breaks.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
