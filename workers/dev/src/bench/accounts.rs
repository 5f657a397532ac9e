//! What the accounts of nats-server cost at both doors: the mix sent by a program of each tenant's
//! own account, beside the same sent within the fleet's account (the mean of before and after).

use anyhow::Result;
use brigade_contracts::Door;

use super::{Plan, check, fleet::BenchFleet, report::BenchReport, rush::Rush};

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open_with_accounts().await?;
    report.header(&fleet).await?;
    fleet.start_workers().await?;
    let within = Rush::open(&fleet, plan.carts).await?;
    let through = within.through_accounts(&fleet).await?;
    for (door, name) in [(Door::Request, "request door"), (Door::Durable, "durable door")] {
        let before = within.closed(door, plan.length).await?;
        let rate = through.closed(door, plan.length).await?;
        let after = within.closed(door, plan.length).await?;
        let name = format!("accounts: {name}, beside one account for all");
        report.row(name, rate, "commands/s", f64::midpoint(before, after));
    }
    check::everything_was_done(&fleet, &within).await?;
    fleet.close().await;
    Ok(())
}
