//! The rolling audit: compares KV with SQL, a page of aggregates a second, by key, in rounds.
//!
//! A **discrepancy** is a key that says something else than SQL, at three looks with a pause in
//! between, while the aggregate is not in the projection backlog: what is in flight is none.
//!
//! | discrepancy | what it is | what is done |
//! |---|---|---|
//! | missing | no value, where none can have expired | healed |
//! | stale | a lower version, or a value that is not ours | healed |
//! | different | this version, but another content | healed: an equal version is written again |
//! | ahead | a higher version than SQL has ever had | reported only |
//!
//! A key that is ahead cannot be healed without lowering a version, which no writer does: a late
//! one could not be told from it. It comes from outside (a restored database, a forged write), and
//! no query believes it. An operator purges the key (`nats stream purge KV_views --subject …`);
//! then it is missing, and healed.

mod expected;
mod round;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::replace,
    sync::Arc,
};

use tokio::{sync::Mutex, time::Duration};

pub use self::round::Audit;
use self::round::{Suspect, Suspects};
use super::{VerifierMetrics, discrepancy::KeyDiscrepancy, failed_dependency, heal::Healer};
use crate::infra::{Context, health::Duty, lease::LeasedRounds};

const LEASE: &str = "cache-verifier.audit";
/// The time between two pages of the audit.
const PERIOD: Duration = Duration::from_secs(1);

/// Audits a page a second, under the lease, until the drain.
pub async fn keep_auditing(cx: Context, audit: Arc<Mutex<Audit>>, duty: Arc<Duty>) {
    // Held by one that panicked until its task is gone.
    let mut audit = audit.lock().await;
    // The watch of the streams reports servers that are unavailable.
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(PERIOD);
    let mut paused = false;
    while rounds.begin().await {
        let round = async {
            let suspects = audit.next_page(&cx, rounds.duty()).await?;
            heal(&cx, &audit.metrics, &mut rounds, &suspects).await
        };
        let Err(error) = round.await else {
            rounds.succeeded();
            paused = false;
            continue;
        };
        let why = format!("{error:#}");
        // Logged once in an outage.
        if !replace(&mut paused, true) {
            let message = "the audit pauses: single wrong keys stay until it goes on";
            tracing::warn!(worker = %cx.worker, error = why, "{message}");
        }
        rounds.failed(failed_dependency(&error), &why);
    }
}

/// Reports and heals confirmed suspects.
async fn heal(
    cx: &Context,
    metrics: &VerifierMetrics,
    rounds: &mut LeasedRounds,
    suspects: &Suspects,
) -> anyhow::Result<()> {
    let (mut own, mut projected) = (BTreeMap::new(), BTreeSet::new());
    for ((bucket, key), Suspect { address, part, discrepancy }) in suspects {
        let (worker, found) = (cx.worker, discrepancy.as_str());
        metrics.audit_findings.with_label_values(&[*bucket, found]).inc();
        if *discrepancy == KeyDiscrepancy::Ahead {
            let message = "key is ahead of SQL: purge it to have it healed";
            tracing::error!(%worker, bucket, key, "{message}");
            continue;
        }
        tracing::warn!(%worker, bucket, key, found, "key differs from SQL: its writer repairs it");
        // A backlog entry of version 0 stands for whatever version SQL has when it is projected.
        if part.is_written_by_projector() {
            projected.insert((address.clone(), *part));
        } else {
            own.insert(address.clone(), 0);
        }
    }
    let healer = Healer::new(cx, metrics, rounds);
    if !own.is_empty() {
        healer.add_to_backlog(&own.into_iter().collect::<Vec<_>>()).await?;
    }
    if !projected.is_empty() {
        healer.republish(&projected.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}
