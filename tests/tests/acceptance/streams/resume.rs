//! Readers that reconnect, and positions that are unknown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use brigade::{
    fleet::Instance,
    runtime::http::{HttpServer, RouterMount, serve_api},
};
use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, Producer, TestFleet,
    sse::{SseStream, StreamedOrders},
    until, until_ready,
};
use futures::future::join_all;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;
use tokio::sync::watch;

use super::{ACTIVE, change, converge, fleet, fresh, open, place, step};

/// An edge with an address of its own.
pub struct Edge {
    pub instance: Instance,
    pub http: HttpClient,
    _serving: HttpServer,
}

impl Edge {
    pub async fn start(fleet: &TestFleet) -> Self {
        let mut servers = fleet.servers(WorkerName::Edge);
        servers.settings.http.mount = RouterMount::default();
        let options = servers.settings.http.clone();
        let (metrics, fail) = (fleet.metrics.clone(), fleet.fail.clone());
        let instance = Instance::start(WorkerName::Edge, servers, metrics, fail);
        until_ready(&instance).await;
        let serving = serve_api(([127, 0, 0, 1], 0).into(), None, &options).await.expect("a port");
        let http = HttpClient::new(format!("http://{}", serving.address), "t1");
        Self { instance, http, _serving: serving }
    }
}

/// A connection to one of two edges, cut after some events; then some operations happen.
#[derive(Clone, Copy, Debug)]
struct Cut {
    edge: usize,
    events: usize,
    offline: usize,
}

fn cut() -> impl Strategy<Value = Cut> {
    (0..2_usize, 0..6_usize, 0..12_usize).prop_map(|(edge, events, offline)| Cut {
        edge,
        events,
        offline,
    })
}

