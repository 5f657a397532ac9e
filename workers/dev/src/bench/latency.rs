//! The time until others see the effect of a command, under load.

use std::time::Duration;

use anyhow::Result;
use brigade_contracts::Door;

use super::{
    Plan, ceilings, fleet::BenchFleet, load::open, report::BenchReport, rush::Rush, times::Times,
    waiters::Waiters,
};

/// The mix on the durable door at a part of its greatest rate. Of each order placed: the time from
/// the moment at which its command was to be published to its row on `live.active_orders`
/// (command-handler), and to its part `payments` on `live.views` (command-handler, relay,
/// projector).
pub async fn measure(
    fleet: &BenchFleet,
    rush: &Rush,
    greatest: f64,
    percent: u32,
    plan: &Plan,
    report: &mut BenchReport,
) -> Result<()> {
    let (rate, length) = (greatest * f64::from(percent) / 100.0, plan.length);
    let ceiling = ceilings::put_to_subscriber(fleet, rate, length / 4).await?;
    rush.stock(length).await?;
    let seen = placed(fleet, rush, rate, length).await?;
    let name = |what: &str| format!("durable door at {percent} %: {what}");
    report.latency(&name("row on live.active_orders"), &seen.row, &ceiling);
    report.latency(&name("part on live.views"), &seen.part, &ceiling);
    Ok(())
}

struct Delays {
    row: Times,
    part: Times,
}

async fn placed(fleet: &BenchFleet, rush: &Rush, rate: f64, length: Duration) -> Result<Delays> {
    let client = fleet.operator.client();
    let rows = Waiters::listen(&client, "live.active_orders.*.*.core").await?;
    let parts = Waiters::listen(&client, "live.views.*.order.*.payments").await?;
    let seen = Delays { row: Times::new(), part: Times::new() };
    open(rate, length, |_, moment| {
        let command = rush.mix.next();
        let shown = command.places().map(|(tenant, n)| {
            let row = rows.next(format!("live.active_orders.t{tenant}.o{n}.core"));
            let part = parts.next(format!("live.views.t{tenant}.order.o{n}.payments"));
            (row, part)
        });
        let (row_times, part_times) = (seen.row.clone(), seen.part.clone());
        let rush = rush.clone();
        async move {
            let shown = async {
                let Some((row, part)) = shown else { return Ok(()) };
                let row = async {
                    row.await?;
                    moment.done(&row_times);
                    anyhow::Ok(())
                };
                let part = async {
                    part.await?;
                    moment.done(&part_times);
                    anyhow::Ok(())
                };
                tokio::try_join!(row, part).map(|_| ())
            };
            tokio::try_join!(rush.send(Door::Durable, command), shown).map(|_| ())
        }
    })
    .await?;
    Ok(seen)
}
