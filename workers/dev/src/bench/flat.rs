//! Flatness: the request door with something in its way, beside the same without, right
//! before and (but for the history, which stays) right after: the mean of both.
//!
//! | in its way | how |
//! |---|---|
//! | an idle transaction | another connection holds xmin, so that nothing dead is removed |
//! | waiting events | 100,000 outbox rows that no relay takes: of a shard that nobody holds |
//! | history | what so many commands have left in inbox, events, carts and orders, by SQL |

use anyhow::Result;
use brigade_contracts::Door;
use sqlx::Connection;

use super::{Plan, check, fleet::BenchFleet, outbox::Fill, report::BenchReport, rush::Rush};

const WAITING: u32 = 100_000;

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    fleet.start_workers().await?;
    let rush = Rush::open(&fleet, plan.carts).await?;
    let door = async || rush.closed(Door::Request, plan.length).await;

    let mut without = vec![door().await?];
    let mut idle = sqlx::PgConnection::connect(&fleet.stack.superuser_url()).await?;
    // The snapshot of the first statement is kept.
    sqlx::raw_sql("begin isolation level repeatable read; select 1").execute(&mut idle).await?;
    let with_idle = door().await?;
    idle.close().await?;

    without.push(door().await?);
    Fill { shards: 0, ..Fill::usual(WAITING) }.commit(&fleet).await?;
    let with_waiting = door().await?;
    sqlx::query("delete from brigade.outbox where shard = 99").execute(&fleet.sql).await?;

    without.push(door().await?);
    let commands = i64::from(plan.history);
    sqlx::query(include_str!("history.sql")).bind(commands).execute(&fleet.sql).await?;
    // As autovacuum would have done on the way, and to have it written out before the clock runs.
    sqlx::raw_sql("vacuum analyze").execute(&fleet.sql).await?;
    sqlx::raw_sql("checkpoint").execute(&fleet.sql).await?;
    let behind = door().await?;

    let mut row = |name: String, with, without| report.row(name, with, "commands/s", without);
    row("flat: with an idle transaction".to_owned(), with_idle, (without[0] + without[1]) / 2.0);
    let name = format!("flat: with {WAITING} events waiting");
    row(name, with_waiting, (without[1] + without[2]) / 2.0);
    row(format!("flat: behind {commands} commands"), behind, without[2]);
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}
