use anyhow::Context as _;
use async_nats::HeaderMap;
use brigade_contracts::subject;

use super::{Context, Delivery, delivery::Origin};

/// Copies a message to the dead letters: payload and headers, why, and where it came from. Returns
/// when the copy is stored; only then may the original be terminated.
///
/// # Errors
/// Where the copy is not acknowledged.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of a dead letter is for people; nothing is decided by it"
)]
pub async fn bury(cx: &Context, delivery: &Delivery, reason: &str) -> anyhow::Result<()> {
    let Origin::Stored { stream, sequence, deliveries, .. } = &delivery.origin else {
        return Ok(());
    };
    let mut headers = HeaderMap::new();
    for (name, value) in delivery.headers() {
        // The server would act on its own headers again (ids, expectations, schedules).
        match name.strip_prefix("Nats-") {
            Some(rest) => headers.append(format!("Dead-Nats-{rest}"), value),
            None => headers.append(name, value),
        }
    }
    let at = time::OffsetDateTime::now_utc();
    headers.insert("Nats-Msg-Id", format!("{}.{stream}.{sequence}", cx.worker));
    headers.insert("Dead-Reason", one_line(reason));
    headers.insert("Dead-Deliveries", deliveries.to_string());
    headers.insert("Dead-At", brigade_contracts::Timestamp::from(at).to_string());
    headers.insert("Origin-Subject", one_line(delivery.subject()));
    headers.insert("Origin-Stream", stream.as_str());
    headers.insert("Origin-Seq", sequence.to_string());
    let subject = subject::dead_letter(cx.worker, delivery.subject());
    tracing::error!(worker = %cx.worker, subject = delivery.subject(), reason, "dead letter");
    let js = &cx.nats.jetstream;
    js.publish_with_headers(subject, headers, delivery.payload().clone())
        .await
        .context("not sent")?
        .await
        .context("not acknowledged")?;
    cx.metrics.dead_letters.with_label_values(&[cx.worker.as_str()]).inc();
    Ok(())
}

/// A header's value cannot hold line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
