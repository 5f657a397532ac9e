//! S4: the list is right whatever is cut or killed between it and the orders.

use std::{sync::Arc, time::Instant};

use async_nats::Client;
use brigade::fleet::Instance;
use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet, polled_orders::PolledOrders, producer::placed, proxy::TcpProxy, until,
    until_ready,
};
use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    lists::{place, rows_in_sql},
    lists_in_memory::{
        STEPS, caught_up, content, end_watches, list, lost, rows_from, switch, until_brought,
        until_caught_up, watched,
    },
};

/// An order in the random operations, with its progress and that of its payment.
#[derive(Clone)]
struct Meal {
    order: String,
    step: usize,
    paid: usize,
}

impl Meal {
    /// Returns the next command of it.
    fn next(&mut self, random: &mut StdRng, made: &mut usize) -> (String, Value) {
        let Self { order, step, paid } = self;
        if *step > STEPS.len() || order.is_empty() {
            *made += 1;
            *self = Self { order: format!("m{made}"), step: 0, paid: 0 };
            return (format!("order.{}.place", self.order), placed(&[("Soup", 500, 1)]));
        }
        match random.random_range(0..10) {
            0 if *paid == 0 && *step < 4 => {
                *step = STEPS.len() + 1;
                (format!("order.{order}.cancel"), json!({"reason": "guest left"}))
            }
            1..4 if *paid == 0 => {
                *paid = 1;
                let target = json!({"target": {"order": order}, "method": "cash"});
                (format!("payment.p{order}.initiate"), target)
            }
            _ if *paid == 1 => {
                *paid = 2;
                let cash = json!({"amount": 500, "currency": "EUR"});
                (format!("payment.p{order}.confirm_cash"), cash)
            }
            _ => {
                let verb = STEPS[(*step).min(STEPS.len() - 1)];
                *step += if *step + 1 >= STEPS.len() { 2 } else { 1 };
                (format!("order.{order}.{verb}"), json!({}))
            }
        }
    }
}

/// Starts an edge whose connection to NATS can be cut.
async fn edge_by(proxy: &TcpProxy, fleet: &TestFleet) -> Instance {
    let mut servers = fleet.servers(WorkerName::Edge);
    let (far, near) = (fleet.nats.port().to_string(), proxy.port().to_string());
    servers.nats_url = servers.nats_url.replace(&far, &near);
    let (metrics, fail) = (fleet.metrics.clone(), fleet.fail.clone());
    let edge = Instance::start(WorkerName::Edge, servers, metrics, fail);
    until_ready(&edge).await;
    edge
}

/// Cuts the watch in one of several ways.
async fn cut_the_watch(fleet: &mut TestFleet, operator: &Client, proxy: &TcpProxy, how: u32) {
    match how {
        0 => drop(end_watches(operator).await),
        1 => proxy.cut(),
        _ => {
            fleet.take(WorkerName::Edge).kill().await;
            fleet.adopt(edge_by(proxy, fleet).await);
        }
    }
}

#[tokio::test]
async fn s4_04_the_list_equals_sql_after_10000_random_operations_with_the_watch_cut() {
    const AT_ONCE: usize = 100;
    const ROUNDS: usize = 100;
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let operator = fleet.connect("operator").await;
    let proxy = TcpProxy::to(fleet.nats.port()).await.unwrap();
    fleet.take(WorkerName::Edge).stop().await;
    fleet.adopt(edge_by(&proxy, &fleet).await);
    let mut random = StdRng::seed_from_u64(404);
    let mut meals = vec![Meal { order: String::new(), step: 0, paid: 0 }; AT_ONCE];
    let (mut made, mut cuts) = (0, 0);
    let mut screen = PolledOrders::default();
    screen.apply(&list(&producer, &[]).await);
    for round in 1..=ROUNDS {
        let commands: Vec<_> = meals.iter_mut().map(|m| m.next(&mut random, &mut made)).collect();
        let sent = commands.iter().enumerate().map(|(n, (what, payload))| {
            let id = format!("k{round}-{n}");
            let (producer, payload) = (&producer, payload.to_string());
            async move { producer.store(&id, what, &payload).await }
        });
        join_all(sent).await;
        // In the middle of it.
        let how = random.random_range(0..12);
        if how < 3 {
            cut_the_watch(&mut fleet, &operator, &proxy, how).await;
            cuts += 1;
        }
        until("the outcomes", || async {
            let sql = "select count(*) from brigade.command_inbox where command_id like 'k%'";
            let done: i64 = sqlx::query_scalar(sql).fetch_one(&fleet.sql).await.ok()?;
            (done == i64::try_from(round * AT_ONCE).unwrap()).then_some(())
        })
        .await;
        if random.random_bool(0.3) {
            let resume = screen.resume.clone();
            screen.apply(&list(&producer, &[("Resume", &resume)]).await);
            let rows = rows_in_sql(&fleet).await;
            assert_eq!(json!(screen.rows), rows, "after {round} rounds");
            assert_eq!(list(&producer, &[]).await.body()["rows"], rows);
        }
    }
    fleet.until_idle().await;
    let sql = "select outcome->>'status' as status, count(*) from brigade.command_inbox
               where command_id like 'k%' group by 1 order by 1";
    let outcomes: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&fleet.sql).await.unwrap();
    println!(
        "{outcomes:?}, {cuts} cuts, {} rows of memory, {} of SQL, {} of the watch",
        rows_from(&fleet, "memory"),
        rows_from(&fleet, "sql"),
        watched(&fleet, "row")
    );
    let done = outcomes.iter().filter(|(status, _)| status.starts_with('2'));
    assert!(cuts > 5 && done.map(|(_, count)| count).sum::<i64>() > 9_000);
    assert_eq!(watched(&fleet, "refused"), 0);

    let warm = content(&producer.active_orders(&[]).await);
    let sql = rows_from(&fleet, "sql");
    assert_eq!(content(&producer.active_orders(&[]).await), warm);
    assert_eq!(rows_from(&fleet, "sql"), sql, "all of it comes from memory");
    switch(&mut fleet, false).await;
    let off = producer.active_orders(&[]).await;
    assert_eq!(content(&off), warm);
    assert_eq!(off.body()["rows"], rows_in_sql(&fleet).await);
    screen.poll(&producer).await;
    assert_eq!(json!(screen.rows), off.body()["rows"]);
    fleet.finish().await;
}

