//! S4: rows of lists come from memory, which a watch keeps warm, and are right whatever happens to
//! the watch.

use std::time::Duration;

use async_nats::Client;
use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, Reply, SUPERUSER, TestFleet, polled_orders::PolledOrders, producer::item, until,
};
use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::lists::{place, rows_in_sql, step, without_position};

pub const STEPS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];

pub fn rows_from(fleet: &TestFleet, from: &str) -> u64 {
    fleet.edge_metrics().list_rows.with_label_values(&[from]).get()
}

pub fn watched(fleet: &TestFleet, what: &str) -> u64 {
    fleet.edge_metrics().list_watched.with_label_values(&[what]).get()
}

pub fn lost(fleet: &TestFleet, why: &str) -> u64 {
    fleet.edge_metrics().list_watch_lost.with_label_values(&[why]).get()
}

pub fn caught_up(fleet: &TestFleet) -> u64 {
    fleet
        .edge_metrics()
        .list_watch_recovery_seconds
        .with_label_values::<&str>(&[])
        .get_sample_count()
}

/// Waits until the watch has brought rows `times` times since `before`.
pub async fn until_brought(fleet: &TestFleet, before: u64, times: u64) {
    until("the watch to bring rows", || async {
        (watched(fleet, "row") >= before + times).then_some(())
    })
    .await;
}

/// Waits until a watch has brought everything once more than `before`.
pub async fn until_caught_up(fleet: &TestFleet, before: u64) {
    until("the watch to bring everything", || async { (caught_up(fleet) > before).then_some(()) })
        .await;
}

/// Makes the server end the watches of all edges without telling them.
pub async fn end_watches(operator: &Client) -> usize {
    let names = "$JS.API.CONSUMER.NAMES.KV_active_orders";
    let names = operator.request(names, "".into()).await.unwrap();
    let names: Value = serde_json::from_slice(&names.payload).unwrap();
    let names = names["consumers"].as_array().cloned().unwrap_or_default();
    for name in &names {
        let name = name.as_str().unwrap();
        let subject = format!("$JS.API.CONSUMER.DELETE.KV_active_orders.{name}");
        operator.request(subject, "".into()).await.unwrap();
    }
    names.len()
}

/// Queries the list until it is confirmed.
pub async fn list(producer: &Producer, headers: &[(&str, &str)]) -> Reply {
    until("an answer to the query", || async {
        let one_try = Duration::from_millis(500);
        let asked = producer.request_within(one_try, "q.t1.active_orders", headers, b"").await?;
        (asked.status != 503).then_some(asked)
    })
    .await
}

/// Checks that two answers have the same content under the same ETag.
pub fn content(list: &Reply) -> (u16, String, Option<String>) {
    (list.status, without_position(list), list.etag.clone())
}

/// Replaces the fleet's edge by one whose cache is on or off.
pub async fn switch(fleet: &mut TestFleet, list_cache: bool) {
    fleet.take(WorkerName::Edge).stop().await;
    fleet.settings.list_cache = list_cache;
    fleet.run(WorkerName::Edge).await;
}

