//! The relay: outbox → `EVENTS`, ordered, acknowledged, deleted; beside raw acknowledged publishes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::{HeaderMap, Request};
use brigade_contracts::WorkerName;
use bytes::Bytes;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{Plan, report::Report, stage::Stage};

/// The size of a usual event's payload.
const PAYLOAD: usize = 300;
const AGGREGATES: u32 = 20_000;

pub async fn measure(stage: &mut Stage, plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.includes("relay") {
        return Ok(());
    }
    let ceiling = fastest_publish(stage, plan).await?;
    fill_outbox(stage, plan.events).await?;
    let started = Instant::now();
    stage.start(WorkerName::OutboxRelay).await?;
    while sqlx::query_scalar::<_, bool>("select exists (select from brigade.outbox)")
        .fetch_one(&stage.sql)
        .await?
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = f64::from(plan.events) / started.elapsed().as_secs_f64();
    report.row("relay: outbox to EVENTS", rate, "events/s", ceiling);
    Ok(())
}

/// The best of single publishes in windows of 64 and 256 and of atomic batches of 100 and 500.
async fn fastest_publish(stage: &Stage, plan: &Plan) -> Result<f64> {
    let config = json!({
        "name": "BENCH", "subjects": ["cmd.bench.raw.>"], "storage": "file",
        "allow_atomic": true, "duplicate_window": 120_000_000_000_u64,
    });
    let made: Value = stage.operator.request("STREAM.CREATE.BENCH", &config).await?;
    anyhow::ensure!(made["error"].is_null(), "the raw stream: {made}");
    let mut best: f64 = 0.0;
    for window in [64, 256] {
        best = best.max(singles(stage, window, plan.events / 20).await?);
    }
    for size in [100, 500] {
        best = best.max(batches(stage, size, plan.events).await?);
    }
    let _deleted: Value = stage.operator.request("STREAM.DELETE.BENCH", &json!({})).await?;
    Ok(best)
}

async fn singles(stage: &Stage, window: usize, count: u32) -> Result<f64> {
    let started = Instant::now();
    let mut left = usize::try_from(count)?;
    let mut number = 0_u64;
    while left > 0 {
        let now = left.min(window);
        let mut acknowledged = Vec::with_capacity(now);
        for _ in 0..now {
            number += 1;
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{window}-{number}"));
            let sent = stage.operator.publish_with_headers("cmd.bench.raw.x", headers, payload());
            acknowledged.push(sent.await?.into_future());
        }
        try_join_all(acknowledged).await?;
        left -= now;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

async fn batches(stage: &Stage, size: u32, count: u32) -> Result<f64> {
    let client = stage.operator.client();
    let started = Instant::now();
    for batch in 0..count / size {
        for at in 1..=size {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", format!("{size}-{batch}"));
            headers.insert("Nats-Batch-Sequence", at.to_string());
            headers.insert("Nats-Msg-Id", format!("b{size}-{batch}-{at}"));
            if at < size {
                client.publish_with_headers("cmd.bench.raw.x", headers, payload()).await?;
            } else {
                headers.insert("Nats-Batch-Commit", "1");
                let request = Request::new().headers(headers).payload(payload());
                let ack = client.send_request("cmd.bench.raw.x", request).await?;
                let ack: Value = serde_json::from_slice(&ack.payload).context("a PubAck")?;
                anyhow::ensure!(ack["error"].is_null(), "an atomic batch: {ack}");
            }
        }
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn payload() -> Bytes {
    static BYTES: [u8; PAYLOAD] = [b'x'; PAYLOAD];
    Bytes::from_static(&BYTES)
}

/// Events and their outbox rows, as command-handler writes them, of carts that nobody asks for.
async fn fill_outbox(stage: &Stage, events: u32) -> Result<()> {
    let shards = crate::outbox_relay::SHARDS;
    sqlx::query(
        "with stored as (
             insert into brigade.events
                 (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
             select gen_random_uuid(), 'bench', 'cart', 'raw' || n % $2, 1 + n / $2, 'item_added',
                    json_build_object('data', repeat('x', $3), 'after', json_build_object('ended', false)),
                    now(), 'k' || n
             from generate_series(0, $1 - 1) n
             order by n
             returning seq, event_id, id)
         insert into brigade.outbox (shard, seq, event_seq, event_id)
         select abs(hashtext(id)) % $4, seq, seq, event_id from stored",
    )
    .bind(i32::try_from(events)?)
    .bind(i32::try_from(AGGREGATES)?)
    .bind(i32::try_from(PAYLOAD)? - 40)
    .bind(i32::from(shards))
    .execute(&stage.sql)
    .await?;
    Ok(())
}
