mod in_sql;

use anyhow::Context as _;
use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::{Command, subject};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Delivery,
    delivery::{Origin, pairs},
    metrics::DeadLetterMetrics,
};
use crate::infra::Context;

/// The headers of a message that cannot be read, base64.
pub const RAW_HEADERS: &str = "Dead-Raw-Headers";
/// The same of a block that is too long for a header: so many bytes of it stand before the payload.
pub const RAW_HEADERS_IN_PAYLOAD: &str = "Dead-Raw-Headers-In-Payload";
/// The subject of a message whose subject is no plain text, base64.
pub const RAW_SUBJECT: &str = "Dead-Raw-Subject";

/// The length of a payload that is not kept with its letter, and where it is or why not.
pub const PAYLOAD_GONE: &str = "Dead-Payload";
/// SHA-256 of the payload as it was sent, hex: which command a letter is of is known without it.
pub const PAYLOAD_HASH: &str = "Dead-Payload-Hash";

/// Beginnings of names by which the server, or whoever reads the letter, would take a sender's
/// header for one of their own.
const RESERVED: [&str; 3] = ["Nats-", "Dead-", "Origin-"];

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
    headers.insert(PAYLOAD_HASH, hash_of(delivery.payload()));
    headers.insert("Dead-Deliveries", deliveries.to_string());
    headers.insert("Origin-Stream", stream.as_str());
    headers.insert("Origin-Seq", sequence.to_string());
    let command =
        || Command::decode(delivery.subject(), delivery.headers(), delivery.payload()).ok();
    let letter = NewLetter {
        subject: delivery.subject(),
        // With the time: a stream that is made again counts from 1 again.
        id: &format!("{stream}.{sequence}.{stored_at}"),
        reason,
        headers,
        payload,
        command: delivery.readable().ok().and_then(|()| command()),
    };
    store(cx, letter).await
}

/// A dead letter that is to be stored.
pub struct NewLetter<'a> {
    /// The subject to which the message was sent.
    pub subject: &'a str,
    /// The id of the message among all that the worker ever has.
    pub id: &'a str,
    pub reason: &'a str,
    /// The headers of the message, and its origin.
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// The command of which an outcome is stored if the letter cannot be kept.
    pub command: Option<Command>,
}

/// Stores a dead letter in the stream `DLQ`; where the stream does not take it (it is full, or the
/// letter is too large), in `brigade.dead_letters`, once. An answer that was lost may leave it in
/// both. SQL keeps so many letters of a tenant whole, and so many more without their payloads;
/// those beyond are counted, and their commands get their outcomes.
///
/// # Errors
/// Where it is stored in neither: a server is away.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of a dead letter is for people; nothing is decided by it"
)]
pub async fn store(cx: &Context, letter: NewLetter<'_>) -> anyhow::Result<()> {
    let NewLetter { subject, id, reason, mut headers, payload, command } = letter;
    let worker = cx.worker.as_str();
    let metrics = cx.metrics.group::<DeadLetterMetrics>();
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
        let rejected = in_sql::Rejected {
            message: format!("{worker}.{id}"),
            letter,
            subject,
            reason,
            headers,
            payload,
            command,
        };
        in_sql::store(cx, rejected).await.context("nor does SQL")?;
        metrics.in_sql.with_label_values(&[worker]).inc();
    }
    metrics.stored.with_label_values(&[worker]).inc();
    Ok(())
}

fn hash_of(payload: &[u8]) -> String {
    hex::encode(Sha256::digest(payload))
}

/// Returns the headers of a message as its dead letter keeps them: `Dead-` stands before the names
/// that would be taken for the server's own or the letter's.
pub fn copied<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut copied = HeaderMap::new();
    for (name, value) in headers {
        if is_reserved(name) {
            copied.append(format!("Dead-{name}"), value);
        } else {
            copied.append(name, value);
        }
    }
    copied
}

/// Returns the name that a header of a dead letter had in its message; nothing for those of the
/// letter, and for those on which the server would act again (ids, expectations, schedules).
#[must_use]
pub fn name_as_sent(name: &str) -> Option<&str> {
    match name.strip_prefix("Dead-").filter(|sent| is_reserved(sent)) {
        Some(sent) => (!sent.starts_with("Nats-")).then_some(sent),
        None => (!is_reserved(name)).then_some(name),
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.starts_with(reserved))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_headers_are_told_from_those_of_the_letter() {
        let sent = ["Command-Id", "Dead-Raw-Headers", "Dead-Nats-X", "Origin-Subject", "dead-at"];
        let all = sent.into_iter().chain(["Nats-Msg-Id"]);
        let copied = copied(all.map(|name| (name, "x")));
        for own in [RAW_HEADERS, PAYLOAD_GONE, "Origin-Subject", "Nats-Msg-Id"] {
            assert!(copied.get(own).is_none(), "{own}");
            assert_eq!(name_as_sent(own), None, "{own}");
        }
        let mut again: Vec<_> = pairs(Some(&copied)).filter_map(|h| name_as_sent(h.0)).collect();
        again.sort_unstable();
        let mut sent = sent.to_vec();
        sent.sort_unstable();
        assert_eq!(again, sent);
    }
}
