//! Both doors under the standard mix, what the mix costs, and how soon others see what it did.

use std::time::Duration;

use anyhow::Result;
use brigade_contracts::Door;

use super::{
    Plan, ceilings, check, cost, latency, mix::CARTS, report::Report, rush::Rush, stage::Stage,
};

/// An unloaded door: one command at a time, far below the limit.
const UNLOADED: f64 = 50.0;

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut stage = Stage::open().await?;
    report.header(&stage).await?;
    ceilings::make_bucket(&stage).await?;
    let published = ceilings::raw_commands(&stage, plan).await?;
    let rows = ceilings::bare_rows(&stage, plan).await?;
    let committed = ceilings::commit_and_puts(&stage, plan.length / 3).await?;

    stage.start_workers().await?;
    let idle = cost::memory(&stage)?;
    let rush = Rush::open(&stage, CARTS).await?;
    // Unloaded is also what the opening of the carts has left nothing to do for.
    check::everything_was_done(&stage, &rush).await?;
    let unloaded = rush.at_rate(Door::Request, UNLOADED, plan.length / 2).await?;
    report.latency("request door, unloaded: answer", &unloaded, &committed);

    let rate = costed(&stage, &rush, Door::Request, plan.length, report).await?;
    for (connections, ceiling) in rows {
        let name = format!("request door, beside rows by {connections} connections");
        report.row(name, rate, "commands/s", ceiling);
    }
    let rate = costed(&stage, &rush, Door::Durable, plan.length, report).await?;
    report.row("durable door, beside acknowledged publishes", rate, "commands/s", published);
    cost::report_memory("one process each", &idle, &cost::memory(&stage)?, report);

    for percent in [25, 50, 75] {
        latency::measure(&stage, &rush, rate, percent, plan, report).await?;
    }
    check::everything_was_done(&stage, &rush).await?;
    one_process(&mut stage, &rush, plan.length / 2, report).await?;
    check::everything_was_done(&stage, &rush).await?;
    stage.close().await;
    Ok(())
}

/// Commands a second, and the CPU time that they cost.
async fn costed(
    stage: &Stage,
    rush: &Rush,
    door: Door,
    length: Duration,
    report: &mut Report,
) -> Result<f64> {
    rush.stock(length).await?;
    let (used, answered) = (cost::cpu(stage)?, rush.answered());
    let rate = rush.closed_as_stocked(door, length).await?;
    let answered = rush.answered() - answered;
    let load = match door {
        Door::Request => "request door",
        Door::Durable => "durable door",
    };
    cost::report(load, &used, &cost::cpu(stage)?, answered, report);
    Ok(rate)
}

/// The memory of all workers in one process.
async fn one_process(
    stage: &mut Stage,
    rush: &Rush,
    length: Duration,
    report: &mut Report,
) -> Result<()> {
    stage.stop(None).await;
    stage.start_in_one_process().await?;
    let idle = cost::memory(stage)?;
    rush.closed(Door::Request, length).await?;
    cost::report_memory("one process for all", &idle, &cost::memory(stage)?, report);
    Ok(())
}
