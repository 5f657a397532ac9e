//! Bounds at their full size. These tests take minutes and gigabytes, so they are run by hand, one
//! at a time: `cargo test --release --test acceptance -- --ignored --nocapture --test-threads 1
//! at_size::`. They print figures, which depend on the machine, and assert what must hold on any.

mod day_close;
mod decided_commands;
mod duties;
mod healing;
mod hostile_programs;
mod letter_jobs;
mod letters;
mod payments;
mod retried;
mod times;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use brigade::runtime::ConsumeMetrics;
use brigade_tests::{Producer, TestFleet, until};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::interval;

use self::times::{Nice, beside, client, quiet};

/// Returns a size, which an environment variable of this name may set.
#[expect(clippy::disallowed_methods, reason = "sizes of runs by hand; no test of the suite")]
fn size(variable: &str, full: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.map_or(full, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Prints a figure with the load of the machine.
fn figure(text: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    println!("{text} (load {load})");
}

fn open(owner: &str) -> Value {
    json!({"kind": "menu", "owner": owner, "currency": "EUR"})
}

async fn second(fleet: &TestFleet) -> Producer {
    Producer::new(fleet.connect("t2-producer").await, "t2")
}

fn verdicts(fleet: &TestFleet, verdict: &str) -> u64 {
    let metrics = fleet.metrics.group::<ConsumeMetrics>();
    metrics.verdicts.with_label_values(&["command-handler", verdict]).get()
}

/// Waits for a count to arrive, however long it takes; it only must not stand still.
async fn until_count(what: &str, count: u64, mut now: impl AsyncFnMut() -> u64) {
    let mut reached = now().await;
    let mut moved = Instant::now();
    let mut tick = interval(Duration::from_millis(200));
    while reached < count {
        tick.tick().await;
        let counted = now().await;
        if counted > reached {
            (reached, moved) = (counted, Instant::now());
        }
        assert!(moved.elapsed() < Duration::from_secs(180), "{what} stopped at {reached}");
    }
}

/// Lets a flooding client store commands of `t1`, so many at once, and again what the stream does
/// not accept.
async fn store(
    fleet: &Arc<TestFleet>,
    at_once: usize,
    commands: impl Iterator<Item = (String, String, String)> + Send + 'static,
) {
    client(fleet, Nice::Flood, move |fleet| store_from(fleet, at_once, commands)).await;
}

async fn store_from(
    fleet: Arc<TestFleet>,
    at_once: usize,
    commands: impl Iterator<Item = (String, String, String)>,
) {
    let js = jetstream::new(fleet.connect("t1-producer").await);
    let stored = stream::iter(commands).map(|(id, what, payload)| {
        let js = js.clone();
        async move {
            until("the stream to accept a command", async || {
                let mut headers = HeaderMap::new();
                headers.insert("Command-Id", id.as_str());
                let subject = format!("cmd.t1.{what}");
                let sent = js.publish_with_headers(subject, headers, payload.clone().into());
                sent.await.ok()?.await.ok()
            })
            .await;
        }
    });
    stored.buffer_unordered(at_once).collect::<()>().await;
}

/// Bytes and messages of a stream.
async fn held(fleet: &TestFleet, stream: &str) -> (u64, u64) {
    let js = jetstream::new(fleet.connect("operator").await);
    let info: Value = js.request(format!("STREAM.INFO.{stream}"), &json!({})).await.unwrap();
    let number = |field: &str| info["state"][field].as_u64().unwrap();
    (number("bytes"), number("messages"))
}

/// Returns how many commands of `t1` have an outcome of this status.
async fn decided(fleet: &TestFleet, status: i32) -> i64 {
    let count = "select count(*) from brigade.command_inbox
                 where tenant = 't1' and (outcome ->> 'status')::int = $1";
    sqlx::query_scalar(count).bind(status).fetch_one(&fleet.sql).await.unwrap()
}
