//! SIGKILL of real processes at each step.

use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, process::Process, producer::item};
use serde_json::json;

/// Sends a command whose handler dies at `point`; a new handler answers the repetition.
async fn handler_dies_at(point: &str) {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::OutboxRelay).await;
    fleet.run(WorkerName::PaymentProjector).await;
    fleet.run(WorkerName::Edge).await;
    let producer = fleet.producer().await;
    let mut dying = Process::start(&fleet, &[WorkerName::CommandHandler], Some(point)).await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    let asking = {
        let producer = producer.clone();
        let open = open.clone();
        tokio::spawn(async move { producer.send_until_decided("k1", "cart.c1.open", open).await })
    };
    assert!(!dying.ended().await.success(), "it dies at {point}");
    fleet.run(WorkerName::CommandHandler).await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 201, "{point}");
    assert_eq!(
        producer.send_until_decided("k1", "cart.c1.open", open).await.bytes,
        answer.bytes,
        "{point}"
    );
    assert_eq!(producer.send("cart.c1.add_item", item("i1", 100, 1)).await.body()["version"], 2);
    fleet.finish().await;
}

#[tokio::test]
async fn a_handler_killed_before_it_writes_changes_nothing() {
    handler_dies_at("command-handler.before_write").await;
}

#[tokio::test]
async fn a_handler_killed_before_it_commits_changes_nothing() {
    handler_dies_at("command-handler.before_commit").await;
}

#[tokio::test]
async fn a_handler_killed_after_it_committed_has_decided_once() {
    handler_dies_at("command-handler.after_commit").await;
}

#[tokio::test]
async fn a_handler_killed_after_it_showed_has_decided_once() {
    handler_dies_at("command-handler.after_projection").await;
}
