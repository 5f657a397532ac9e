//! The stream `COMMANDS`, as housekeeping reads and purges it.

use anyhow::Context as _;
use async_nats::jetstream::{self, response::Response};
use brigade_contracts::WorkerName;
use serde_json::{Value, json};

use crate::infra::Nats;

pub(super) const STREAM: &str = "COMMANDS";

/// `JSNoMessageFoundErr` of nats-server.
const NO_MESSAGE: u64 = 10037;

/// Returns whether the stream is at least half full.
///
/// # Errors
/// If the server does not respond, or refuses.
pub(super) async fn is_half_full(nats: &Nats) -> anyhow::Result<bool> {
    let info = request(nats, format!("STREAM.INFO.{STREAM}"), json!({})).await??;
    let bytes = info["state"]["bytes"].as_u64().context("no bytes")?;
    // A negative number stands for no limit.
    let limit = info["config"]["max_bytes"].as_u64();
    Ok(limit.is_some_and(|limit| bytes.saturating_mul(2) >= limit))
}

/// Purges the stream up to the sequence that `choose` returns, given the creation time of the
/// consumer and its acknowledged floor: everything up to that is decided or dead-lettered.
///
/// # Errors
/// If the server does not respond, or refuses.
pub async fn purge(
    nats: &Nats,
    choose: impl FnOnce(&str, u64) -> Option<u64>,
) -> anyhow::Result<()> {
    let subject = format!("CONSUMER.INFO.{STREAM}.{}", WorkerName::CommandHandler);
    let info = request(nats, subject, json!({})).await??;
    let floor = info["ack_floor"]["stream_seq"].as_u64().context("no floor")?;
    let consumer = info["created"].as_str().context("no time of creation")?;
    if let Some(floor) = choose(consumer, floor) {
        // The request names the first sequence that stays.
        let first = json!({ "seq": floor + 1 });
        request(nats, format!("STREAM.PURGE.{STREAM}"), first).await??;
    }
    Ok(())
}

/// Gets the message that a request names; `None` if there is no such message.
pub(super) async fn get_message(nats: &Nats, which: Value) -> anyhow::Result<Option<Value>> {
    match request(nats, format!("STREAM.MSG.GET.{STREAM}"), which).await? {
        Ok(mut response) => Ok(Some(response["message"].take())),
        Err(error) if error.error_code().0 == NO_MESSAGE => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a message. It is not overwritten on disk.
pub(super) async fn delete_message(nats: &Nats, sequence: u64) -> anyhow::Result<()> {
    let which = json!({ "seq": sequence, "no_erase": true });
    request(nats, format!("STREAM.MSG.DELETE.{STREAM}"), which).await??;
    Ok(())
}

async fn request(
    nats: &Nats,
    subject: String,
    request: Value,
) -> anyhow::Result<Result<Value, jetstream::Error>> {
    match nats.jetstream.request(subject, &request).await? {
        Response::Ok(value) => Ok(Ok(value)),
        Response::Err { error } => Ok(Err(error)),
    }
}
