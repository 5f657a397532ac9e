//! The watch on the fleet: what waits in each queue, who does what, and which workers live. It is
//! looked at from outside of the workers that are measured, so that it shows one that is dead.
//!
//! One instance looks each [`PERIOD`], under a lease, and serves what it saw from memory: so what a
//! look costs does not depend on how often or by how many it is asked for. An instance that does not
//! hold the lease serves nothing of it, so sums over all processes are right.
//!
//! `brigade status` looks in the same way by itself ([`Rows::load`], [`Streams::load`]).

mod instances;
mod letters;
mod metrics;
mod rows;
mod streams;

use std::{sync::Arc, time::Duration};

use brigade_contracts::permissions::DEAD_LETTER_COUNT;

pub use self::{
    instances::{InstanceState, SILENT},
    letters::{LetterCount, LettersInStream},
    metrics::FleetWatchMetrics,
    rows::{HeldLease, Queue, QueueName, Rows},
    streams::{ConsumerState, Streams},
};
use super::STREAMS;
use crate::infra::{Context, health::POSTGRES, lease::LeasedRounds};

const LEASE: &str = "cache-verifier.fleet";
/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(3);
/// The time that JetStream has for each answer.
const LIMIT: Duration = Duration::from_secs(2);
/// An instance that has not looked for so long shows nothing: another one does.
const STALE: Duration = Duration::from_secs(10);

/// Looks each [`PERIOD`], under the lease, until the drain.
pub async fn watch_fleet(cx: Context) {
    let metrics = cx.metrics.group::<FleetWatchMetrics>();
    let duty = Arc::new(cx.health.duty("fleet"));
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(PERIOD);
    let mut letters = LettersInStream::new(DEAD_LETTER_COUNT);
    let js = cx.nats.jetstream_within(LIMIT);
    while rounds.begin_or_forget(STALE, || metrics.forget()).await {
        let (rows, streams) =
            tokio::join!(Rows::load(&cx.postgres), Streams::load(&js, &cx.topology, &mut letters),);
        match (rows, streams) {
            (Ok(rows), Ok(streams)) => {
                metrics.show(&rows, &streams);
                rounds.succeeded();
            }
            // Others report it.
            (Err(error), _) => rounds.failed(POSTGRES, &error.to_string()),
            (_, Err(error)) => rounds.failed(STREAMS, &error.to_string()),
        }
    }
    metrics.forget();
}
