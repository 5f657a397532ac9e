//! The projection backlog (`brigade.projection_backlog`): aggregates whose newest version may not be
//! stored in KV yet.
//!
//! A transaction adds an entry for each aggregate that it changes. The entry of a projected
//! aggregate is deleted with the next batch, or by itself after [`FLUSH_INTERVAL`]. One
//! command-handler, by a lease, projects the entries that are overdue: the handler that should have
//! projected them has died, or could not.

mod overdue;
mod projected;

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use self::overdue::OverdueScan;
pub use self::projected::{ProjectedVersions, flush};
use super::{metrics::CommandHandlerMetrics, project::ProjectionWriter};
use crate::infra::{Context, lease};

/// Entries of projected versions that no batch has deleted are deleted after this time.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Deletes the entries of projected versions and, under the lease, projects overdue entries, until
/// the drain.
pub async fn keep(
    cx: Context,
    writer: Arc<ProjectionWriter>,
    projected: Arc<ProjectedVersions>,
    metrics: Arc<CommandHandlerMetrics>,
) {
    let duty = cx.health.duty("projection-backlog");
    let mut flush_tick = interval(FLUSH_INTERVAL);
    let mut scan_tick = interval(lease::RENEW);
    flush_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    scan_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut scan = OverdueScan::new(cx.clone(), writer, projected.clone(), metrics);
    loop {
        let done = tokio::select! {
            _ = flush_tick.tick() => flush(&cx.postgres, &projected).await,
            _ = scan_tick.tick() => scan.run(&duty).await,
            () = cx.drain.cancelled() => break,
        };
        match done {
            Ok(()) => duty.moved(),
            Err(error) => {
                duty.went_round();
                tracing::debug!(worker = %cx.worker, %error, "the projection backlog is kept");
            }
        }
    }
}
