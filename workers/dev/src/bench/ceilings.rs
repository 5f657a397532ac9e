//! Measures what the servers can do for the doors without brigade, before there are workers.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use brigade_contracts::{header, key::Bucket, topology::Topology};
use serde_json::{Value, json};

use super::{
    Plan,
    fleet::BenchFleet,
    load::{closed, open},
    times::Times,
    waiters::Waiters,
};

/// The rows of the standard mix by bare transactions: commands a second, the best of some batch
/// sizes, by the number of connections.
pub async fn bare_rows(fleet: &BenchFleet, plan: &Plan) -> Result<BTreeMap<u32, f64>> {
    sqlx::raw_sql(include_str!("bare_tables.sql")).execute(&fleet.sql).await?;
    let mut best = BTreeMap::new();
    let runs =
        [1_u32, 4].into_iter().flat_map(|lanes| [100_u32, 250, 500].map(|size| (lanes, size)));
    for (lanes, size) in runs {
        let sql = fleet.sql.clone();
        let transaction = move |n: u64| {
            let sql = sql.clone();
            let at = (n * u64::from(size) % 10_000) as i64;
            async move {
                sqlx::query(include_str!("bare_rows.sql"))
                    .bind(format!("{lanes}-{size}-{n}-"))
                    .bind(i64::from(size))
                    .bind(json!({ "data": "x".repeat(580) }).to_string())
                    .bind(json!({ "after": "x".repeat(480) }).to_string())
                    .bind(json!([{ "name": "x".repeat(200) }]).to_string())
                    .bind(at)
                    .execute(&sql)
                    .await?;
                Ok(())
            }
        };
        let rate = closed(lanes as usize, plan.length / 6, transaction).await? * f64::from(size);
        let best: &mut f64 = best.entry(lanes).or_default();
        *best = best.max(rate);
    }
    // What a ceiling left must not burden what is measured beside it: its tables would be vacuumed,
    // and its pages written out.
    let dropped = "drop table bench_inbox, bench_carts, bench_orders, bench_events, bench_outbox,
                       bench_projection_backlog";
    sqlx::raw_sql(dropped).execute(&fleet.sql).await?;
    sqlx::raw_sql("checkpoint").execute(&fleet.sql).await?;
    Ok(best)
}

/// Acknowledged single publishes into a stream like `COMMANDS`: messages a second, the best of
/// some windows.
pub async fn raw_commands(fleet: &BenchFleet, plan: &Plan) -> Result<f64> {
    let like = like("COMMANDS", "BENCH", "cmd.bench.raw.>")?;
    fleet.jetstream("STREAM.CREATE.BENCH", &like).await?;
    let mut best: f64 = 0.0;
    for window in [64, 256, 1024] {
        let js = fleet.operator.clone();
        let rate = closed(window, plan.length / 6, move |n| {
            let js = js.clone();
            async move {
                let mut headers = HeaderMap::new();
                headers.insert(header::COMMAND_ID, format!("w{n}"));
                let payload = "x".repeat(160).into();
                js.publish_with_headers("cmd.bench.raw.x", headers, payload).await?.await?;
                Ok(())
            }
        });
        best = best.max(rate.await?);
    }
    fleet.jetstream("STREAM.DELETE.BENCH", &json!({})).await?;
    Ok(best)
}

/// A bucket like `active_orders`, of which the server tells on `live.bench.>`.
pub async fn make_bucket(fleet: &BenchFleet) -> Result<()> {
    let mut like = like(&Bucket::ActiveOrders.stream(), "KV_bench", "cmd.bench.kv.>")?;
    like["republish"] = json!({ "src": "cmd.bench.kv.>", "dest": "live.bench.>" });
    fleet.jetstream("STREAM.CREATE.KV_bench", &like).await?;
    Ok(())
}

/// Puts at a constant rate into that bucket: the time of each to a core subscriber.
pub async fn put_to_subscriber(fleet: &BenchFleet, rate: f64, length: Duration) -> Result<Times> {
    static KEYS: AtomicU64 = AtomicU64::new(0);
    let pushed = Waiters::listen(&fleet.operator.client(), "live.bench.>").await?;
    let times = Times::new();
    open(rate, length, |_, moment| {
        let key = KEYS.fetch_add(1, Ordering::Relaxed);
        let (seen, times) = (pushed.next(format!("live.bench.{key}")), times.clone());
        let js = fleet.operator.clone();
        async move {
            let put = js.publish(format!("cmd.bench.kv.{key}"), "x".repeat(600).into()).await?;
            seen.await?;
            moment.done(&times);
            put.await?;
            Ok(())
        }
    })
    .await?;
    Ok(times)
}

/// One commit and two puts that follow it, one after the other, as an answer on the request door
/// has to await them.
pub async fn commit_and_puts(fleet: &BenchFleet, length: Duration) -> Result<Times> {
    sqlx::raw_sql("create table bench_raw (id bigint primary key, body text)")
        .execute(&fleet.sql)
        .await?;
    let times = Times::new();
    let end = Instant::now() + length;
    for n in 0_i64.. {
        if Instant::now() > end {
            break;
        }
        let started = Instant::now();
        let insert = sqlx::query("insert into bench_raw values ($1, $2)").bind(n);
        insert.bind("x".repeat(600)).execute(&fleet.sql).await?;
        for key in ["a", "b"] {
            let subject = format!("cmd.bench.kv.{key}{n}");
            fleet.operator.publish(subject, "x".repeat(600).into()).await?.await?;
        }
        times.record(started.elapsed());
    }
    sqlx::raw_sql("drop table bench_raw").execute(&fleet.sql).await?;
    Ok(times)
}

/// The configuration of one of brigade's streams, for another name and other subjects.
fn like(stream: &str, name: &str, subjects: &str) -> Result<Value> {
    let topology = Topology::compiled_in();
    let config = topology.streams.get(stream).context("a stream of the topology")?;
    let mut config = serde_json::to_value(config)?;
    config["name"] = name.into();
    config["subjects"] = json!([subjects]);
    if let Some(config) = config.as_object_mut() {
        config.remove("metadata");
        config.remove("description");
    }
    Ok(config)
}
