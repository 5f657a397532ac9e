//! The beginning of an era of the database: what KV says may never have been.

use anyhow::bail;
use async_nats::jetstream::{Error, response::Response};
use brigade_contracts::{WorkerName, key::Bucket, planted::PlantedBug};
use serde_json::{Value, json};

use crate::infra::{Context, postgres::bounded};

/// `JSStreamNotFoundErr` and `JSConsumerNotFoundErr` of nats-server.
const ABSENT: [u64; 2] = [10059, 10014];

/// Returns true if the buckets have to be emptied, since that was not done yet in this era.
///
/// # Errors
/// If Postgres refuses.
pub async fn is_to_reset(cx: &Context) -> sqlx::Result<bool> {
    if PlantedBug::EraIgnored.is_planted() {
        return Ok(false);
    }
    bounded(&cx.postgres, async |connection| {
        sqlx::query_scalar!(r#"select brigade.era_to_reset($1) as "is_due!""#, cx.era.as_sql())
            .fetch_one(&mut **connection)
            .await
    })
    .await
}

/// Empties the buckets, which have to be healed then.
///
/// The consumer of `COMMANDS` is deleted too. Whoever consumes makes it again, from the beginning of
/// the stream: what was decided by a lost commit is decided again, and for the rest the inbox has
/// the outcome.
///
/// # Errors
/// If the server refuses; then all of it is done again.
pub async fn empty_buckets(cx: &Context) -> anyhow::Result<()> {
    tracing::warn!(
        worker = %cx.worker, era = %cx.era,
        "the database may have lost commits: all buckets are emptied, and written again from SQL"
    );
    let purged = cx.topology.streams.keys().filter(|stream| is_emptied(stream));
    let purged = purged.map(|stream| format!("STREAM.PURGE.{stream}"));
    let consumer = format!("CONSUMER.DELETE.COMMANDS.{}", WorkerName::CommandHandler);
    for request in purged.chain([consumer]) {
        match cx.nats.jetstream.request(request.clone(), &json!({})).await? {
            Response::Ok::<Value>(_) => {}
            Response::Err { error } if is_absent(&error) => {}
            Response::Err { error } => bail!("{request}: {error}"),
        }
    }
    Ok(())
}

/// Records that all that follows from a new era is done.
///
/// # Errors
/// If Postgres refuses.
pub async fn record_reset(cx: &Context) -> sqlx::Result<()> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query!("select brigade.era_was_reset($1)", cx.era.as_sql())
            .execute(&mut **connection)
            .await
    })
    .await?;
    Ok(())
}

/// Returns true if a stream is emptied for a new era: that of a bucket which is healed.
pub fn is_emptied(stream: &str) -> bool {
    Bucket::ALL.into_iter().any(|bucket| bucket.has_canary() && bucket.stream() == stream)
}

fn is_absent(error: &Error) -> bool {
    ABSENT.contains(&error.error_code().0)
}
