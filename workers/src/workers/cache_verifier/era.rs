//! The beginning of an era of the database: what KV says may never have been.

use anyhow::bail;
use async_nats::jetstream::{Error, response::Response};
use brigade_contracts::{WorkerName, key::Bucket};
use serde_json::{Value, json};

use crate::infra::{Context, postgres::bounded};

/// `JSStreamNotFoundErr` and `JSConsumerNotFoundErr` of nats-server.
const ABSENT: [u64; 2] = [10059, 10014];

/// Empties the buckets if that was not done yet in this era. That their canaries are gone shows as
/// a loss, so all of them are healed from SQL.
///
/// The consumer of `COMMANDS` is deleted too. Whoever consumes makes it again, from the beginning of
/// the stream: what was decided by a lost commit is decided again, and for the rest the inbox has
/// the outcome.
///
/// # Errors
/// If either server refuses; then all of it is done again.
pub async fn reset_once(cx: &Context) -> anyhow::Result<()> {
    let is_due = bounded(&cx.postgres, async |connection| {
        sqlx::query_scalar!(r#"select brigade.era_to_reset($1) as "is_due!""#, cx.era.as_sql())
            .fetch_one(&mut **connection)
            .await
    });
    if !is_due.await? {
        return Ok(());
    }
    tracing::warn!(
        worker = %cx.worker, era = %cx.era,
        "the database may have lost commits: all buckets are emptied, and written again from SQL"
    );
    let buckets = Bucket::ALL.into_iter().filter(|bucket| bucket.has_canary());
    let purged = buckets.map(|bucket| format!("STREAM.PURGE.{}", bucket.stream()));
    let consumer = format!("CONSUMER.DELETE.COMMANDS.{}", WorkerName::CommandHandler);
    for request in purged.chain([consumer]) {
        match cx.nats.jetstream.request(request.clone(), &json!({})).await? {
            Response::Ok::<Value>(_) => {}
            Response::Err { error } if is_absent(&error) => {}
            Response::Err { error } => bail!("{request}: {error}"),
        }
    }
    bounded(&cx.postgres, async |connection| {
        sqlx::query!("select brigade.era_was_reset($1)", cx.era.as_sql())
            .execute(&mut **connection)
            .await
    })
    .await?;
    Ok(())
}

fn is_absent(error: &Error) -> bool {
    ABSENT.contains(&error.error_code().0)
}
