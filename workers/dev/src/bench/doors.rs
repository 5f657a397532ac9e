//! Both doors under the standard mix, what the mix costs, and how soon others see what it did.

use std::time::Duration;

use anyhow::Result;
use brigade_contracts::Door;

use super::{
    Plan, ceilings, check, cost, fleet::BenchFleet, latency, mix::CARTS, report::BenchReport,
    rush::Rush,
};

/// An unloaded door: one command at a time, far below the limit.
const UNLOADED: f64 = 50.0;

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    ceilings::make_bucket(&fleet).await?;
    let published = ceilings::raw_commands(&fleet, plan).await?;
    let rows = ceilings::bare_rows(&fleet, plan).await?;
    let committed = ceilings::commit_and_puts(&fleet, plan.length / 3).await?;

    fleet.start_workers().await?;
    let idle = cost::memory(&fleet)?;
    let rush = Rush::open(&fleet, CARTS).await?;
    // Unloaded is also what the opening of the carts has left nothing to do for.
    check::everything_was_done(&fleet, &rush).await?;
    let unloaded = rush.at_rate(Door::Request, UNLOADED, plan.length / 2).await?;
    report.latency("request door, unloaded: answer", &unloaded, &committed);

    let rate = costed(&fleet, &rush, Door::Request, plan.length, report).await?;
    for (connections, ceiling) in rows {
        let name = format!("request door, beside rows by {connections} connections");
        report.row(name, rate, "commands/s", ceiling);
    }
    let rate = costed(&fleet, &rush, Door::Durable, plan.length, report).await?;
    report.row("durable door, beside acknowledged publishes", rate, "commands/s", published);
    cost::report_memory("one process each", &idle, &cost::memory(&fleet)?, report);

    for percent in [25, 50, 75] {
        latency::measure(&fleet, &rush, rate, percent, plan, report).await?;
    }
    check::everything_was_done(&fleet, &rush).await?;
    one_process(&mut fleet, &rush, plan.length / 2, report).await?;
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}

/// Commands a second, and the CPU time that they cost.
async fn costed(
    fleet: &BenchFleet,
    rush: &Rush,
    door: Door,
    length: Duration,
    report: &mut BenchReport,
) -> Result<f64> {
    rush.stock(length).await?;
    let (used, answered) = (cost::cpu(fleet)?, rush.answered());
    let rate = rush.closed_as_stocked(door, length).await?;
    let answered = rush.answered() - answered;
    let load = match door {
        Door::Request => "request door",
        Door::Durable => "durable door",
    };
    cost::report(load, &used, &cost::cpu(fleet)?, answered, report);
    Ok(rate)
}

/// The memory of all workers in one process.
async fn one_process(
    fleet: &mut BenchFleet,
    rush: &Rush,
    length: Duration,
    report: &mut BenchReport,
) -> Result<()> {
    fleet.stop(None).await;
    fleet.start_in_one_process().await?;
    let idle = cost::memory(fleet)?;
    rush.closed(Door::Request, length).await?;
    cost::report_memory("one process for all", &idle, &cost::memory(fleet)?, report);
    Ok(())
}
