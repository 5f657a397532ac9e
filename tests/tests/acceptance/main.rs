//! Acceptance tests on real servers, named after the rows of `docs/scenarios.md` that they prove.

mod at_size;
mod bad_input;
mod bad_payments;
mod bounds;
mod client;
mod client_queue;
mod client_watch;
mod cluster;
mod commands;
mod conformance;
mod crashes;
mod database_faults;
mod dead_letters;
mod fairness;
mod floods;
mod freeing_tables;
mod ghosts;
mod half_dead;
mod healing;
mod http;
mod http_access;
mod http_bad_input;
mod http_faults;
mod invariants;
mod lists;
mod lists_in_memory;
mod lists_under_faults;
mod lock_deadlines;
mod lock_expiry;
mod lock_owners;
mod lock_trail;
mod locks;
mod long_gone;
mod many_dead_letters;
mod money;
mod nats_cli;
mod openapi;
mod orders;
mod paying_under_faults;
mod payment_results;
mod payments;
mod permissions;
mod reads;
mod retrying;
mod shares;
mod standby;
mod strange_bytes;
mod strangers;
mod streams;
mod tables;
mod tls;
mod topology;
mod users;
mod walls;

/// Not a test: the `brigade` program, which other tests start as a process and kill.
#[test]
#[ignore = "started by other tests"]
fn brigade_process() {
    brigade_tests::process::brigade_main();
}
