//! The relay: outbox → `EVENTS`, ordered, acknowledged, deleted; beside raw acknowledged publishes.

use std::time::Instant;

use anyhow::{Context, Result};
use async_nats::{HeaderMap, Request};
use brigade_contracts::WorkerName;
use bytes::Bytes;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{
    Plan,
    fleet::BenchFleet,
    outbox::{Fill, drained},
    report::BenchReport,
};

/// The size of a usual event's payload.
const PAYLOAD: usize = 300;

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    let ceiling = fastest_publish(&fleet, plan).await?;
    Fill::usual(plan.events).commit(&fleet).await?;
    let started = Instant::now();
    fleet.start(WorkerName::OutboxRelay).await?;
    drained(&fleet).await?;
    let rate = f64::from(plan.events) / started.elapsed().as_secs_f64();
    report.row("relay: outbox to EVENTS", rate, "events/s", ceiling);
    fleet.close().await;
    Ok(())
}

/// The best of single publishes in windows of 64 and 256 and of atomic batches of 100 and 500.
async fn fastest_publish(fleet: &BenchFleet, plan: &Plan) -> Result<f64> {
    let config = json!({
        "name": "BENCH", "subjects": ["cmd.bench.raw.>"], "storage": "file",
        "allow_atomic": true, "duplicate_window": 120_000_000_000_u64,
    });
    fleet.jetstream("STREAM.CREATE.BENCH", &config).await?;
    let mut best: f64 = 0.0;
    for window in [64, 256] {
        best = best.max(singles(fleet, window, plan.events / 20).await?);
    }
    for size in [100, 500] {
        best = best.max(batches(fleet, size, plan.events).await?);
    }
    fleet.jetstream("STREAM.DELETE.BENCH", &json!({})).await?;
    Ok(best)
}

async fn singles(fleet: &BenchFleet, window: usize, count: u32) -> Result<f64> {
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
            let sent = fleet.operator.publish_with_headers("cmd.bench.raw.x", headers, payload());
            acknowledged.push(sent.await?.into_future());
        }
        try_join_all(acknowledged).await?;
        left -= now;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

async fn batches(fleet: &BenchFleet, size: u32, count: u32) -> Result<f64> {
    let client = fleet.operator.client();
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
