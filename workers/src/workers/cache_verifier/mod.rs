//! cache-verifier: what JetStream loses is made again from SQL.
//!
//! A **checkpoint** is what a stream looked like when all was well: creation time, the server's id,
//! first and last sequence ([`checkpoints`]). Each second the holder of the lease compares every
//! stream of the topology with its last checkpoint ([`stream_watch`]). A **loss** is whatever says
//! that messages may be gone since: no stream, one created again, a purge, a last sequence below
//! the checkpoint. A server that was started again is a **suspicion**: buckets are not synced to
//! disk, so what is newest is healed, and counted apart. A purge of a bucket takes its **canary**
//! along, a key of cache-verifier's own that is written once; all other keys may be overwritten or
//! expire between two checkpoints, which is no loss. Then it **heals** ([`heal`]):
//!
//! | lost | is brought back by |
//! |---|---|
//! | a bucket | entries of the `heal_backlog`, which command-handler projects, and the last event of each projected part in the outbox once more, from which its projector writes it |
//! | `KV_cart_locks`, `TIMERS` | entries of locks there: command-handler projects a lock and its timer together |
//! | `EVENTS` | events in the outbox once more, which outbox-relay publishes |
//! | `COMMANDS`, `DLQ` | the stream is created; what was in it was truth and is gone: an error is logged |
//!
//! That the last two are emptied is usual: what is done leaves them. The rest are rows in SQL for
//! those who own the keys: it writes no event, no aggregate, and no key but the canaries. A
//! checkpoint is saved together with the heal of all that was lost before it, and a heal's position
//! with each of its batches, so whoever takes over after a crash finds the same loss again, or goes
//! on; healing twice changes nothing. `brigade rebuild` stores a heal as well.
//!
//! Beside it runs the **audit** ([`audit`]), which compares some aggregates a second with what
//! stands in KV, and heals single keys the same way. Both walk through all aggregates by [`heads`].
//!
//! In a new **era** of the database, in which commits may be lost, it empties all buckets ([`era`]).
//! They are then healed as after any loss.
//!
//! And it **watches money** that waits for a person ([`money`]), which nobody else looks for.
//!
//! It **watches the fleet**: what waits where, and which workers live ([`fleet_watch`]).
//!
//! And it **verifies** what is cached of users' sessions, event by event ([`sessions`]).
//!
//! Guarantees: at rest, buckets and `EVENTS` are complete again some seconds after any loss. Not
//! on the path of a right answer: queries are confirmed with SQL, whatever KV says.
//!
//! Not responsible for: projecting (command-handler, the projectors), publishing (outbox-relay),
//! consumers (each worker makes its own again), changed settings of streams (`brigade provision`).

mod audit;
mod checkpoints;
mod discrepancy;
mod era;
pub mod fleet_watch;
mod heads;
mod heal;
mod metrics;
mod money;
mod sessions;
mod stream_watch;

use std::sync::Arc;

use tokio::sync::Mutex;

use self::{
    audit::{Audit, keep_auditing},
    fleet_watch::watch_fleet,
    heal::keep_healing,
    money::watch_money,
    sessions::{AskForState, SessionVerifier},
    stream_watch::watch_streams,
};
pub use self::{
    heal::{HealPlan, HealScope, HealStep, add as add_heal},
    metrics::VerifierMetrics,
    money::{MoneyMetrics, WaitingMoney},
};
use crate::{
    infra::{
        Context, Lease,
        health::POSTGRES,
        postgres::{Failure, failure},
    },
    runtime::{Source, consume, supervise::supervise},
};

/// The dependency that fails if the streams cannot be read, as the health of the worker names it.
const STREAMS: &str = "streams";

/// Runs the worker until the drain.
///
/// # Errors
/// If NATS cannot be used at all.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let messages = cx.health.duty("messages");
    let metrics = cx.metrics.group::<VerifierMetrics>();
    let auditing = {
        let (cx, duty) = (cx.clone(), Arc::new(cx.health.duty("audit")));
        let audit = Arc::new(Mutex::new(Audit::open(&cx).await?));
        supervise("the audit", move || keep_auditing(cx.clone(), audit.clone(), duty.clone()))
    };
    let sessions = SessionVerifier::open(&cx, AskForState(cx.nats.client.clone())).await?;
    let verifying = consume(&cx, messages, &[Source::Stream("EVENTS")], sessions);
    let healing = async {
        let healing = keep_healing(&cx, &metrics);
        let watching = async { tokio::join!(watch_money(cx.clone()), watch_fleet(cx.clone())) };
        tokio::join!(watch_streams(&cx, &metrics), healing, watching);
        anyhow::Ok(())
    };
    tokio::try_join!(healing, verifying)?;
    auditing.await?;
    // Best effort: a lease that is not given back runs out.
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

/// Returns the server that failed.
fn failed_dependency(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<sqlx::Error>().map(failure) {
        Some(Failure::Away | Failure::Conflict | Failure::Fault) => POSTGRES,
        None => STREAMS,
    }
}