/// Changes orders of its own; none is placed twice.
async fn operate(producer: &Producer, who: usize, choices: &[(usize, bool)], done: &AtomicUsize) {
    const VERBS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];
    let mut steps: Vec<usize> = Vec::new();
    for (choice, cancels) in choices {
        let order = |at: usize| format!("o{who}-{at}");
        match steps.get_mut(*choice) {
            None => {
                place(producer, &order(steps.len())).await;
                steps.push(0);
            }
            Some(ended) if *ended == VERBS.len() => {}
            Some(at) if *cancels && *at < 4 => {
                step(producer, &order(*choice), "cancel").await;
                *at = VERBS.len();
            }
            Some(at) => {
                step(producer, &order(*choice), VERBS[*at]).await;
                *at += 1;
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Follows the list over connections that are cut, until all operations are done.
async fn follow(
    webs: &[HttpClient],
    cuts: &[Cut],
    operations: &AtomicUsize,
    mut over: watch::Receiver<bool>,
    producer: &Producer,
) -> (StreamedOrders, usize) {
    let mut orders = StreamedOrders::default();
    let mut connections = 0;
    for cut in cuts.iter().cycle() {
        let is_over = *over.borrow();
        let mut events = open(&webs[cut.edge], orders.id.as_deref()).await;
        connections += 1;
        if is_over {
            converge(&mut events, &mut orders, producer).await;
            return (orders, connections);
        }
        for _ in 0..cut.events {
            tokio::select! {
                event = events.next() => orders.apply(&event.expect("it goes on"), &events.id),
                _ = over.wait_for(|over| *over) => break,
            }
        }
        drop(events);
        let back = operations.load(Ordering::SeqCst) + cut.offline;
        until("some operations", async || {
            (operations.load(Ordering::SeqCst) >= back || *over.borrow()).then_some(())
        })
        .await;
    }
    unreachable!("a cycle has no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_08_a_reader_that_was_offline_resumes_and_misses_nothing() {
    let (fleet, producer, http) = fleet().await;
    let other = Edge::start(&fleet).await;
    let webs = [http, other.http.clone()];
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let choices = prop::collection::vec((0..30_usize, prop::bool::weighted(0.2)), 120);
    let choices: Vec<_> =
        (0..4).map(|_| choices.new_tree(&mut runner).unwrap().current()).collect();
    let cuts = prop::collection::vec(cut(), 100);
    let cuts: Vec<_> = (0..4).map(|_| cuts.new_tree(&mut runner).unwrap().current()).collect();
    let operations = Arc::new(AtomicUsize::new(0));
    let (end, over) = watch::channel(false);
    let operating = async {
        let each = choices.iter().enumerate();
        join_all(each.map(|(who, choices)| operate(&producer, who, choices, &operations))).await;
        end.send(true).expect("somebody follows");
    };
    let following = cuts.iter().map(|cuts| {
        let over = over.clone();
        follow(&webs, cuts, &operations, over, &producer)
    });
    let (boards, ()) = tokio::join!(join_all(following), operating);
    let expected = fresh(&producer).await;
    for (orders, connections) in boards {
        println!("{connections} connections, {} changes, {} rows", orders.changes, expected.len());
        assert_eq!(orders.rows(), expected);
        assert_eq!((orders.snapshots, orders.resets), (1, 0), "it was told everything once");
        assert!(connections > 10, "{connections}");
    }
    other.instance.stop().await;
    fleet.finish().await;
}

/// Reads changes, and nothing but changes, up to that of an order. Some may be repeated while
/// transactions of others are open.
async fn until_told(events: &mut SseStream, order: &str) {
    while change(events).await["order"] != order {}
}

#[tokio::test]
async fn a_position_that_leads_nowhere_is_reset() {
    let (fleet, producer, http) = fleet().await;
    place(&producer, "o1").await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    events.next().await.expect("a snapshot");
    let good = events.id.clone();
    place(&producer, "o2").await;
    let mut theirs = http.of("t2").stream(ACTIVE, None).await.expect("a stream");
    theirs.next().await.expect("a snapshot");
    // The clock of a position is its fifth word, when its Postgres was started the third one.
    let other = |word: usize, by: i64| {
        let mut words: Vec<String> = good.split('.').map(str::to_owned).collect();
        let number = i64::from_str_radix(&words[word], 16).expect("a number");
        words[word] = format!("{:x}", number + by);
        words.join(".")
    };
    let eleven_minutes_ago = other(4, -11 * 60 * 1000);
    let nine_minutes_ago = other(4, -9 * 60 * 1000);
    let another_start = other(2, 1);
    let mut placed = 0;
    for odd in ["", "?", "42", "ä", &theirs.id, &eleven_minutes_ago, &another_start] {
        let mut events = http.stream(ACTIVE, Some(odd)).await.expect("a stream");
        let mut orders = StreamedOrders::default();
        let event = events.next().await.expect("a reset");
        assert_eq!(event.kind, "reset", "{odd}");
        orders.apply(&event, &events.id);
        assert_eq!(orders.rows(), fresh(&producer).await, "{odd}");
        // From there on it goes on as any other.
        let mut events = http.stream(ACTIVE, orders.id.as_deref()).await.expect("a stream");
        placed += 1;
        place(&producer, &format!("new{placed}")).await;
        until_told(&mut events, &format!("new{placed}")).await;
    }
    // What is of an earlier moment leads on as well, by more changes.
    for known in [&good, &nine_minutes_ago] {
        let mut events = http.stream(ACTIVE, Some(known)).await.expect("a stream");
        until_told(&mut events, "o2").await;
    }
    fleet.finish().await;
}

/// While a transaction is open, everything committed after it began may have changed since any
/// later position: readers get it once.
#[tokio::test]
async fn a_change_is_told_once_however_long_a_transaction_is_open() {
    let (fleet, producer, http) = fleet().await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    events.next().await.expect("a snapshot");
    let mut open = fleet.sql.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *open).await.unwrap();
    for order in ["o1", "o2", "o3"] {
        place(&producer, order).await;
        assert_eq!(change(&mut events).await["order"], order);
    }
    // What was asked again meanwhile has brought nothing.
    events.heartbeat().await.expect("it goes on");
    step(&producer, "o2", "accept").await;
    let told = change(&mut events).await;
    assert_eq!((&told["order"], &told["status"]), (&json!("o2"), &json!("accepted")));
    assert_eq!(fleet.edge_metrics().stream_changes.get(), 4);
    open.commit().await.unwrap();
    fleet.finish().await;
}

/// While a transaction is open, changes that are too many for an answer are so each time.
#[tokio::test]
async fn what_is_told_anew_with_each_answer_is_told_once_a_second() {
    let (fleet, producer, http) = fleet().await;
    place(&producer, "o").await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    let mut orders = StreamedOrders::default();
    converge(&mut events, &mut orders, &producer).await;
    let mut open = fleet.sql.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *open).await.unwrap();
    sqlx::raw_sql(
        "insert into brigade.orders (tenant, id, version, updated_at, parts, parts_at, status,
                                     currency, items, total, created_at)
         select tenant, status.status || n, version, clock_timestamp(), parts, parts_at,
                status.status, currency, items, total, created_at
         from brigade.orders, generate_series(1, 600) n,
              (values ('placed'), ('cancelled')) as status (status)",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    converge(&mut events, &mut orders, &producer).await;
    assert!(orders.resets > 0, "they are too many to be told as changes");
    let (began, before) = (Instant::now(), orders.resets);
    for n in 0..30 {
        place(&producer, &format!("new{n}")).await;
    }
    converge(&mut events, &mut orders, &producer).await;
    let (anew, seconds) = (orders.resets - before, began.elapsed().as_secs());
    println!("told anew {anew} times in {seconds} s");
    assert!(anew as u64 <= seconds + 2, "{anew} times in {seconds} s");
    // Its changes can be told again.
    open.commit().await.unwrap();
    place(&producer, "last").await;
    converge(&mut events, &mut orders, &producer).await;
    step(&producer, "last", "cancel").await;
    loop {
        let event = events.next().await.expect("it goes on");
        if event.kind == "change" && event.data["order"] == "last" {
            break;
        }
    }
}

async fn until_shown(events: &mut SseStream, orders: &mut StreamedOrders, rows: usize) {
    while orders.rows().len() != rows {
        let event = events.next().await.expect("it goes on");
        orders.apply(&event, &events.id);
    }
}

#[tokio::test]
async fn a_list_of_more_than_a_page_is_followed() {
    let (fleet, producer, http) = fleet().await;
    for hundred in 0..10 {
        let names: Vec<_> = (0..100).map(|n| format!("o{:04}", hundred * 100 + n)).collect();
        join_all(names.iter().map(|name| place(&producer, name))).await;
    }
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    let mut orders = StreamedOrders::default();
    converge(&mut events, &mut orders, &producer).await;
    assert_eq!((orders.rows().len(), orders.snapshots), (1000, 1));
    // One more than a page has room for is followed all the same.
    place(&producer, "p1").await;
    until_shown(&mut events, &mut orders, 1001).await;
    assert_eq!(orders.rows()[0]["order"], "p1");
    for (order, left) in [("p1", 1000), ("o0500", 999)] {
        step(&producer, order, "cancel").await;
        // Told as a change, or anew: while any transaction of the server is older, all these orders
        // count as changed, and are too many.
        until_shown(&mut events, &mut orders, left).await;
    }
    assert_eq!(orders.rows(), super::fresh(&producer).await);
    fleet.finish().await;
}
