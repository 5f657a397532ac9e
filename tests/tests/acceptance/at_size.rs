//! Bounds at their full size. These tests take minutes and gigabytes, so they are run by hand, one
//! at a time: `cargo test -p brigade-tests --test acceptance -- --ignored --nocapture at_size::`.
//! They print figures, which depend on the machine, and assert what must hold on any.

mod decided_commands;
mod duties;
mod hostile_programs;
mod letters;
mod payments;
mod retried;

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use brigade::runtime::ConsumeMetrics;
use brigade_tests::{Producer, Reply, TestFleet, until};
use futures::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

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

/// Stores commands of `t1`, so many at once, and again what the stream does not accept.
async fn store(
    fleet: &TestFleet,
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

/// The time until a request was answered with something else than `503`, how often it was asked
/// before, and the answer.
async fn asked(producer: &Producer, id: &str) -> (Duration, usize, Reply) {
    let (began, again) = (Instant::now(), AtomicUsize::new(0));
    let (subject, payload) = (format!("req.{}.cart.{id}.open", producer.tenant), open(id));
    let payload = payload.to_string();
    let reply = until("a decision", || async {
        let (within, headers) = (Duration::from_secs(10), [("Command-Id", id)]);
        let reply = producer.request_within(within, &subject, &headers, payload.as_bytes()).await?;
        again.fetch_add(usize::from(reply.status == 503), Relaxed);
        (reply.status != 503).then_some(reply)
    })
    .await;
    (began.elapsed(), again.into_inner(), reply)
}

/// Times of a tenant's requests.
struct Times {
    sorted: Vec<Duration>,
    /// Requests that were first answered `503`.
    repeated: usize,
}

impl Times {
    fn at(&self, percent: usize) -> Duration {
        self.sorted[(self.sorted.len() - 1) * percent / 100]
    }

    fn print(&self, when: &str) {
        let Self { sorted, repeated } = self;
        let (p50, p99, most) = (self.at(50), self.at(99), self.at(100));
        let count = sorted.len();
        figure(&format!(
            "{when}: {count} requests of t2, p50 {p50:.1?}, p99 {p99:.1?}, longest {most:.1?}, \
             {repeated} times 503 before"
        ));
    }

    fn compare(&self, quiet: &Self) {
        let ratio = |percent| self.at(percent).as_secs_f64() / quiet.at(percent).as_secs_f64();
        figure(&format!(
            "beside it to quiet: p50 x {:.2}, p99 x {:.2} (goal: p99 below 3)",
            ratio(50),
            ratio(99)
        ));
    }
}

/// Opens a cart each 50 ms at the request door, whether the last one was answered or not, until it
/// is told to end.
async fn times(producer: Producer, name: &str, mut end: watch::Receiver<bool>) -> Times {
    let mut tick = interval(Duration::from_millis(50));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = Vec::new();
    while !*end.borrow_and_update() {
        tick.tick().await;
        let (producer, id) = (producer.clone(), format!("{name}{}", asking.len()));
        asking.push(tokio::spawn(async move { asked(&producer, &id).await }));
    }
    let (mut sorted, mut repeated) = (Vec::new(), 0);
    for answered in join_all(asking).await {
        let (time, again, reply) = answered.expect("an answer");
        assert_eq!(reply.status, 201, "{}", reply.body());
        sorted.push(time);
        repeated += again;
    }
    sorted.sort();
    Times { sorted, repeated }
}

/// Times while nothing else is sent.
async fn quiet(producer: &Producer) -> Times {
    // What is done at the first time only is not measured.
    for warm in 0..20 {
        asked(producer, &format!("warm{warm}")).await;
    }
    let (times, ()) = beside(producer, "quiet", async {
        let mut tick = interval(Duration::from_secs(10));
        tick.tick().await;
        tick.tick().await;
    })
    .await;
    times.print("quiet");
    times
}

/// Times while something else goes on.
async fn beside<T>(producer: &Producer, name: &str, work: impl Future<Output = T>) -> (Times, T) {
    let (end, ended) = watch::channel(false);
    let times = tokio::spawn({
        let (producer, name) = (producer.clone(), name.to_owned());
        async move { times(producer, &name, ended).await }
    });
    let done = work.await;
    end.send(true).expect("it listens");
    (times.await.expect("times"), done)
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
