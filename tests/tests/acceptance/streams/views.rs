//! The stream of one aggregate.

use brigade_tests::{HttpClient, producer::item, sse::SseStream};
use serde_json::{Value, json};

use super::{fleet, place, step};

const CART: &str = "cart/c1/stream";

async fn open(http: &HttpClient, path: &str, last: Option<&str>) -> (SseStream, String, Value) {
    let mut events = http.stream(path, last).await.expect("a stream");
    let event = events.next().await.expect("an event");
    (events, event.kind, event.data)
}

#[tokio::test]
async fn a_cart_is_followed_by_its_owner() {
    let (fleet, producer, trusted) = fleet().await;
    let ada = trusted.register_and_log_in("ada").await;
    let eve = trusted.register_and_log_in("eve").await;
    producer.adas_cart().await;
    let (mut events, kind, snapshot) = open(&ada, CART, None).await;
    let query = ada.get("cart/c1", &[]).await;
    assert_eq!((kind.as_str(), &snapshot, events.id.as_str()), ("snapshot", &query.body(), "2"));
    // A member may follow it as well, and not longer than it is one.
    assert_eq!(eve.stream(CART, None).await.err().expect("refused").status, 403);

    producer.done("cart.c1.add_item", item("i2", 250, 2)).await;
    let told = events.next().await.expect("a change");
    assert_eq!((told.kind.as_str(), events.id.as_str()), ("change", "3"));
    assert_eq!(told.data, ada.get("cart/c1", &[]).await.body());
    assert_eq!(told.data["due"], 1500);
    // What a payment alters of a cart is told too.
    producer.initiate("p1", "c1").await;
    while told_due(&mut events).await != json!(0) {
        producer.result("p1", "captured", "tx1", 1500).await;
    }
    drop(events);

    let (events, kind, data) = open(&ada, CART, Some("2")).await;
    assert_eq!((kind.as_str(), &data), ("change", &ada.get("cart/c1", &[]).await.body()));
    let now = events.id.clone();
    assert_eq!(data["version"].to_string(), now);
    for unknown in ["999", "x", ""] {
        let (events, kind, _) = open(&ada, CART, Some(unknown)).await;
        assert_eq!((kind.as_str(), &events.id), ("reset", &now), "{unknown}");
    }
    let mut same = ada.stream(CART, Some(&now)).await.expect("a stream");
    same.heartbeat().await.expect("nothing new");
    fleet.finish().await;
}

async fn told_due(events: &mut SseStream) -> Value {
    events.next().await.expect("a change").data["due"].clone()
}

#[tokio::test]
async fn what_is_not_there_has_no_stream_and_what_has_ended_has_one() {
    let (fleet, producer, http) = fleet().await;
    let nothing = http.stream("order/o1/stream", None).await.err().expect("refused");
    assert_eq!((nothing.status, nothing.code()), (404, "not_found".to_owned()));
    assert_eq!(nothing.header("content-type"), "application/problem+json");
    for odd in ["user/ada/stream", "dish/d1/stream"] {
        assert_eq!(http.stream(odd, None).await.err().expect("refused").status, 404, "{odd}");
    }
    place(&producer, "o1").await;
    let (mut events, kind, _) = open(&http, "order/o1/stream", None).await;
    assert_eq!(kind, "snapshot");
    step(&producer, "o1", "cancel").await;
    let told = events.next().await.expect("a change").data;
    assert_eq!(told["core"]["status"], "cancelled");
    events.heartbeat().await.expect("it goes on");
    let (_, kind, data) = open(&http, "order/o1/stream", None).await;
    assert_eq!((kind.as_str(), data), ("snapshot", told));
    fleet.finish().await;
}
