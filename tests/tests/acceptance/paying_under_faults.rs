//! S2 and the invariants of money (I-7 to I-12, I-15) under concurrency, and while servers and
//! workers die in the middle of payments. Nobody repeats a command here unless it is said.

mod crashes;
mod fencing;
mod races;
mod sequences;
mod statements;

use std::time::Duration;

use brigade_contracts::WorkerName;
use brigade_domain::LockPolicy;
use brigade_tests::{Producer, TestFleet, producer::item};
use serde_json::{Value, json};

/// The time that locks by every method live; with extensions three times as long.
fn policy(timeout: Duration) -> LockPolicy {
    LockPolicy { card: timeout, wallet: timeout, qr: timeout, cash: timeout, cap: 3 * timeout }
}

/// Starts all workers and a second command-handler; locks live this long.
async fn with_two_handlers(timeout: Duration) -> TestFleet {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.lock_policy = policy(timeout);
    fleet.run_all().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet
}

/// Opens a cart of `owner` with one item of 10.00.
async fn cart(producer: &Producer, id: &str, owner: &str) {
    let open = json!({"kind": "menu", "owner": owner, "currency": "EUR"});
    assert_eq!(producer.send(&format!("cart.{id}.open"), open).await.status, 201);
    let added = producer.send(&format!("cart.{id}.add_item"), item("i1", 1000, 1)).await;
    assert_eq!(added.status, 200, "{:?}", added.body());
}

/// Takes the lock of a cart; returns its token.
async fn lock(producer: &Producer, cart: &str) -> i64 {
    let payload = json!({"transaction_id": "t", "method": "card"});
    let locked = producer.send(&format!("cart.{cart}.lock"), payload).await;
    assert_eq!(locked.status, 200, "{:?}", locked.body());
    locked.body()["data"]["token"].as_i64().unwrap()
}

fn captured(transaction: &str) -> Value {
    json!({"result": "captured", "transaction_id": transaction, "amount": 1000, "currency": "EUR",
           "occurred_at": "2026-01-02T03:04:05Z"})
}