#[tokio::test]
async fn s4_03_rows_come_from_memory_and_right_when_switched_off() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    let kitchens = [producer.clone(), other];
    // 70 % lists, 20 % views of carts, 10 % commands, half of which change orders; as in the bench.
    let lane = async |lane: usize| {
        let kitchen = &kitchens[lane % 2];
        let mut random = StdRng::seed_from_u64(lane as u64);
        let cart = format!("c{lane}");
        kitchen.team_cart(&cart, "ada", &[]).await;
        let mut orders: Vec<(String, usize)> = Vec::new();
        for n in 0..200_usize {
            match random.random_range(0..100) {
                0..70 => assert_eq!(kitchen.active_orders(&[]).await.status, 200),
                70..90 => {
                    assert_eq!(kitchen.view(&format!("cart.{cart}"), None).await.status, 200);
                }
                90..95 => {
                    let item = item(&format!("i{n}"), 100, 1);
                    assert_eq!(
                        kitchen.send(&format!("cart.{cart}.add_item"), item).await.status,
                        200
                    );
                }
                _ => match orders.pop() {
                    Some((order, at)) if random.random_bool(0.8) => {
                        step(kitchen, &order, STEPS[at]).await;
                        orders.extend((at + 1 < STEPS.len()).then_some((order, at + 1)));
                    }
                    kept => {
                        orders.extend(kept);
                        let order = format!("o{lane}-{n}");
                        place(kitchen, &order).await;
                        orders.push((order, 0));
                    }
                },
            }
        }
    };
    for n in 0..30 {
        let order = format!("o{n}");
        join_all(kitchens.iter().map(|kitchen| place(kitchen, &order))).await;
    }
    join_all((0..16).map(lane)).await;
    let (memory, sql) = (rows_from(&fleet, "memory"), rows_from(&fleet, "sql"));
    let ratio = memory as f64 / (memory + sql) as f64;
    println!("{:.2} % of {} rows came from memory", ratio * 100.0, memory + sql);
    assert!(ratio > 0.9, "{memory} of memory, {sql} of SQL");

    fleet.until_idle().await;
    let mut screen = PolledOrders::default();
    screen.apply(&producer.active_orders(&[]).await);
    step(&producer, "o1", "cancel").await;
    let on = [content(&producer.active_orders(&[]).await)];
    let changes = screen.poll(&producer).await;
    screen.resume = producer.active_orders(&[]).await.body()["resume"].as_str().unwrap().into();
    switch(&mut fleet, false).await;
    let (memory, sql) = (rows_from(&fleet, "memory"), rows_from(&fleet, "sql"));
    let off = [content(&producer.active_orders(&[]).await)];
    assert_eq!(on, off);
    // A change may be told again while any transaction of the server is older: other tests have
    // some.
    let told = |changes: &[Value], order: &str| changes.iter().any(|row| row["order"] == order);
    assert!(told(&changes, "o1"), "{changes:?}");
    for _ in 0..3 {
        assert_eq!(
            json!(producer.active_orders(&[]).await.body()["rows"]),
            rows_in_sql(&fleet).await
        );
        let known = [("If-None-Match", off[0].2.as_deref().unwrap())];
        assert_eq!(producer.active_orders(&known).await.status, 304);
    }
    step(&producer, "o2", "accept").await;
    let changes = screen.poll(&producer).await;
    assert!(told(&changes, "o2"), "{changes:?}");
    let rows = rows_in_sql(&fleet).await;
    assert_eq!(json!(screen.rows), rows);
    assert_eq!(rows_from(&fleet, "memory"), memory, "nothing comes from memory");
    let read = (4 * rows.as_array().unwrap().len() + changes.len()) as u64;
    assert_eq!(rows_from(&fleet, "sql"), sql + read);
    fleet.finish().await;
}

#[tokio::test]
async fn s4_05_polling_never_overrides_a_newer_pushed_state() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let ask = || {
        let producer = producer.clone();
        tokio::spawn(async move { producer.active_orders(&[]).await })
    };
    let status = |list: &Reply| list.body()["rows"][0]["status"].clone();

    // A poll that has confirmed, and then something newer is pushed: the newer one is shown.
    place(&producer, "o1").await;
    until_brought(&fleet, 0, 1).await;
    let before = watched(&fleet, "row");
    let confirmed = fleet.fail.arm("edge.after_list_confirm");
    let poll = ask();
    confirmed.reached().await;
    step(&producer, "o1", "accept").await;
    until_brought(&fleet, before, 1).await;
    fleet.fail.disarm("edge.after_list_confirm");
    assert_eq!(status(&poll.await.unwrap()), "accepted");

    // A poll that has read its row, and then something newer is pushed: it changes nothing.
    let pushes = fleet.fail.arm("edge.before_list_push");
    step(&producer, "o1", "prepare").await;
    pushes.reached().await;
    let kept = fleet.fail.arm("edge.before_list_keep");
    let poll = ask();
    kept.reached().await;
    step(&producer, "o1", "ready").await;
    let before = watched(&fleet, "row");
    fleet.fail.disarm("edge.before_list_push");
    until_brought(&fleet, before, 2).await;
    fleet.fail.disarm("edge.before_list_keep");
    assert_eq!(status(&poll.await.unwrap()), "preparing", "as it was when it was asked");
    let sql = rows_from(&fleet, "sql");
    assert_eq!(status(&producer.active_orders(&[]).await), "ready");
    assert_eq!(rows_from(&fleet, "sql"), sql, "the pushed row is still there");

    // And a push that comes after the poll has read what it brings changes nothing either.
    let pushes = fleet.fail.arm("edge.before_list_push");
    step(&producer, "o1", "serve").await;
    pushes.reached().await;
    assert_eq!(status(&producer.active_orders(&[]).await), "served");
    let known = watched(&fleet, "known");
    fleet.fail.disarm("edge.before_list_push");
    until("the late push", || async { (watched(&fleet, "known") > known).then_some(()) }).await;
    let list = producer.active_orders(&[]).await;
    assert_eq!(status(&list), "served");
    assert_eq!(list.body()["rows"], rows_in_sql(&fleet).await);
    fleet.finish().await;
}

