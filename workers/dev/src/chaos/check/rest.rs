//! The invariants that hold of a fleet at rest: waits until nothing is left to do, then looks into
//! SQL, streams and KV.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::ChaosFinding;
use crate::{
    chaos::fleet::ChaosFleet,
    invariants::{self, deadlines, kv, money, streams},
};

const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the fleet is at rest with everything as it has to be. What is still wrong when it has
/// had its time (`patience`) is found. `in_order`: the stream `EVENTS` was never lost.
///
/// # Errors
/// If Postgres cannot be read.
pub async fn at_rest(
    fleet: &ChaosFleet,
    in_order: bool,
    patience: Duration,
) -> Result<Vec<ChaosFinding>> {
    let until = Instant::now() + patience;
    loop {
        // A stream that is just being made again is an error that passes.
        let found = match look(fleet, in_order).await {
            Ok(found) => found,
            Err(error) => vec![format!("I-4: cannot be read: {error:#}")],
        };
        if found.is_empty() || Instant::now() > until {
            return Ok(found.iter().map(|line| ChaosFinding::of_line(line)).collect());
        }
        sleep(PAUSE).await;
    }
}

async fn look(fleet: &ChaosFleet, in_order: bool) -> Result<Vec<String>> {
    let mut sql = fleet.sql.acquire().await?;
    let left: (i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from brigade.outbox),
                (select count(*) from brigade.projection_backlog)
                + (select count(*) from brigade.heal_backlog)
                + (select count(*) from brigade.heals where finished_at is null),
                (select count(*) from brigade.cart_locks
                 where state = 'held' and expires_at < clock_timestamp() - interval '2 seconds'),
                (select count(*) from brigade.eras where reset_at is null)",
    )
    .fetch_one(&mut *sql)
    .await?;
    let mut found = Vec::new();
    for (count, what) in [
        (left.0, "I-3: events are left in the outbox"),
        (left.1, "I-4: aggregates are left in the backlogs, or heals unfinished"),
        (left.2, "I-15: locks are held past their deadline"),
        (left.3, "I-4: buckets were not emptied for a new era"),
    ] {
        if count > 0 {
            found.push(format!("{what}: {count}"));
        }
    }
    let unconsumed = streams::unconsumed(&fleet.operator).await?;
    found.extend(unconsumed.iter().map(|line| format!("I-1: not consumed: {line}")));
    if !found.is_empty() {
        // The rest would only cost time.
        return Ok(found);
    }
    found.extend(invariants::versions(&mut sql).await?);
    found.extend(invariants::tables(&mut sql).await?);
    found.extend(money::broken(&mut sql).await?);
    found.extend(deadlines::expired_early(&mut sql).await?);
    found.extend(streams::lost_events(&mut sql, &fleet.operator, in_order).await?);
    found.extend(kv::differences(&fleet.sql, &fleet.operator).await?);
    Ok(found)
}
