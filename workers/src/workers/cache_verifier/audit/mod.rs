//! The rolling audit: compares KV with SQL, some aggregates a second, by key, in rounds.
//!
//! The position is in SQL ([`position`]), so a round goes on when another instance takes over. A
//! round of a million aggregates whose keys have not expired takes 34 minutes, and each million of
//! those that have ended longer ago another 2: so many are compared and read a second, whatever
//! stands in them. What is in memory at once is a hundred of them.
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
//! no query believes it. An operator purges the key (`nats stream purge KV_views --subject …`); then it is missing, and healed. So does
//! `brigade rebuild`.

mod expected;
mod position;
mod round;

use std::{collections::BTreeSet, mem::replace, sync::Arc};

use tokio::{sync::Mutex, time::Duration};

pub use self::round::Audit;
use self::round::{Suspect, Suspects};
use super::{VerifierMetrics, discrepancy::KeyDiscrepancy, failed_dependency, heal};
use crate::infra::{Context, health::Duty, lease::LeasedRounds};

const LEASE: &str = "cache-verifier.audit";
/// The time between two looks of the audit.
const PERIOD: Duration = Duration::from_secs(1);

/// Audits some aggregates a second, under the lease, until the drain.
pub async fn keep_auditing(cx: Context, audit: Arc<Mutex<Audit>>, duty: Arc<Duty>) {
    // Held by one that panicked until its task is gone.
    let audit = audit.lock().await;
    // The watch of the streams reports servers that are unavailable.
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(PERIOD);
    let mut paused = false;
    while rounds.begin().await {
        let round = async {
            let before = position::load(&cx, &audit.metrics).await?;
            let (suspects, after) = audit.look(&cx, rounds.duty(), &before).await?;
            if !suspects.is_empty() && heal::is_under_way(&cx).await? {
                // It may be about to write these keys. They are looked at once more after it.
                return anyhow::Ok(());
            }
            heal_suspects(&cx, &audit.metrics, &suspects).await?;
            position::save(&cx, &before, after.as_ref()).await?;
            anyhow::Ok(())
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
async fn heal_suspects(
    cx: &Context,
    metrics: &VerifierMetrics,
    suspects: &Suspects,
) -> sqlx::Result<()> {
    let (mut own, mut projected) = (BTreeSet::new(), BTreeSet::new());
    for ((bucket, key), Suspect { address, part, discrepancy }) in suspects {
        let (worker, found) = (cx.worker, discrepancy.as_str());
        metrics.audit_findings.with_label_values(&[*bucket, found]).inc();
        if *discrepancy == KeyDiscrepancy::Ahead {
            let message = "key is ahead of SQL: purge it to have it healed";
            tracing::error!(%worker, bucket, key, "{message}");
            continue;
        }
        tracing::warn!(%worker, bucket, key, found, "key differs from SQL: its writer repairs it");
        if part.is_written_by_projector() {
            projected.insert((address.clone(), *part));
        } else {
            own.insert(address.clone());
        }
    }
    if !own.is_empty() {
        heal::project(cx, metrics, &own.into_iter().collect::<Vec<_>>()).await?;
    }
    if !projected.is_empty() {
        heal::republish(cx, metrics, &projected.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}
