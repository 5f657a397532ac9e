//! Checks that everything was done: what was not does not count.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use brigade_contracts::key::Bucket;
use futures::StreamExt;
use serde_json::Value;

use super::{fleet::BenchFleet, rush::Rush};

/// The version of each part.
type Parts = sqlx::types::Json<HashMap<String, i64>>;

/// Longer than the fleet needs to project what it has in hand.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails unless everything that was answered was also done: all orders are brought to their end;
/// then each distinct command that was sent has its row in the inbox and its event, the outbox is
/// empty, so is the projection backlog, and every key of `versions` and `views` stands at the
/// version that SQL says, of each part. (Field by field the tests compare them.)
///
/// # Errors
/// If something is missing.
pub async fn everything_was_done(fleet: &BenchFleet, rush: &Rush) -> Result<()> {
    rush.finish().await?;
    let until = Instant::now() + PATIENCE;
    while let Err(missing) = look(fleet, rush).await {
        ensure!(Instant::now() < until, missing);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn look(fleet: &BenchFleet, rush: &Rush) -> Result<()> {
    at_rest(fleet).await?;
    let (decided, changed): (i64, i64) = sqlx::query_as(
        "select (select count(*) from brigade.command_inbox where command_id like 'k%'),
                (select count(*) from brigade.events where command_id like 'k%')",
    )
    .fetch_one(&fleet.sql)
    .await?;
    let sent = i64::try_from(rush.mix.distinct())?;
    ensure!(decided == sent && changed == sent, "{sent} sent, {decided} decided, {changed} events");
    let (active,): (i64,) = sqlx::query_as("select count(*) from brigade.orders where active")
        .fetch_one(&fleet.sql)
        .await?;
    ensure!(active == 0, "{active} orders have not ended");
    kv_is_what_sql_says(fleet).await
}

/// Nothing waits in the outbox or in the projection backlog.
///
/// # Errors
/// If something still waits.
pub async fn at_rest(fleet: &BenchFleet) -> Result<()> {
    let left: (i64, i64) = sqlx::query_as(
        "select (select count(*) from brigade.outbox),
                (select count(*) from brigade.projection_backlog)",
    )
    .fetch_one(&fleet.sql)
    .await?;
    ensure!(left == (0, 0), "left in outbox and backlog: {left:?}");
    Ok(())
}

async fn kv_is_what_sql_says(fleet: &BenchFleet) -> Result<()> {
    let (versions, views) =
        tokio::try_join!(bucket(fleet, Bucket::Versions), bucket(fleet, Bucket::Views))?;
    let stored: Vec<(String, i64, Parts)> = sqlx::query_as(
        "select tenant || '.cart.' || id, version, parts from brigade.carts where id like 'c%'
         union all
         select tenant || '.order.' || id, version, parts from brigade.orders where id like 'o%'",
    )
    .fetch_all(&fleet.sql)
    .await?;
    for (key, version, parts) in stored {
        let projected = versions.get(&key).copied();
        ensure!(
            projected == Some(version),
            "versions: {key} at {projected:?}, in SQL at {version}"
        );
        for (part, version) in parts.0 {
            let key = format!("{key}.{part}");
            let projected = views.get(&key).copied();
            ensure!(
                projected == Some(version),
                "views: {key} at {projected:?}, in SQL at {version}"
            );
        }
    }
    Ok(())
}

/// The version at each key of a bucket, by one ordered read.
async fn bucket(fleet: &BenchFleet, bucket: Bucket) -> Result<HashMap<String, i64>> {
    let mut stream = fleet.operator.get_stream(bucket.stream()).await?;
    let count = usize::try_from(stream.info().await?.state.messages)?;
    if count == 0 {
        return Ok(HashMap::new());
    }
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    let mut messages = consumer.messages().await?.take(count);
    let prefix = bucket.subject("");
    let mut found = HashMap::with_capacity(count);
    while let Some(message) = messages.next().await {
        let message = message?.message;
        let key = message.subject.strip_prefix(&prefix).unwrap_or_default().to_owned();
        let value: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        found.insert(key, value["version"].as_i64().unwrap_or_default());
    }
    Ok(found)
}
