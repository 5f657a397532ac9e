//! kill -9 of real processes at each step.

use brigade_contracts::WorkerName;
use brigade_tests::{Town, process::Process, producer::item};
use serde_json::json;

/// A command is sent while its handler dies at `point`; a new handler answers the repetition.
async fn handler_dies_at(point: &str) {
    let mut town = Town::empty().await;
    town.run(WorkerName::OutboxRelay).await;
    town.run(WorkerName::PaymentProjector).await;
    town.run(WorkerName::Edge).await;
    let producer = town.producer().await;
    let mut dying = Process::start(&town, &[WorkerName::CommandHandler], Some(point)).await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    let asking = {
        let producer = producer.clone();
        let open = open.clone();
        tokio::spawn(async move { producer.insist("k1", "cart.c1.open", open).await })
    };
    assert!(!dying.ended().await.success(), "it dies at {point}");
    town.run(WorkerName::CommandHandler).await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 201, "{point}");
    assert_eq!(producer.insist("k1", "cart.c1.open", open).await.bytes, answer.bytes, "{point}");
    assert_eq!(producer.send("cart.c1.add_item", item("i1", 100, 1)).await.body()["version"], 2);
    town.finish().await;
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
