//! CPU time and memory, by process.

use anyhow::Result;

use super::{
    fleet::BenchFleet,
    machine::{cpu_seconds, cpu_seconds_of_family, resident},
    report::BenchReport,
};

/// A figure of each process.
pub type Figures = Vec<(String, f64)>;

/// CPU seconds that the workers and the two servers have used so far. (The generator of the load is
/// in the process of the bench.)
pub fn cpu(fleet: &BenchFleet) -> Result<Figures> {
    let mut used = Figures::new();
    for worker in &fleet.workers {
        used.push((worker.name.clone(), cpu_seconds(worker.pid())?));
    }
    used.push(("nats-server".to_owned(), cpu_seconds(fleet.stack.nats.pid())?));
    used.push(("postgres".to_owned(), cpu_seconds_of_family(fleet.stack.postgres.pid())?));
    Ok(used)
}

/// MiB that each process of workers holds.
pub fn memory(fleet: &BenchFleet) -> Result<Figures> {
    let held =
        |worker: &crate::WorkerProcess| anyhow::Ok((worker.name.clone(), resident(worker.pid())?));
    fleet.workers.iter().map(held).collect()
}

/// Reports the resources that a million commands used between two measurements; `load` names the
/// load.
pub fn report(
    load: &str,
    before: &Figures,
    after: &Figures,
    commands: u64,
    report: &mut BenchReport,
) {
    let millions = commands as f64 / 1e6;
    let mut all = 0.0;
    for ((name, before), (_, after)) in before.iter().zip(after) {
        let used = (after - before) / millions;
        all += used;
        report.figure(format!("cpu, {load}: {name}"), used, "s/million");
    }
    report.figure(format!("cpu, {load}: all"), all, "s/million");
}

/// Reports the memory of each process, idle and loaded; `how` names the way in which the workers
/// are spread.
pub fn report_memory(how: &str, idle: &Figures, loaded: &Figures, report: &mut BenchReport) {
    for (when, figures) in [("idle", idle), ("loaded", loaded)] {
        for (name, held) in figures {
            report.figure(format!("memory, {how}, {when}: {name}"), *held, "MiB");
        }
        if figures.len() > 1 {
            let sum = figures.iter().map(|(_, held)| held).sum();
            report.figure(format!("memory, {how}, {when}: sum"), sum, "MiB");
        }
    }
}
