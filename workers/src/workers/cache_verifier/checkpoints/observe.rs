//! The state of a stream, as its server describes it.

use anyhow::{Context as _, bail};
use async_nats::jetstream::{
    message::PublishMessage, response::Response, stream::LastRawMessageErrorKind,
};
use brigade_contracts::key::{Bucket, CANARY};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ObservedStream, StreamCheckpoint};
use crate::{infra::Context, workers::cache_verifier::VerifierMetrics};

/// `JSStreamNotFoundErr` of nats-server.
const STREAM_NOT_FOUND: u64 = 10059;
/// A stream that takes up more of its bytes, in percent, is reported.
const FILLING: i64 = 50;

/// Observes a stream, at this time of the database. Puts the canary of a bucket where there is
/// none: its sequence differs from the checkpoint's, and so reveals the loss until a checkpoint is
/// saved.
///
/// # Errors
/// If the server does not respond, or another connection took over meanwhile.
pub async fn observe(
    cx: &Context,
    metrics: &VerifierMetrics,
    stream: &str,
    now: OffsetDateTime,
) -> anyhow::Result<ObservedStream> {
    let server_id = cx.nats.client.server_info().server_id;
    let connection = cx.nats.connections();
    let Some(info) = load_info(cx, stream).await? else { return Ok(ObservedStream::Absent) };
    let bucket = Bucket::ALL.into_iter().find(|b| b.has_canary() && b.stream() == stream);
    let canary = match bucket {
        Some(bucket) => Some(ensure_canary(cx, bucket).await?),
        None => None,
    };
    if connection != cx.nats.connections() {
        bail!("reconnected while {stream} was observed");
    }
    record_fill(cx, metrics, stream, &info);
    Ok(ObservedStream::Present(checkpoint(stream, &info, server_id, canary, now)?))
}

/// Loads the server's description of a stream, `None` if there is no such stream.
async fn load_info(cx: &Context, stream: &str) -> anyhow::Result<Option<Value>> {
    let payload = json!({});
    let request = cx.nats.jetstream.request(format!("STREAM.INFO.{stream}"), &payload);
    match request.await.with_context(|| format!("no response about {stream}"))? {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } if error.error_code().0 == STREAM_NOT_FOUND => Ok(None),
        Response::Err { error } => bail!("{stream}: {error}"),
    }
}

fn checkpoint(
    stream: &str,
    info: &Value,
    server_id: String,
    canary: Option<u64>,
    now: OffsetDateTime,
) -> anyhow::Result<StreamCheckpoint> {
    let (state, config) = (&info["state"], &info["config"]);
    let number = |field: &str| state[field].as_u64().unwrap_or(0);
    let time = |field: &str| {
        let at = OffsetDateTime::parse(state[field].as_str()?, &Rfc3339).ok();
        at.filter(|at| at.year() > 1)
    };
    // Commands are purged when they are decided, and keys overwritten: only EVENTS forgets by age
    // alone.
    let by_age = stream == "EVENTS";
    let max_age = config["max_age"].as_i64().filter(|age| by_age && *age > 0);
    Ok(StreamCheckpoint {
        taken_at: now,
        created: info["created"].as_str().context("no creation time")?.to_owned(),
        server_id,
        first_seq: number("first_seq"),
        last_seq: number("last_seq"),
        messages: number("messages"),
        first_at: time("first_ts").unwrap_or(OffsetDateTime::UNIX_EPOCH),
        last_at: time("last_ts").unwrap_or(OffsetDateTime::UNIX_EPOCH),
        canary,
        max_age: max_age.map(time::Duration::nanoseconds),
    })
}

/// Records how much of a stream's bytes are taken, and logs once when it comes to be half of them:
/// what is done leaves by itself before.
fn record_fill(cx: &Context, metrics: &VerifierMetrics, stream: &str, info: &Value) {
    let Some(most) = info["config"]["max_bytes"].as_i64().filter(|most| *most > 0) else { return };
    let bytes = info["state"]["bytes"].as_u64().unwrap_or(0);
    let percent = bytes.cast_signed().saturating_mul(100) / most;
    let gauge = metrics.stream_filled.with_label_values(&[stream]);
    if gauge.get() < FILLING && percent >= FILLING {
        tracing::error!(
            worker = %cx.worker, stream, percent,
            "stream fills up: once it is full it refuses messages"
        );
    }
    gauge.set(percent);
}

/// Returns the sequence of a bucket's canary, which is put there where there is none. It holds
/// nothing, so that whoever watches the bucket takes it for no value.
async fn ensure_canary(cx: &Context, bucket: Bucket) -> anyhow::Result<u64> {
    let (subject, js) = (bucket.subject(CANARY), &cx.nats.jetstream);
    let stream = js.get_stream_no_info(bucket.stream()).await?;
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => return Ok(message.sequence),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {}
        Err(error) => return Err(error.into()),
    }
    // Another instance may just have put one there.
    let subject = cx.nats.options().subject_of_put(subject);
    let message = PublishMessage::build().expected_last_subject_sequence(0);
    Ok(js.send_publish(subject, message).await?.await?.sequence)
}
