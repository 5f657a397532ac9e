//! The projection backlog (`brigade.projection_backlog`): aggregates whose newest version may not
//! be stored in KV yet.
//!
//! A transaction adds an entry for each aggregate that it changes. The entry of a projected
//! aggregate is deleted with the next batch, or by itself after [`FLUSH_INTERVAL`]. One
//! command-handler, by a lease, projects the entries that are overdue: the handler that should have
//! projected them has died, or could not. One, by another lease, projects those of the heal backlog
//! (`brigade.heal_backlog`): what cache-verifier found lost. Neither waits for the other.

mod entries;
mod projected;
mod scan;

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use self::{entries::Backlog, scan::BacklogScan};
use super::{metrics::CommandHandlerMetrics, project::ProjectionWriter};
use crate::infra::Context;

pub use self::projected::{ProjectedVersions, flush};

/// Entries of projected versions that no batch has deleted are deleted after this time.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Deletes the entries of projected versions and, under a lease each, projects overdue entries and
/// those of the heal backlog, until the drain.
pub async fn keep(
    cx: Context,
    writer: Arc<ProjectionWriter>,
    projected: Arc<ProjectedVersions>,
    metrics: Arc<CommandHandlerMetrics>,
) {
    let scan = |backlog| {
        let (writer, projected) = (writer.clone(), projected.clone());
        BacklogScan::new(backlog, cx.clone(), writer, projected, metrics.clone()).run()
    };
    tokio::join!(flush_regularly(&cx, &projected), scan(Backlog::Overdue), scan(Backlog::Heals));
}

async fn flush_regularly(cx: &Context, projected: &ProjectedVersions) {
    let mut tick = interval(FLUSH_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        if let Err(error) = flush(&cx.postgres, projected).await {
            tracing::debug!(worker = %cx.worker, %error, "cannot delete backlog entries yet");
        }
    }
}