#[tokio::test]
async fn s4_09_metrics_of_display_hits_errors_and_recovery() {
    // Nobody mends what is spoiled here.
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    let operator = fleet.connect("operator").await;
    until_caught_up(&fleet, 0).await;
    place(&producer, "o1").await;
    until_brought(&fleet, 0, 1).await;
    step(&producer, "o1", "accept").await;
    until_brought(&fleet, 1, 1).await;
    assert_eq!(producer.active_orders(&[]).await.status, 200);
    assert_eq!((rows_from(&fleet, "memory"), rows_from(&fleet, "sql")), (1, 0));
    let displayed = fleet.edge_metrics().list_display_seconds.with_label_values::<&str>(&[]);
    assert_eq!((displayed.get_sample_count(), watched(&fleet, "row")), (2, 2));
    assert!(displayed.get_sample_sum() < 60.0, "seconds");
    let metrics = fleet.edge_metrics();
    let gauges = (&metrics.list_watch_revision, &metrics.list_watch_lag);
    assert_eq!((gauges.0.get(), gauges.1.get()), (3, 0));

    // What is not as this build writes it is counted and left alone, and so is what is removed.
    let anybody = async_nats::jetstream::new(fleet.connect(SUPERUSER).await);
    let mut deletion = async_nats::HeaderMap::new();
    deletion.insert("KV-Operation", "DEL");
    for (value, headers, counted) in [
        ("garbage", async_nats::HeaderMap::new(), (1, 0)),
        (r#"{"version":9}"#, async_nats::HeaderMap::new(), (2, 0)),
        ("", deletion, (2, 1)),
    ] {
        let subject = "$KV.active_orders.t1.o1.core";
        let sent = anybody.publish_with_headers(subject, headers, value.into()).await;
        sent.unwrap().await.unwrap();
        until("it to be counted", || async {
            ((watched(&fleet, "refused"), watched(&fleet, "gone")) == counted).then_some(())
        })
        .await;
    }
    assert_eq!(producer.active_orders(&[]).await.body()["rows"], rows_in_sql(&fleet).await);
    assert_eq!((rows_from(&fleet, "memory"), rows_from(&fleet, "sql")), (2, 0));

    // A lost watch is counted, and goes on where it was: nothing is brought twice.
    let before = caught_up(&fleet);
    assert_eq!(end_watches(&operator).await, 1);
    until_caught_up(&fleet, before).await;
    assert_eq!((lost(&fleet, "silent"), caught_up(&fleet)), (1, before + 1));
    step(&producer, "o1", "prepare").await;
    until_brought(&fleet, 2, 1).await;
    assert_eq!((watched(&fleet, "known"), gauges.0.get()), (0, 7));
    let text = fleet.metrics.render();
    for line in [
        "brigade_list_display_seconds_count 3",
        "brigade_list_rows_total{from=\"memory\"} 2",
        "brigade_list_rows_total{from=\"sql\"} 0",
        "brigade_list_watched_total{what=\"refused\"} 2",
        "brigade_list_watch_lost_total{why=\"silent\"} 1",
        "brigade_list_watch_revision 7",
        "brigade_list_watch_lag 0",
        "brigade_list_watch_recovery_seconds_count 2",
        "brigade_queries_total{query=\"active_orders\",status=\"503\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}
