//! S4 over HTTP: what is new, as server-sent events.

mod bounds;
mod faults;
mod resume;
mod sessions;
mod views;

use brigade_tests::{
    Producer, Town, Web,
    producer::placed,
    sse::{Board, Event, Events},
    until,
};
use serde_json::{Value, json};

const ACTIVE: &str = "active-orders/stream";

/// A restaurant where whoever is on HTTP is trusted.
async fn town() -> (Town, Producer, Web) {
    let mut town = Town::empty().await;
    town.settings.http.open = true;
    town.run_all().await;
    let (producer, web) = (town.producer().await, town.web().await);
    (town, producer, web)
}

/// Opens a stream as a client does, which comes again when it is told to come later.
async fn open(web: &Web, last: Option<&str>) -> Events {
    until("a stream", async || match web.stream(ACTIVE, last).await {
        Ok(events) => Some(events),
        Err(page) => {
            assert_eq!(page.status, 503, "{:?}", page.body());
            None
        }
    })
    .await
}

async fn place(producer: &Producer, order: &str) {
    producer.done(&format!("order.{order}.place"), placed(&[("Soup", 500, 1)])).await;
}

async fn step(producer: &Producer, order: &str, verb: &str) {
    let payload = if verb == "cancel" { json!({"reason": "guest left"}) } else { json!({}) };
    producer.done(&format!("order.{order}.{verb}"), payload).await;
}

/// The rows of a fresh query.
async fn fresh(producer: &Producer) -> Vec<Value> {
    let list = producer.active_orders(&[]).await;
    list.body()["rows"].as_array().expect("rows").clone()
}

/// Follows a stream until the board shows what a fresh query answers.
async fn converge(events: &mut Events, board: &mut Board, producer: &Producer) {
    while board.rows() != fresh(producer).await {
        let event = events.next().await.expect("it goes on");
        board.take(&event, &events.id);
    }
}

async fn change(events: &mut Events) -> Value {
    let Event { kind, data } = events.next().await.expect("it goes on");
    assert_eq!(kind, "change", "{data}");
    data
}

#[tokio::test]
async fn s4_01_a_placed_order_is_pushed_over_http() {
    let (town, producer, web) = town().await;
    place(&producer, "o1").await;
    let mut events = web.stream(ACTIVE, None).await.expect("a stream");
    let snapshot = events.next().await.expect("a snapshot");
    let query = web.get("active-orders", &[]).await.body();
    assert_eq!((snapshot.kind.as_str(), &snapshot.data["rows"]), ("snapshot", &query["rows"]));
    assert_eq!(snapshot.data["resume"], events.id.as_str());
    place(&producer, "o2").await;
    let pushed = change(&mut events).await;
    assert_eq!((&pushed["order"], &pushed["change"]["kind"]), (&json!("o2"), &json!("added")));
    assert_eq!(pushed, fresh(&producer).await[0], "a row as a query shows it");
    assert!(events.retry.is_some_and(|millis| millis < 2_000));
    assert_eq!(town.edge_metrics().stream_readers.get(), 1);
    assert_eq!(town.edge_metrics().stream_changes.get(), 1);
    let displayed = town.edge_metrics().stream_display_seconds.with_label_values::<&str>(&[]);
    assert_eq!(displayed.get_sample_count(), 1);
    println!("from the change to its readers: {:.1} ms", displayed.get_sample_sum() * 1e3);
    drop(events);
    let gone = async || (town.edge_metrics().stream_readers.get() == 0).then_some(());
    until("the reader to be gone", gone).await;
    let gone = async || (town.edge_metrics().stream_hubs.get() == 0).then_some(());
    until("the hub to be gone", gone).await;
    town.finish().await;
}

#[tokio::test]
async fn s4_02_added_updated_and_removed_are_pushed_with_their_reasons() {
    let (town, producer, web) = town().await;
    let mut events = web.stream(ACTIVE, None).await.expect("a stream");
    let snapshot = events.next().await.expect("a snapshot");
    assert_eq!((snapshot.kind.as_str(), &snapshot.data["rows"]), ("snapshot", &json!([])));
    let mut told = async |order: &str| {
        let row = change(&mut events).await;
        assert_eq!(row["order"], order);
        (row["status"].clone(), row["change"].clone())
    };
    place(&producer, "o1").await;
    let added = json!({"kind": "added", "fields": [], "reason": null});
    assert_eq!(told("o1").await, (json!("placed"), added.clone()));
    step(&producer, "o1", "accept").await;
    let updated = json!({"kind": "updated", "fields": ["status"], "reason": null});
    assert_eq!(told("o1").await, (json!("accepted"), updated.clone()));
    place(&producer, "o2").await;
    assert_eq!(told("o2").await, (json!("placed"), added));
    step(&producer, "o2", "cancel").await;
    let removed = |reason: &str| json!({"kind": "removed", "fields": ["status"], "reason": reason});
    assert_eq!(told("o2").await, (json!("cancelled"), removed("guest left")));
    for (verb, status) in [("prepare", "preparing"), ("ready", "ready"), ("serve", "served")] {
        step(&producer, "o1", verb).await;
        assert_eq!(told("o1").await, (json!(status), updated.clone()));
    }
    step(&producer, "o1", "complete").await;
    assert_eq!(told("o1").await, (json!("completed"), removed("completed")));
    assert_eq!(fresh(&producer).await, Vec::<Value>::new());
    // Of another restaurant nothing is told.
    let mut theirs = web.of("t2").stream(ACTIVE, None).await.expect("a stream");
    assert_eq!(theirs.next().await.expect("a snapshot").data["rows"], json!([]));
    town.finish().await;
}