/// Changes orders and queries the list after each outcome, until it is stopped. Returns the number
/// of queries.
async fn look_after_each_outcome(producer: Producer, stop: Arc<Notify>) -> usize {
    let mut looks = 0;
    let stopped = stop.notified();
    tokio::pin!(stopped);
    for n in 0.. {
        let order = format!("w{n}");
        for verb in ["place", "accept", "prepare", "cancel"] {
            let payload = match verb {
                "place" => placed(&[("Soup", 500, 1)]),
                "cancel" => json!({"reason": "guest left"}),
                _ => json!({}),
            };
            let what = format!("order.{order}.{verb}");
            let outcome =
                producer.send_until_decided(&format!("{order}-{verb}"), &what, payload).await;
            assert!(outcome.status < 300, "{}", outcome.body());
            let list = list(&producer, &[]).await;
            looks += 1;
            let body = list.body();
            let rows = body["rows"].as_array().unwrap();
            let row = rows.iter().find(|row| row["order"] == order.as_str());
            let shown = row.map(|row| row["version"].clone());
            let expected = (verb != "cancel").then(|| outcome.body()["version"].clone());
            assert_eq!(shown, expected, "{verb} {order}: the list is older than the outcome");
        }
        if futures::poll!(stopped.as_mut()).is_ready() {
            return looks;
        }
    }
    looks
}

#[tokio::test]
async fn s4_06_the_list_is_right_after_kills_and_cut_connections() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let operator = fleet.connect("operator").await;
    // The edge whose connection can be cut.
    fleet.take(WorkerName::Edge).stop().await;
    let proxy = TcpProxy::to(fleet.nats.port()).await.unwrap();
    let mut edge = edge_by(&proxy, &fleet).await;
    until_caught_up(&fleet, 0).await;
    for n in 0..20 {
        place(&producer, &format!("o{n}")).await;
    }
    let stop = Arc::new(Notify::new());
    let looking = tokio::spawn(look_after_each_outcome(producer.clone(), stop.clone()));
    for fault in ["killed edge", "killed NATS server", "cut connection", "ended watch"] {
        let (before, struck) = (caught_up(&fleet), Instant::now());
        match fault {
            "killed edge" => {
                edge.kill().await;
                edge = edge_by(&proxy, &fleet).await;
            }
            "killed NATS server" => {
                fleet.nats.kill().await;
                fleet.nats.restart().await.unwrap();
            }
            "cut connection" => proxy.cut(),
            // One that its edge has left behind may be among them.
            _ => assert!(end_watches(&operator).await >= 1),
        }
        let list = list(&producer, &[]).await;
        let right = struck.elapsed();
        assert!(list.body()["rows"].as_array().unwrap().len() >= 20);
        until_caught_up(&fleet, before).await;
        println!("{fault}: right after {right:?}, memory warm again after {:?}", struck.elapsed());
        // It is followed again: what changes now is brought.
        let before = watched(&fleet, "row");
        until_brought(&fleet, before, 8).await;
    }
    stop.notify_one();
    let looks = looking.await.unwrap();
    println!("{looks} lists, none older than an outcome");
    for why in ["connection", "silent"] {
        assert!(lost(&fleet, why) >= 1, "{why}");
    }
    fleet.until_idle().await;
    assert_eq!(producer.active_orders(&[]).await.body()["rows"], rows_in_sql(&fleet).await);
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    fleet.finish().await;
}
