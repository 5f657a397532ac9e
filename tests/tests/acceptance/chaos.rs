//! `brigade chaos` in small: real processes, real faults, a fixed seed.

use std::time::Duration;

use brigade_dev::chaos::{ChaosPlan, play};
use brigade_tests::process::launch;

/// One of each kind that strikes processes, servers, network and data.
const FAULTS: [&str; 8] = [
    "kill_worker",
    "pause_worker",
    "drain_worker",
    "kill_nats",
    "kill_postgres",
    "half_open",
    "delete_bucket",
    "provision",
];

#[tokio::test(flavor = "multi_thread")]
async fn under_faults_that_nobody_arranged_nothing_is_lost_doubled_or_stale() {
    let faults = FAULTS.map(str::to_owned);
    let plan = ChaosPlan::new(Duration::from_secs(60), 404, &faults, launch).unwrap();
    let report = play(&plan).await.unwrap();
    report.print();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    // A history without answers proves nothing.
    assert!(report.definite() >= 300, "{} definite answers", report.definite());
    for fault in FAULTS {
        assert!(report.faults[fault].count > 0, "{fault} was not struck");
    }
}
