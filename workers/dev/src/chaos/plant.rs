//! Plants bugs, one after the other, and measures how long each takes to be found. A checker that
//! never found anything proves nothing.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use brigade_contracts::planted::PlantedBug;

use super::{ChaosPlan, ChaosReport, play};
use crate::worker::as_it_is;

/// The load of one run; a bug that it does not find is looked for in another, with the next seed.
const RUN: Duration = Duration::from_secs(25);
/// The time after which what is still wrong is found; nobody waits for it to heal.
const PATIENCE: Duration = Duration::from_secs(20);
/// A bug has to be found within this.
const LIMIT: Duration = Duration::from_secs(600);

/// Returns the bugs of `--plant`.
///
/// # Errors
/// A name that is none, and a build without bugs.
pub fn parse(names: &[String]) -> Result<Vec<PlantedBug>> {
    ensure!(PlantedBug::are_possible(), "build it with `--features planted-bugs` to plant bugs");
    if names == ["all"] {
        return Ok(PlantedBug::ALL.to_vec());
    }
    let all = || PlantedBug::ALL.map(PlantedBug::as_str).join(", ");
    let parse = |name: &String| {
        PlantedBug::parse(name).with_context(|| format!("no bug is called {name:?}, of: {}", all()))
    };
    names.iter().map(parse).collect()
}

/// The same of a bug whose fault lasts long.
const LONG_RUN: Duration = Duration::from_secs(60);

/// Returns the faults that a bug needs to do harm; of the others it does harm by itself.
fn provoked_by(bug: PlantedBug) -> &'static [&'static str] {
    match bug {
        PlantedBug::AnswerBeforeCommit => &["kill_postgres"],
        PlantedBug::AcknowledgeBeforeDecision => &["kill_worker", "slow_postgres", "cut_postgres"],
        PlantedBug::RelayDeletesFirst => &["kill_nats", "kill_worker"],
        PlantedBug::WriteWithoutVersion => &["slow_nats"],
        PlantedBug::NothingHealed => &["delete_bucket", "delete_stream"],
        PlantedBug::DeadLetterReplayedTwice => &["suspend"],
        PlantedBug::LeaseNotGivenUp => &["isolate"],
        PlantedBug::EraIgnored => &["fail_over_losing"],
        PlantedBug::AnswerBeforeProjection
        | PlantedBug::RelayOutOfOrder
        | PlantedBug::UnconfirmedFromMemory
        | PlantedBug::OldSnapshot
        | PlantedBug::ListFromMemory
        | PlantedBug::LockWithoutFencing
        | PlantedBug::LockWithoutFreezing
        | PlantedBug::EarlyExpiry
        | PlantedBug::RefundTaskDropped => &["none"],
    }
}

/// Looks for each bug until it is found.
///
/// # Errors
/// If a run itself breaks.
pub async fn hunt(bugs: Vec<PlantedBug>, seed: u64, faults: &[String]) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for bug in bugs {
        let began = Instant::now();
        let found = look_for(bug, seed, faults).await?;
        rows.push((bug, began.elapsed(), found));
    }
    eprintln!("\n  {:<28} {:>8}  found by", "planted bug", "after");
    for (bug, took, found) in &rows {
        let found = found.as_deref().unwrap_or("NOTHING");
        eprintln!("  {:<28} {:>6.0} s  {found}", bug.as_str(), took.as_secs_f64());
    }
    let all = rows.iter().all(|(.., found)| found.is_some());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the invariants that were found broken.
async fn look_for(bug: PlantedBug, seed: u64, faults: &[String]) -> Result<Option<String>> {
    let until = Instant::now() + LIMIT;
    let provoked: Vec<String> = match faults {
        [] => provoked_by(bug).iter().map(|fault| (*fault).to_owned()).collect(),
        faults => faults.to_vec(),
    };
    for seed in seed.. {
        eprintln!("\nplanted: {}", bug.as_str());
        let variables = vec![(PlantedBug::VARIABLE.to_owned(), bug.as_str().to_owned())];
        let length = if bug == PlantedBug::LeaseNotGivenUp { LONG_RUN } else { RUN };
        let plan = ChaosPlan::new(length, seed, &provoked, as_it_is)?;
        let plan = ChaosPlan { variables, patience: PATIENCE, ..plan };
        let report = play(&plan).await?;
        report.print();
        if let Some(kept) = &report.run.kept {
            // Nobody looks into the harm of a bug that is known.
            let _removed = std::fs::remove_dir_all(kept);
        }
        if !report.findings.is_empty() {
            return Ok(Some(broken(&report)));
        }
        if Instant::now() > until {
            break;
        }
    }
    Ok(None)
}

fn broken(report: &ChaosReport) -> String {
    let mut broken: Vec<&str> = report.findings.iter().map(|f| f.invariant.as_str()).collect();
    broken.sort_unstable();
    let mut counted: Vec<(usize, &str)> = Vec::new();
    for invariant in broken {
        match counted.last_mut().filter(|(_, last)| *last == invariant) {
            Some((count, _)) => *count += 1,
            None => counted.push((1, invariant)),
        }
    }
    counted.iter().map(|(count, what)| format!("{what} ({count})")).collect::<Vec<_>>().join(", ")
}
