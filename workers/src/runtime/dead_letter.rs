use anyhow::Context as _;
use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::subject;
use bytes::Bytes;

use super::{
    Context, Delivery,
    delivery::{Origin, pairs},
};
use crate::store::postgres::bounded;

/// The headers of a message that cannot be read, base64.
pub const RAW_HEADERS: &str = "Dead-Raw-Headers";
/// The same of a block that is too long for a header: so many bytes of it stand before the payload.
pub const RAW_HEADERS_IN_PAYLOAD: &str = "Dead-Raw-Headers-In-Payload";
/// The subject of a message whose subject is no plain text, base64.
pub const RAW_SUBJECT: &str = "Dead-Raw-Subject";

/// Longest header block that is copied into a header or headers: JetStream stores no more than
/// 64 KiB of them, base64 takes a third more, and a dead letter has headers of its own.
const MAX_BLOCK: usize = 44 * 1024;

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
    let (mut headers, payload) = copied(delivery);
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
    store(cx, &message, subject, headers, payload).await
}

/// Stores a dead letter in the stream `DLQ`; where the stream does not take it (it is full, or the
/// letter is too large), in `brigade.dead_letters`, once for each `message`. An answer that was lost
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
            // Without saying in which column a conflict is expected, which takes a right to read it.
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

/// Headers and payload as they came. What cannot be written as headers is kept byte for byte.
fn copied(delivery: &Delivery) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut payload = delivery.payload().clone();
    let message = &delivery.message;
    let block = message.block.as_deref().unwrap_or_default();
    if block.len() > MAX_BLOCK {
        headers.insert(RAW_HEADERS_IN_PAYLOAD, block.len().to_string());
        payload = [block, &payload].concat().into();
    } else if delivery.readable().is_err() {
        headers.insert(RAW_HEADERS, BASE64_STANDARD.encode(block));
    } else {
        for (name, value) in delivery.headers() {
            // The server would act on its own headers again (ids, expectations, schedules).
            match name.strip_prefix("Nats-") {
                Some(rest) => headers.append(format!("Dead-Nats-{rest}"), value),
                None => headers.append(name, value),
            }
        }
    }
    if !message.has_plain_subject() {
        headers.insert(RAW_SUBJECT, BASE64_STANDARD.encode(&message.subject));
    }
    (headers, payload)
}

/// A header's value cannot hold line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
