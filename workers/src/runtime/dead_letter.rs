use anyhow::Context as _;
use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::subject;
use bytes::Bytes;

use super::{
    Delivery,
    delivery::{Origin, pairs},
};
use crate::infra::{Context, postgres::bounded};

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
pub async fn bury(cx: &Context, delivery: &Delivery, reason: &str) -> anyhow::Result<()> {
    let Origin::Stored { stream, sequence, deliveries, stored_at } = &delivery.origin else {
        return Ok(());
    };
    let (mut headers, payload) = copy_of(delivery);
    headers.insert("Dead-Deliveries", deliveries.to_string());
    headers.insert("Origin-Stream", stream.as_str());
    headers.insert("Origin-Seq", sequence.to_string());
    let id = format!("{stream}.{sequence}");
    let letter = Letter {
        subject: delivery.subject(),
        unique: &format!("{id}.{stored_at}"),
        id: &id,
        reason,
        headers,
        payload,
    };
    store(cx, letter).await
}

/// A dead letter that is to be stored.
pub struct Letter<'a> {
    /// Where the message was sent to.
    pub subject: &'a str,
    /// What the worker knows the message by, of which the stream's memory of ids is made.
    pub id: &'a str,
    /// The same for all time: a stream that is made again counts from 1 again.
    pub unique: &'a str,
    pub reason: &'a str,
    /// Those of the message, and where it comes from.
    pub headers: HeaderMap,
    pub payload: Bytes,
}

/// Stores a dead letter in the stream `DLQ`; where the stream does not take it (it is full, or the
/// letter is too large), in `brigade.dead_letters`, once. An answer that was lost may leave it in
/// both.
///
/// # Errors
/// Where it is stored in neither: a server is away.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of a dead letter is for people; nothing is decided by it"
)]
pub async fn store(cx: &Context, letter: Letter<'_>) -> anyhow::Result<()> {
    let Letter { subject, id, unique, reason, mut headers, payload } = letter;
    let worker = cx.worker.as_str();
    let at = time::OffsetDateTime::now_utc();
    headers.insert("Nats-Msg-Id", format!("{worker}.{id}"));
    headers.insert("Dead-Reason", one_line(reason));
    headers.insert("Dead-At", brigade_contracts::Timestamp::from(at).to_string());
    headers.insert("Origin-Subject", one_line(subject));
    tracing::error!(worker, subject, reason, "dead letter");
    let letter = subject::dead_letter(cx.worker, subject);
    let js = &cx.nats.jetstream;
    let stored = async {
        js.publish_with_headers(letter.clone(), headers.clone(), payload.clone()).await?.await
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
                format!("{worker}.{unique}"),
                letter,
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

/// `[[name, value], …]`: a name may come more than once.
pub(crate) fn headers_as_json(headers: &HeaderMap) -> String {
    let pairs: Vec<_> = pairs(Some(headers)).collect();
    serde_json::to_string(&pairs).expect("texts are always JSON")
}

/// Headers and payload as they came. What cannot be written as headers is kept byte for byte.
fn copy_of(delivery: &Delivery) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut payload = delivery.payload().clone();
    let message = &delivery.message;
    let block = message.block.as_deref().unwrap_or_default();
    if block.len() > MAX_BLOCK {
        headers.insert(RAW_HEADERS_IN_PAYLOAD, block.len().to_string());
        payload = [block, &payload].concat().into();
    } else if delivery.readable().is_err() || delivery.is_cut() {
        headers.insert(RAW_HEADERS, BASE64_STANDARD.encode(block));
    } else {
        headers = copied(delivery.headers());
    }
    if !message.has_plain_subject() {
        headers.insert(RAW_SUBJECT, BASE64_STANDARD.encode(&message.subject));
    }
    (headers, payload)
}

/// A header's value cannot hold line breaks.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
