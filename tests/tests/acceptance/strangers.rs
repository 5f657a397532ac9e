//! Programs that know nothing but the contract, each a producer and a watcher of one restaurant.

use brigade_tests::{Town, stranger};
use tokio::process::Command;

/// Runs a program against a town, and looks at what it left behind.
async fn drives_the_fleet(mut program: Command) {
    let town = Town::start().await;
    program.args(["t1", &town.nats_url("t1-producer"), &town.nats_url("t1-watcher")]);
    program.args(["t2", &town.nats_url("t2-watcher")]);
    let said = stranger::run(&mut program).await.unwrap_or_else(|error| panic!("{error:#}"));
    let last = said.lines().last();
    assert_eq!(last, Some("ok  what the credentials do not allow does not happen"), "{said}");
    assert_eq!(town.edge_metrics().stale_304.get(), 0);
    town.finish().await;
}

#[tokio::test]
async fn a_python_program_drives_the_fleet_by_the_contract_alone() {
    let Some(python) = stranger::or_skip("Python", stranger::python().await) else { return };
    let mut program = Command::new(python);
    program.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/strangers/producer.py"));
    drives_the_fleet(program).await;
}

#[tokio::test]
async fn a_typescript_program_drives_the_fleet_by_the_contract_alone() {
    let Some(dir) = stranger::or_skip("Node", stranger::typescript().await) else { return };
    let mut program = Command::new("node");
    program.arg(dir.join("producer.js"));
    drives_the_fleet(program).await;
}
