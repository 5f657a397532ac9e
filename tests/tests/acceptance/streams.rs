//! S4 over HTTP: changes as server-sent events.

mod bounds;
mod faults;
mod resume;
mod sessions;
mod views;

use brigade_tests::{
    HttpClient, Producer, TestFleet,
    producer::placed,
    sse::{SseEvent, SseStream, StreamedOrders},
    until,
};
use serde_json::{Value, json};

const ACTIVE: &str = "active-orders/stream";

/// Starts a fleet whose HTTP asks for no token.
async fn fleet() -> (TestFleet, Producer, HttpClient) {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    (fleet, producer, http)
}

/// Opens a stream; repeats a request that is 503.
async fn open(http: &HttpClient, last: Option<&str>) -> SseStream {
    until("a stream", async || match http.stream(ACTIVE, last).await {
        Ok(events) => Some(events),
        Err(response) => {
            assert_eq!(response.status, 503, "{:?}", response.body());
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

/// Returns the rows of a fresh query.
async fn fresh(producer: &Producer) -> Vec<Value> {
    let list = producer.active_orders(&[]).await;
    list.body()["rows"].as_array().expect("rows").clone()
}

/// Applies events of a stream until the rows equal a fresh query.
async fn converge(events: &mut SseStream, orders: &mut StreamedOrders, producer: &Producer) {
    while orders.rows() != fresh(producer).await {
        let event = events.next().await.expect("it goes on");
        orders.apply(&event, &events.id);
    }
}

async fn change(events: &mut SseStream) -> Value {
    let SseEvent { kind, data } = events.next().await.expect("it goes on");
    assert_eq!(kind, "change", "{data}");
    data
}

#[tokio::test]
async fn s4_01_a_placed_order_is_pushed_over_http() {
    let (fleet, producer, http) = fleet().await;
    place(&producer, "o1").await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    let snapshot = events.next().await.expect("a snapshot");
    let query = http.get("active-orders", &[]).await.body();
    assert_eq!((snapshot.kind.as_str(), &snapshot.data["rows"]), ("snapshot", &query["rows"]));
    assert_eq!(snapshot.data["resume"], events.id.as_str());
    place(&producer, "o2").await;
    let pushed = change(&mut events).await;
    assert_eq!((&pushed["order"], &pushed["change"]["kind"]), (&json!("o2"), &json!("added")));
    assert_eq!(pushed, fresh(&producer).await[0], "a row as a query shows it");
    assert!(events.retry.is_some_and(|millis| millis < 2_000));
    assert_eq!(fleet.edge_metrics().stream_readers.get(), 1);
    assert_eq!(fleet.edge_metrics().stream_changes.get(), 1);
    let displayed = fleet.edge_metrics().stream_display_seconds.with_label_values::<&str>(&[]);
    assert_eq!(displayed.get_sample_count(), 1);
    println!("from the change to its readers: {:.1} ms", displayed.get_sample_sum() * 1e3);
    drop(events);
    let gone = async || (fleet.edge_metrics().stream_readers.get() == 0).then_some(());
    until("the reader to be gone", gone).await;
    let gone = async || (fleet.edge_metrics().stream_hubs.get() == 0).then_some(());
    until("the hub to be gone", gone).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s4_02_added_updated_and_removed_are_pushed_with_their_reasons() {
    let (fleet, producer, http) = fleet().await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
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
    let mut theirs = http.of("t2").stream(ACTIVE, None).await.expect("a stream");
    assert_eq!(theirs.next().await.expect("a snapshot").data["rows"], json!([]));
    fleet.finish().await;
}
