//! S8-01: `brigade status` names first what is wrong, and metrics that others serve show it.

use std::collections::BTreeMap;

use async_nats::jetstream;
use brigade::operations::finding::Severity;
use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, TestFleet,
    operators::Watch,
    process::{Process, printed, refused},
    producer::placed,
    until,
};
use serde_json::{Value, json};

/// Starts each worker in a process of its own.
pub async fn processes(fleet: &TestFleet) -> BTreeMap<WorkerName, Process> {
    let mut processes = BTreeMap::new();
    for worker in WorkerName::ALL {
        processes.insert(worker, Process::start(fleet, &[worker], None).await);
    }
    processes
}

/// Returns the value of a series that a process serves.
async fn metric(process: &Process, series: &str) -> Option<f64> {
    let text = HttpClient::new(process.admin(), "t1").text("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

async fn until_metric(process: &Process, series: &str, is: impl Fn(f64) -> bool) {
    until(series, || async { metric(process, series).await.filter(|value| is(*value)) }).await;
}

#[tokio::test]
async fn s8_01_each_worker_killed_is_named_first_and_others_metrics_show_it() {
    let fleet = TestFleet::empty().await;
    let mut running = processes(&fleet).await;
    let mut watch = Watch::of(&fleet);
    watch.until_fine().await;
    for worker in WorkerName::ALL {
        running.remove(&worker).expect("it runs").kill().await;
        let is_dead = |what: &str| what.starts_with("dead: process ");
        let named = format!("{worker} to be named first");
        let first = watch
            .until_first(&named, |first| first.subject == worker.as_str() && is_dead(&first.what))
            .await;
        assert_eq!(first.severity, Severity::Error);
        assert!(first.mend.contains(&format!("`brigade run {worker}`")), "{first:?}");
        println!("{worker}: {}", first.what);
        // By any other process, also where it is the one that looks at the fleet.
        for other in running.values() {
            let series = format!("brigade_workers_alive{{worker=\"{worker}\"}}");
            until_metric(other, &series, |alive| alive == 0.0).await;
        }
        running.insert(worker, Process::start(&fleet, &[worker], None).await);
        watch.until_fine().await;
    }
}

#[tokio::test]
async fn s8_01_a_worker_that_is_stopped_is_named_first_and_fine_when_it_goes_on() {
    let fleet = TestFleet::empty().await;
    let running = processes(&fleet).await;
    let mut watch = Watch::of(&fleet);
    watch.until_fine().await;
    let relay = &running[&WorkerName::OutboxRelay];
    relay.signal("STOP").await;
    watch.until_first("the relay first", |first| first.subject == "outbox-relay").await;
    relay.resume().await;
    watch.until_fine().await;
}

#[tokio::test]
async fn s8_01_one_of_two_that_dies_is_missed_until_another_one_starts() {
    let mut fleet = TestFleet::empty().await;
    fleet.run_all().await;
    let second = Process::start(&fleet, &[WorkerName::PaymentProjector], None).await;
    // Its first sign of life may say that it is starting.
    until("both to say that they are ready", || async {
        let ready = "select count(*) from brigade.instances
                     where worker = 'payment-projector' and trouble is null";
        let ready: i64 = sqlx::query_scalar(ready).fetch_one(&fleet.sql).await.ok()?;
        (ready == 2).then_some(())
    })
    .await;
    let mut watch = Watch::of(&fleet);
    watch.until_fine().await;
    second.kill().await;
    let first = watch.until_first("the second one", |f| f.subject == "payment-projector").await;
    assert!(first.what.starts_with("an instance is dead: "), "{first:?}");
    assert!(first.what.ends_with("; 1 live"), "{first:?}");
    // One that leaves in good order is not missed.
    fleet.run(WorkerName::PaymentProjector).await;
    watch.until_fine().await;
    fleet.stop_one(WorkerName::PaymentProjector).await;
    watch.until_fine().await;
    fleet.finish().await;
}

#[tokio::test]
async fn s8_01_what_waits_is_named_with_whose_work_it_is() {
    let fleet = TestFleet::start_without(WorkerName::OutboxRelay).await;
    let mut watch = Watch::of(&fleet);
    let producer = fleet.producer().await;
    producer.done("order.o1.place", placed(&[("Soup", 500, 1)])).await;
    let first = watch.until_first("no relay", |first| first.subject == "outbox-relay").await;
    assert_eq!(first.what, "does not run: no instance has given a sign of life");
    let lags = watch.until_any("the outbox", |f| f.what.contains(" rows of outbox, the ")).await;
    assert_eq!((lags.subject.as_str(), lags.severity), ("outbox-relay", Severity::Error));

    // A consumer that somebody has paused.
    let js = jetstream::new(fleet.connect("operator").await);
    let paused = json!({ "pause_until": "2100-01-01T00:00:00Z" });
    let subject = "CONSUMER.PAUSE.COMMANDS.command-handler".to_owned();
    let answer: Value = js.request(subject, &paused).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    let stuck = watch.until_any("a consumer that is paused", |f| f.what.contains("paused")).await;
    assert_eq!(stuck.mend, "`nats consumer resume COMMANDS command-handler`");
}

#[tokio::test]
async fn s8_01_a_server_that_is_away_stands_before_everything_else() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let mut watch = Watch::of(&fleet);
    watch.until_fine().await;
    fleet.nats.stop().await;
    let first = watch.until_first("NATS", |first| first.subject == "nats").await;
    assert_eq!(first.severity, Severity::Unreachable);
    let unready = |what: &str| what.starts_with("not ready: ");
    watch.until_any("a worker that says so", |f| unready(&f.what)).await;
    fleet.nats.restart().await.unwrap();
    watch.until_fine().await;
    fleet.postgres_mut().stop().await;
    watch.until_first("Postgres", |first| first.subject == "postgres").await;
    fleet.postgres_mut().restart().await.unwrap();
    watch.until_fine().await;
}

#[tokio::test]
async fn s8_01_the_command_prints_one_screen_and_its_exit_status_says_how_bad_it_is() {
    let fleet = TestFleet::start().await;
    Watch::of(&fleet).until_fine().await;
    let screen = printed(&fleet, "status").await;
    for part in ["nothing is wrong", "command-handler", "outbox", "TIMERS", "last full audit"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let json = printed(&fleet, "status --json").await;
    let json = json.lines().find(|line| line.starts_with('{')).expect("JSON");
    let status: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!((&status["worst"], &status["findings"]), (&json!("fine"), &json!([])));
    fleet.stop_one(WorkerName::Edge).await;
    refused(&fleet, "status").await;
}

#[tokio::test]
async fn s8_05_the_figure_to_scale_by_is_served_by_one_and_outlives_it() {
    let fleet = TestFleet::empty().await;
    let mut handler = Some(Process::start(&fleet, &[WorkerName::CommandHandler], None).await);
    let verifiers = [
        Process::start(&fleet, &[WorkerName::CacheVerifier], None).await,
        Process::start(&fleet, &[WorkerName::CacheVerifier], None).await,
    ];
    let series = |name: &str| {
        format!("brigade_consumer_{name}{{consumer=\"command-handler\",stream=\"COMMANDS\"}}")
    };
    // The leader alone has the figure, and it is 0 at rest.
    let pending = series("pending");
    let leader = until("a leader", || async {
        let mut shown = Vec::new();
        for (place, verifier) in verifiers.iter().enumerate() {
            shown.extend(metric(verifier, &pending).await.map(|value| (place, value)));
        }
        (shown.len() == 1).then(|| shown[0])
    })
    .await;
    assert_eq!(leader.1, 0.0);
    handler.take().expect("it runs").kill().await;
    let producer = fleet.producer().await;
    for order in 0..20 {
        let payload = placed(&[("Soup", 500, 1)]).to_string();
        producer.store(&format!("k{order}"), &format!("order.o{order}.place"), &payload).await;
    }
    let [mut first, mut second] = verifiers;
    if leader.0 == 1 {
        (first, second) = (second, first);
    }
    until_metric(&first, &pending, |waits| waits == 20.0).await;
    until_metric(&first, &series("oldest_seconds"), |age| age > 0.0).await;
    first.kill().await;
    until_metric(&second, &pending, |waits| waits == 20.0).await;
    let _handler = Process::start(&fleet, &[WorkerName::CommandHandler], None).await;
    for name in ["pending", "ack_pending", "oldest_seconds"] {
        until_metric(&second, &series(name), |waits| waits == 0.0).await;
    }
}
