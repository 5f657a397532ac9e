//! Faults of processes of workers.

use std::time::Duration;

use anyhow::Result;
use rand::{Rng, rngs::StdRng};

use super::{ChaosFault, Mend, Strike};
use crate::chaos::fleet::ChaosFleet;

/// Strikes one process.
///
/// # Errors
/// If it does not get ready again.
pub async fn strike(
    fault: ChaosFault,
    fleet: &mut ChaosFleet,
    random: &mut StdRng,
) -> Result<Strike> {
    let at = fleet.any(random);
    let name = fleet.name(at).to_owned();
    let down = Duration::from_millis(random.random_range(0..2000));
    Ok(match fault {
        ChaosFault::PauseWorker => {
            let lasts = Duration::from_millis(random.random_range(5000..8000));
            if let Some(process) = &fleet.members[at].process {
                process.pause();
            }
            Strike::lasting(
                format!("{name} for {:.1} s", lasts.as_secs_f64()),
                Mend::Continue(at),
                lasts,
            )
        }
        ChaosFault::DrainWorker => {
            fleet.drain(at).await;
            Strike::lasting(name, Mend::Start, down)
        }
        ChaosFault::MoveClock => {
            let clock = ["+3600", "-3600"][random.random_range(0..2)];
            let lasts = Duration::from_millis(random.random_range(5000..9000));
            fleet.kill(at).await;
            fleet.members[at].clock = Some(clock.to_owned());
            fleet.start_missing().await?;
            let detail = format!("{name} by {clock} s for {:.1} s", lasts.as_secs_f64());
            Strike::lasting(detail, Mend::Clock(at), lasts)
        }
        _ => {
            fleet.kill(at).await;
            Strike::lasting(name, Mend::Start, down)
        }
    })
}

/// Restarts each process in turn.
///
/// # Errors
/// If one does not get ready.
pub async fn rolling_restart(fleet: &mut ChaosFleet) -> Result<Strike> {
    for at in 0..fleet.members.len() {
        fleet.drain(at).await;
        fleet.start_missing().await?;
    }
    Ok(Strike::over(format!("{} processes", fleet.members.len())))
}
