use anyhow::Context as _;
use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use brigade_contracts::subject;
use bytes::Bytes;

use super::{
    Context, Delivery,
    delivery::{Origin, pairs},
};
use crate::store::postgres::bounded;

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
    let Origin::Stored { stream, sequence, deliveries, stored_at } = &delivery.origin else {
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
    let message = format!("{}.{stream}.{sequence}.{stored_at}", cx.worker);
    store(cx, &message, subject, headers, delivery.payload().clone()).await
}

/// Stores a dead letter in the stream `DLQ`; where the stream does not take it (it is full, or the
/// letter is too large), in `brigade.dead_letters`, once for each `message`. An answer that is lost
/// may leave it in both.
///
/// # Errors
/// Where it is stored in neither: a server is away.
pub async fn store(
    cx: &Context,
    message: &str,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
) -> anyhow::Result<()> {
    let worker = cx.worker.as_str();
    let js = &cx.nats.jetstream;
    let stored = async {
        js.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await?.await
    };
    if let Err(error) = stored.await {
        use PublishErrorKind::{BrokenPipe, StreamNotFound, TimedOut};
        // The server is away, or the stream is about to be made again.
        if matches!(error.kind(), TimedOut | BrokenPipe | StreamNotFound) {
            return Err(error).context("not acknowledged");
        }
        tracing::error!(worker, %error, "the stream DLQ does not take a dead letter: put into SQL");
        bounded(&cx.postgres, async |connection| {
            // To name the column of the conflict takes a right to read it.
            sqlx::query!(
                "insert into brigade.dead_letters (message, subject, headers, payload)
                 values ($1, $2, $3::text::json, $4) on conflict do nothing",
                message,
                subject,
                headers_as_json(&headers),
                &payload[..],
            )
            .execute(&mut **connection)
            .await
        })
        .await
        .context("nor does SQL")?;
        cx.metrics.dead_letters_in_sql.with_label_values(&[worker]).inc();
    }
    cx.metrics.dead_letters.with_label_values(&[worker]).inc();
    Ok(())
}

/// `[[name, value], …]`: a name may come more than once.
pub(crate) fn headers_as_json(headers: &HeaderMap) -> String {
    let pairs: Vec<_> = pairs(Some(headers)).collect();
    serde_json::to_string(&pairs).expect("texts are always JSON")
}

/// A header's value cannot hold line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
