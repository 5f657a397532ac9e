//! Acceptance tests on real servers.
//!
//! About half of them prove a row of `docs/scenarios.md`: their names begin with its number
//! (`s5_08_…`), and they are entered there. The others hold promises of `docs/reference/` or of a
//! worker's header that are not in any row, or faults that were found once.

mod acknowledging;
mod alerts;
mod at_size;
mod bad_input;
mod bad_payments;
mod bounds;
mod chaos;
mod client;
mod client_queue;
mod client_watch;
mod cluster;
mod commands;
mod conformance;
mod crashes;
mod database_faults;
mod day_closes;
mod dead_letter_jobs;
mod dead_letters;
mod deploy;
mod doctor;
mod door;
mod eras;
mod fairness;
mod floods;
mod freeing_tables;
mod gateways;
mod ghosts;
mod guests;
mod half_dead;
mod healing;
mod hostile;
mod http;
mod http2;
mod http_access;
mod http_bad_input;
mod http_faults;
mod id_spaces;
mod interop;
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
mod mended_letters;
mod money;
mod nats_cli;
mod openapi;
mod orders;
mod paged_lists;
mod pages;
mod passwords;
mod paying_under_faults;
mod payment_results;
mod payments;
mod people;
mod permissions;
mod pooler;
mod prices;
mod production;
mod reads;
mod rebuild;
mod retrying;
mod roles;
mod security_log;
mod settling;
mod shares;
mod standby;
mod status;
mod strange_bytes;
mod streams;
mod tables;
mod tenant_rows;
mod tenants;
mod tls;
mod topology;
mod trace;
mod up;
mod upgrade;
mod users;
mod walkthrough;
mod walls;

/// Not a test: the `brigade` program, which other tests start as a process and kill.
#[test]
#[ignore = "started by other tests"]
fn brigade_process() {
    brigade_tests::process::brigade_main();
}
