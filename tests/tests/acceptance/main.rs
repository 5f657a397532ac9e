//! Acceptance tests, named after the rows of SCENARIOS they prove, on real servers.

mod bad_input;
mod cluster;
mod commands;
mod conformance;
mod crashes;
mod dead_letters;
mod healing;
mod lists;
mod lock_expiry;
mod nats_cli;
mod orders;
mod payments;
mod permissions;
mod reads;
mod strangers;
mod topology;
mod users;

/// Not a test: the `brigade` program, which other tests start as a process and kill.
#[test]
#[ignore = "started by other tests"]
fn brigade_process() {
    brigade_tests::process::brigade_main();
}
