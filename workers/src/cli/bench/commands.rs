//! Both doors: the most commands a second with all their effects, and how long one takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_nats::{HeaderMap, Request, jetstream};
use brigade_contracts::{
    header,
    key::{Bucket, Versions},
};
use futures::StreamExt;
use serde_json::json;

use super::{
    Plan,
    load::{closed, open},
    report::{Report, histogram},
    stage::Stage,
};

/// Senders at once that keep a door busy.
const LANES: usize = 512;

pub async fn measure(stage: &mut Stage, plan: &Plan, report: &mut Report) -> Result<()> {
    if plan.includes("latency") {
        latency(stage, plan, report).await?;
    }
    if plan.includes("request") {
        let ceiling = bare_rows(stage, plan).await?;
        let client = stage.producer.clone();
        let rate = closed(LANES, plan.length, move |n| place(client.clone(), "r", n)).await?;
        report.row("request door, all effects", rate, "commands/s", ceiling);
    }
    if plan.includes("durable") {
        let ceiling = raw_commands(stage, plan).await?;
        let rate = durable(stage, plan).await?;
        report.row("durable door, all effects", rate, "commands/s", ceiling);
    }
    Ok(())
}

fn order() -> String {
    json!({ "currency": "EUR", "items": [
        { "sku": "P-1", "name": "Pizza Margherita", "unit_price": 1250, "quantity": 2 },
        { "sku": "W-1", "name": "Water", "unit_price": 300, "quantity": 1 } ] })
    .to_string()
}

fn headers(id: String) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, id);
    headers
}

/// Places an order on the request door.
async fn place(client: async_nats::Client, run: &'static str, n: u64) -> Result<()> {
    let request = Request::new()
        .headers(headers(format!("{run}{n}")))
        .payload(order().into())
        .timeout(Some(Duration::from_secs(30)));
    let subject = format!("req.bench.order.{run}{n}.place");
    let reply = client.send_request(subject, request).await?;
    let status = reply.headers.as_ref().and_then(|headers| headers.get(header::STATUS));
    ensure!(status.is_some_and(|status| status.as_str() == "201"), "{:?}", reply.payload);
    Ok(())
}

/// One `INSERT` commit and two KV puts, one after the other; then the request door, unloaded.
async fn latency(stage: &Stage, plan: &Plan, report: &mut Report) -> Result<()> {
    sqlx::raw_sql("create table bench_raw (id bigint primary key, body text)")
        .execute(&stage.sql)
        .await?;
    let worker = brigade_contracts::WorkerName::CommandHandler;
    let (options, address) =
        crate::runtime::connect::as_user_of(&stage.stack.servers(worker).nats_url)?;
    let js = jetstream::new(options.connect(address).await?);
    let at = brigade_contracts::Timestamp::parse("2026-01-02T03:04:05Z")?;
    let mut ceiling = histogram();
    let end = Instant::now() + plan.length / 2;
    for n in 0_i64.. {
        if Instant::now() > end {
            break;
        }
        let started = Instant::now();
        sqlx::query("insert into bench_raw values ($1, $2)")
            .bind(n)
            .bind("x".repeat(600))
            .execute(&stage.sql)
            .await?;
        for key in ["a", "b"] {
            let value = Versions { version: 1, parts: [].into(), at };
            let subject = Bucket::Versions.subject(&format!("raw.cart.{key}{n}"));
            js.publish(subject, serde_json::to_vec(&value)?.into()).await?.await?;
        }
        ceiling.saturating_record(u64::try_from(started.elapsed().as_micros())?);
    }
    let client = stage.producer.clone();
    // Far below the limit: one at a time.
    let path = open(50.0, plan.length / 2, |n| place(client.clone(), "l", n)).await?;
    report.latency("latency: request door, unloaded", &path, &ceiling);
    Ok(())
}

