//! `brigade chaos` in small: real processes, real faults, a fixed seed.

use std::time::Duration;

use brigade_contracts::planted::PlantedBug;
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

/// Each of these has to be found by its invariant.
const PLANTED: [(PlantedBug, &str); 3] = [
    (PlantedBug::UnconfirmedFromMemory, "I-5"),
    (PlantedBug::LockWithoutFencing, "I-7"),
    (PlantedBug::RefundTaskDropped, "I-10"),
];

/// The others take minutes, and faults of their own: `brigade chaos --plant all`.
#[tokio::test(flavor = "multi_thread")]
async fn s6_05_planted_bugs_are_found() {
    let mut missed = PLANTED.to_vec();
    // How much is played in a run depends on what else this machine does.
    for seed in 7..11 {
        let length = Duration::from_secs(20);
        let mut plan = ChaosPlan::new(length, seed, &["none".to_owned()], launch).unwrap();
        let bugs: Vec<_> = missed.iter().map(|(bug, _)| bug.as_str()).collect();
        plan.variables = vec![(PlantedBug::VARIABLE.to_owned(), bugs.join(","))];
        // What is broken stays so: nobody waits until it heals.
        plan.patience = Duration::from_secs(5);
        let report = play(&plan).await.unwrap();
        report.print();
        if let Some(kept) = &report.run.kept {
            std::fs::remove_dir_all(kept).unwrap();
        }
        let is_found =
            |invariant| report.findings.iter().any(|f| f.invariant.starts_with(invariant));
        missed.retain(|(_, invariant)| !is_found(*invariant));
        if missed.is_empty() {
            return;
        }
    }
    panic!("{missed:?} were not found");
}
