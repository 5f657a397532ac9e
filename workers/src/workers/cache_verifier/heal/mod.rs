//! Healing: brings back what was lost, by rows in SQL for those who own it.
//!
//! [`plan`] decides what has to be done. The watch of the streams stores that as a **heal** with the
//! checkpoints that no longer show the loss, in one transaction; `brigade rebuild` stores one as
//! well. This module does them, one after the other and step by step ([`step`]), under a lease of
//! its own. Each batch is one transaction with the position after it ([`store`]), so whoever takes
//! over goes on there. All of it may be repeated: an aggregate that is projected once more, and an
//! event that is published once more, change nothing.
//!
//! No more is put into a queue than others take out of it: the heal backlog stays short, and between
//! the events that are published once more those of the moment come soon.

mod backlog;
mod events;
mod healer;
mod plan;
mod scan;
mod step;
mod store;
mod walk;

use anyhow::bail;
use async_nats::jetstream::response::Response;
use brigade_contracts::{Address, Part};
use serde_json::Value;

use self::healer::Healer;
pub use self::{
    backlog::in_backlog,
    events::range_since,
    plan::HealPlan,
    step::{HealScope, HealStep},
    store::{add, delete_old, is_under_way},
};
use super::{
    failed_dependency,
    metrics::{HealedRows, VerifierMetrics},
};
use crate::{
    infra::{Context, lease::LeasedRounds, postgres::bounded},
    store::outbox::repeat_parts,
};

const LEASE: &str = "cache-verifier.heals";
/// Rows of a batch: some 50 ms.
const BATCH: i64 = 2000;

/// Does the heals that are stored, under the lease, until the drain.
pub async fn keep_healing(cx: &Context, metrics: &VerifierMetrics) {
    let mut rounds = LeasedRounds::new(cx, LEASE, cx.health.duty("heals"));
    while rounds.begin().await {
        let healed = Healer { cx, metrics, rounds: &mut rounds }.heal_all().await;
        match healed {
            Ok(()) => rounds.succeeded(),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(worker = %cx.worker, error = why, "healing goes on after a pause");
                rounds.failed(failed_dependency(&error), &why);
            }
        }
    }
}

/// Puts aggregates into the heal backlog, all of whose keys command-handler writes again then.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn project(
    cx: &Context,
    metrics: &VerifierMetrics,
    aggregates: &[Address],
) -> sqlx::Result<()> {
    let added = bounded(&cx.postgres, async |c| backlog::add(c, aggregates).await).await?;
    metrics.count_healed(HealedRows::Aggregates, added);
    Ok(())
}

/// Puts the newest event that carries each of these parts into the outbox.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn republish(
    cx: &Context,
    metrics: &VerifierMetrics,
    parts: &[(Address, Part)],
) -> sqlx::Result<()> {
    let added = bounded(&cx.postgres, async |c| repeat_parts(c, parts).await).await?;
    metrics.count_healed(HealedRows::Parts, added);
    Ok(())
}

/// Creates a stream of the topology; one that exists stays as it is.
///
/// # Errors
/// If the server refuses to create it.
pub async fn create_stream(cx: &Context, name: &str) -> anyhow::Result<()> {
    let declared = cx.topology.stream(name);
    let request = cx.nats.jetstream.request(format!("STREAM.CREATE.{name}"), &declared);
    match request.await? {
        Response::Ok::<Value>(_) => {
            tracing::warn!(
                worker = %cx.worker, stream = name,
                "stream was absent and is created from the topology"
            );
            Ok(())
        }
        Response::Err { error } => bail!("cannot create {name}: {error}"),
    }
}
