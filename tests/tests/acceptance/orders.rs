//! S4: active orders appear at once. (These are the pushes; the list is in `lists`.)

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, producer::placed};
use futures::StreamExt;
use serde_json::{Value, json};

/// Returns the next push of an order's core row on a watcher's subscription.
async fn next_core(pushes: &mut async_nats::Subscriber) -> Value {
    loop {
        let push = pushes.next().await.expect("a push");
        if push.subject.ends_with(".core") {
            return serde_json::from_slice(&push.payload).expect("JSON");
        }
    }
}

#[tokio::test]
async fn s4_01_an_order_on_the_durable_door_is_pushed_to_watchers() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let watcher = Producer::new(fleet.connect("t1-watcher").await, "t1");
    let mut pushes = watcher.client.subscribe("live.active_orders.t1.>").await.unwrap();
    watcher.client.flush().await.unwrap();
    let outcome = producer.publish("k1", "order.o1.place", placed(&[("Pizza", 1250, 2)])).await;
    assert_eq!(outcome["status"], 201);
    let row = next_core(&mut pushes).await;
    assert_eq!((row["order"].as_str(), row["total"].as_i64()), (Some("o1"), Some(2500)));
    assert_eq!(row["change"], json!({"kind": "added", "fields": [], "reason": null}));
    assert_eq!(producer.view("order.o1", None).await.body()["due"], 2500);
    fleet.finish().await;
}

#[tokio::test]
async fn s4_02_added_updated_and_removed_are_pushed_with_what_changed_and_why() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let mut pushes = producer.client.subscribe("live.active_orders.t1.>").await.unwrap();
    producer.client.flush().await.unwrap();
    for (at, order) in ["o1", "o2"].into_iter().enumerate() {
        let what = format!("order.{order}.place");
        producer.publish(&format!("p{at}"), &what, placed(&[("Soup", 500, 1)])).await;
        assert_eq!(next_core(&mut pushes).await["change"]["kind"], "added");
    }
    for (verb, status) in
        [("accept", "accepted"), ("prepare", "preparing"), ("ready", "ready"), ("serve", "served")]
    {
        let outcome = producer.send(&format!("order.o1.{verb}"), json!({})).await;
        assert_eq!(outcome.status, 200, "{verb}");
        let row = next_core(&mut pushes).await;
        assert_eq!(row["status"], status);
        let change = json!({"kind": "updated", "fields": ["status"], "reason": null});
        assert_eq!(row["change"], change);
    }
    producer.send("order.o1.complete", json!({})).await;
    let row = next_core(&mut pushes).await;
    assert_eq!(
        (&row["change"]["kind"], &row["change"]["reason"]),
        (&json!("removed"), &json!("completed"))
    );
    producer.send("order.o2.cancel", json!({"reason": "guest left"})).await;
    let row = next_core(&mut pushes).await;
    assert_eq!(
        (&row["change"]["kind"], &row["change"]["reason"]),
        (&json!("removed"), &json!("guest left"))
    );
    fleet.finish().await;
}

#[tokio::test]
async fn a_command_on_both_doors_has_one_effect_and_one_outcome() {
    let mut fleet = TestFleet::start().await;
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let payload = placed(&[("Pizza", 1250, 2)]);
    let durable = producer.publish("k1", "order.o1.place", payload.clone()).await;
    let request = producer.send_as("k1", "order.o1.place", payload.clone()).await.body();
    assert_eq!(durable, request);
    // And again on the durable door: the stored outcome is published once more.
    assert_eq!(producer.publish("k1", "order.o1.place", payload).await, durable);
    let events: i64 = sqlx::query_scalar("select count(*) from brigade.events")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(events, 1);
    let asked = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap();
    assert_eq!((asked.status, asked.body()), (200, durable));
    let none = producer.request("q.t1.outcome.k2", &[], b"").await.unwrap();
    assert_eq!((none.status, none.code().as_str()), (404, "not_decided"));
    let waiting = {
        let producer = producer.clone();
        tokio::spawn(async move {
            producer.request("q.t1.outcome.k3", &[("Wait-Ms", "30000")], b"").await.unwrap()
        })
    };
    producer.publish("k3", "order.o3.place", placed(&[("Tea", 300, 1)])).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn a_secret_on_the_durable_door_is_refused_and_stored_nowhere() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for verb in ["register", "login", "refresh"] {
        let subject = format!("cmd.t1.user.u1.{verb}");
        let reply =
            producer.request(&subject, &[("Command-Id", "k")], b"{\"password\":\"x\"}").await;
        let reply = reply.unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (400, "secret_on_durable_door"));
    }
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    let mut commands = js.get_stream("COMMANDS").await.unwrap();
    assert_eq!(commands.info().await.unwrap().state.messages, 0);
    fleet.finish().await;
}
