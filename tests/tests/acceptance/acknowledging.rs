//! S5-08: nobody waits until the server has confirmed the acknowledgements of somebody else.

use async_nats::{HeaderMap, jetstream};
use brigade::runtime::ConsumeMetrics;
use brigade_tests::{Producer, TestFleet, until};
use serde_json::{Value, json};

/// More than two batches, less than are in hand at once.
const FLOOD: i64 = 800;
/// Commands of the other tenant at each door, one after the other.
const OTHERS: i64 = 4;

fn open(owner: &str) -> Value {
    json!({"kind": "menu", "owner": owner, "currency": "EUR"})
}

/// Stores commands without waiting for anything.
async fn flood(client: &async_nats::Client) {
    for n in 0..FLOOD {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", format!("f{n}"));
        let subject = format!("cmd.t1.cart.f{n}.open");
        let payload = open(&format!("f{n}")).to_string().into();
        client.publish_with_headers(subject, headers, payload).await.unwrap();
    }
    client.flush().await.unwrap();
}

async fn decided(fleet: &TestFleet, tenant: &str) -> i64 {
    sqlx::query_scalar("select count(*) from brigade.command_inbox where tenant = $1")
        .bind(tenant)
        .fetch_one(&fleet.sql)
        .await
        .unwrap()
}

/// Counts the commands that were delivered and whose acknowledgements the server does not have.
async fn unacknowledged(fleet: &TestFleet) -> Option<i64> {
    let js = jetstream::new(fleet.connect("operator").await);
    let info: Value =
        js.request("CONSUMER.INFO.COMMANDS.command-handler", &json!({})).await.ok()?;
    info["num_ack_pending"].as_i64()
}

#[tokio::test]
async fn s5_08_acknowledgements_that_hang_keep_nobody_waiting() {
    let fleet = TestFleet::start().await;
    let t2 = Producer::new(fleet.connect("t2-producer").await, "t2");
    let armed = fleet.fail.arm("command-handler.before_ack");
    flood(&fleet.producer().await.client).await;
    armed.reached().await;
    until("all of the flood to be decided", async || {
        (decided(&fleet, "t1").await == FLOOD).then_some(())
    })
    .await;
    for n in 0..OTHERS {
        let (asked, stored) = (format!("asked{n}"), format!("stored{n}"));
        let reply = t2.send(&format!("cart.{asked}.open"), open(&asked)).await;
        assert_eq!(reply.status, 201, "{}", reply.body());
        let outcome = t2.publish(&stored, &format!("cart.{stored}.open"), open(&stored)).await;
        assert_eq!(outcome["status"], 201, "{outcome}");
    }
    assert_eq!(unacknowledged(&fleet).await, Some(FLOOD + OTHERS));
    fleet.fail.disarm("command-handler.before_ack");
    until("all to be acknowledged", async || (unacknowledged(&fleet).await? == 0).then_some(()))
        .await;
    // The server was told all the time that they are in hand.
    let redelivered = &fleet.metrics.group::<ConsumeMetrics>().redelivered;
    assert_eq!(redelivered.with_label_values(&["command-handler"]).get(), 0);
    fleet.finish().await;
}
