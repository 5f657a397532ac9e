//! Disks that are full for a while.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::{Rng, rngs::StdRng};
use tokio::time::timeout;

use super::{ChaosFault, Mend, Strike};
use crate::chaos::fleet::ChaosFleet;

/// A server that has not come back by itself by then is started again.
const BY_ITSELF: Duration = Duration::from_secs(3);

/// Takes all room from nats-server or Postgres.
///
/// # Errors
/// If they have no small disks.
pub fn fill(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Result<Strike> {
    let of = usize::from(fault == ChaosFault::FillPostgresDisk);
    let disks = fleet.disks.as_ref().context("the fleet has no small disks")?;
    disks[of].fill()?;
    let lasts = Duration::from_millis(random.random_range(2000..6000));
    let detail = format!("for {:.1} s", lasts.as_secs_f64());
    Ok(Strike::lasting(detail, Mend::Free(fault), lasts))
}

/// Gives the room back, and does what an operator does then. A stream of nats-server that could not
/// write goes on refusing when there is room again, so the server is started again; Postgres goes on
/// by itself, unless it has ended.
///
/// # Errors
/// If a server does not come back.
pub async fn free(fault: ChaosFault, fleet: &mut ChaosFleet) -> Result<()> {
    for disk in fleet.disks.iter().flatten() {
        disk.free()?;
    }
    if fault == ChaosFault::FillNatsDisk {
        return fleet.stack.nats.restart().await;
    }
    let one = sqlx::query("select 1").execute(&fleet.sql);
    if !matches!(timeout(BY_ITSELF, one).await, Ok(Ok(_))) {
        fleet.stack.postgres.restart().await?;
    }
    Ok(())
}
