//! Clients in other languages that know only the contract, each a producer and a watcher of one
//! restaurant.

use std::time::Duration;

use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, interop};
use tokio::process::Command;

/// Runs a program against a fleet and checks what it left behind.
async fn drives_the_fleet(mut program: Command) {
    let fleet = TestFleet::start().await;
    program.args(["t1", &fleet.nats_url("t1-producer"), &fleet.nats_url("t1-watcher")]);
    program.args(["t2", &fleet.nats_url("t2-watcher")]);
    let said = interop::run(&mut program).await.unwrap_or_else(|error| panic!("{error:#}"));
    let last = said.lines().last();
    assert_eq!(last, Some("ok  what the credentials do not allow does not happen"), "{said}");
    assert_eq!(fleet.edge_metrics().stale_304.get(), 0);
    fleet.finish().await;
}

#[tokio::test]
async fn a_python_program_drives_the_fleet_by_the_contract_alone() {
    let Some(python) = interop::or_skip("Python", interop::python().await) else { return };
    let mut program = Command::new(python);
    program.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/producer.py"));
    drives_the_fleet(program).await;
}

#[tokio::test]
async fn a_typescript_program_drives_the_fleet_by_the_contract_alone() {
    let Some(dir) = interop::or_skip("Node", interop::typescript().await) else { return };
    let mut program = Command::new("node");
    program.arg(dir.join("producer.js"));
    drives_the_fleet(program).await;
}

#[tokio::test]
async fn s7_07_a_stock_retry_client_waits_as_told_and_succeeds_under_the_same_key() {
    let Some(python) = interop::or_skip("Python", interop::python().await) else { return };
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.open = true;
    fleet.settings.lock_policy.card = Duration::from_secs(2);
    for worker in [WorkerName::CommandHandler, WorkerName::CartLockExpiry, WorkerName::Edge] {
        fleet.run(worker).await;
    }
    let mut program = Command::new(python);
    program.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/retries.py"));
    program.args([&fleet.http_url().await, "t1"]);
    let said = interop::run(&mut program).await.unwrap_or_else(|error| panic!("{error:#}"));
    let last = said.lines().last();
    assert_eq!(last, Some("ok  repeated: the same outcome, marked as replayed"), "{said}");
}