/// The rows of a command (inbox, order, event, outbox) by bare transactions, the best of some
/// batch sizes on 4 connections: commands' rows a second.
async fn bare_rows(stage: &Stage, plan: &Plan) -> Result<f64> {
    sqlx::raw_sql(
        "create table bench_inbox (like brigade.command_inbox including all);
         create table bench_orders (like brigade.orders including all);
         create table bench_events (like brigade.events including all);
         create table bench_outbox (like brigade.outbox including all);",
    )
    .execute(&stage.sql)
    .await?;
    let mut best: f64 = 0.0;
    for size in [100_i64, 250, 500] {
        let sql = stage.sql.clone();
        let body = format!("{}{}", order(), "x".repeat(500));
        let rate = closed(4, plan.length / 3, move |n| {
            let (sql, body) = (sql.clone(), body.clone());
            async move {
                sqlx::query(BARE)
                    .bind(format!("{size}-{n}-"))
                    .bind(size)
                    .bind(body)
                    .execute(&sql)
                    .await?;
                Ok(())
            }
        });
        best = best.max(rate.await? * size as f64);
    }
    Ok(best)
}

const BARE: &str = "
    with n as materialized (select $1 || n as k from generate_series(1, $2) n),
    i as (insert into bench_inbox (tenant, command_id, subject, payload_hash, outcome, decided_at)
          select 'bench', k, 'req.bench.order.' || k || '.place', sha256(k::bytea),
                 json_build_object('a', $3), now() from n),
    o as (insert into bench_orders (tenant, id, version, updated_at, parts, parts_at, status,
                 currency, items, total, created_at)
          select 'bench', k, 1, now(), '{\"core\":1,\"payments\":1}', '{}', 'placed', 'EUR',
                 jsonb_build_object('a', left($3, 200)), 2800, now() from n),
    e as (insert into bench_events (event_id, tenant, aggregate, id, version, type, payload, at,
                 command_id)
          select gen_random_uuid(), 'bench', 'order', k, 1, 'placed', json_build_object('a', $3), now(), k
          from n returning seq, event_id)
    insert into bench_outbox (shard, seq, event_seq, event_id) select 0, seq, seq, event_id from e";

/// Acknowledged single publishes into a stream like `COMMANDS`: the door's own limit.
async fn raw_commands(stage: &Stage, plan: &Plan) -> Result<f64> {
    let config = json!({ "name": "BENCH", "subjects": ["cmd.bench.raw.>"], "storage": "file",
                         "duplicate_window": 120_000_000_000_u64 });
    let made: serde_json::Value = stage.operator.request("STREAM.CREATE.BENCH", &config).await?;
    ensure!(made["error"].is_null(), "the raw stream: {made}");
    let js = stage.operator.clone();
    let rate = closed(LANES, plan.length / 3, move |n| {
        let js = js.clone();
        async move {
            let headers = headers(format!("w{n}"));
            js.publish_with_headers("cmd.bench.raw.x", headers, order().into()).await?.await?;
            Ok(())
        }
    });
    let rate = rate.await?;
    let _gone: serde_json::Value =
        stage.operator.request("STREAM.DELETE.BENCH", &json!({})).await?;
    Ok(rate)
}

/// Orders on the durable door, counted when their outcome has come.
async fn durable(stage: &Stage, plan: &Plan) -> Result<f64> {
    let mut outcomes = stage.producer.subscribe("outcome.bench.*").await?;
    let done = Arc::new(AtomicU64::new(0));
    let counted = done.clone();
    let listening = tokio::spawn(async move {
        while let Some(outcome) = outcomes.next().await {
            let created = outcome.headers.as_ref().and_then(|h| h.get(header::STATUS));
            if created.is_some_and(|status| status.as_str() == "201") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let js = jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(30))
        .build(stage.producer.clone());
    let started = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    closed(LANES, plan.length, move |n| {
        let (js, counter) = (js.clone(), counter.clone());
        async move {
            let subject = format!("cmd.bench.order.d{n}.place");
            let sent = js.publish_with_headers(subject, headers(format!("d{n}")), order().into());
            sent.await?.await?;
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await?;
    let all = sent.load(Ordering::Relaxed);
    let until = Instant::now() + Duration::from_secs(60);
    while done.load(Ordering::Relaxed) < all {
        ensure!(Instant::now() < until, "{} of {all} outcomes", done.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = all as f64 / started.elapsed().as_secs_f64();
    listening.abort();
    Ok(rate)
}
