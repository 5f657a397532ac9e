//! outbox-relay: brings every committed event into the stream `EVENTS`.
//!
//! command-handler commits an event together with a row in the **outbox**. A relay reads the rows,
//! publishes their events, and deletes the rows that JetStream has acknowledged ([`batch`]). The
//! outbox is cut into 16 **shards** by aggregate, so that relays share the work and the events of
//! one aggregate stay in order. A relay **holds** the shards of its fair part
//! ([`infra::lease`](crate::infra::lease)).
//!
//! It is woken by a ping of command-handler after each commit, and probes its shards by itself as
//! well: often while there is work, rarely otherwise, with one statement for all of them. What is
//! due at one moment is read, published and deleted together: the work is per batch, not per event
//! or shard. Much is relayed in two batches that take turns, each of half of the shards; little in
//! one of all shards, and after it the next one gathers for 10 ms what comes: what a batch costs
//! both servers it costs mostly for being one. A shard is in one batch at a time.
//!
//! Guarantees: every committed event comes into `EVENTS` at least once, or is parked where the
//! stream would never take it ([`park`]); of each aggregate the first occurrences are in the order
//! of versions. Why, whatever dies and whoever else relays:
//! a row is deleted only after its event was acknowledged, and a batch holds, of each of its
//! shards, an unbroken run from the oldest row on ([`watermark`] says how that is found without
//! walking over what was deleted). So when an event is published, all older ones of its aggregate
//! stand in the stream or come before it in the same batch. That needs no lease: two relays of
//! one shard only publish the same run twice, which the stream mostly recognises
//! (`Nats-Msg-Id`, 2 minutes) and consumers bear.
//!
//! Not responsible for: the content of events (command-handler), putting lost events into the
//! outbox again (cache-verifier), making the stream (provisioning).

mod batch;
mod metrics;
mod park;
mod publish;
mod relay;
mod shards;
mod tasks;
#[cfg(test)]
pub mod tests;
mod watermark;

use brigade_contracts::subject;
use futures::StreamExt;
use tokio::{select, time::sleep_until};

pub use self::metrics::RelayMetrics;
use self::relay::Relay;
use crate::infra::Context;

/// Runs until the drain.
///
/// # Errors
/// If NATS cannot be used at all.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    // Before the first probe: a commit in between would have to wait for the second one.
    let mut wakes = cx.nats.client.subscribe(subject::OUTBOX_WAKE).await?;
    let mut changes = cx.nats.client.subscribe(subject::OUTBOX_RELAYS).await?;
    let drain = cx.drain.clone();
    let mut relay = Relay::new(cx);
    while !drain.is_cancelled() {
        relay.start_what_is_due();
        let next = relay.next_by_time();
        select! {
            Some(done) = relay.done() => relay.finish(done?),
            Some(wake) = wakes.next() => relay.wake(&wake.payload),
            Some(_) = changes.next() => relay.shares_change(),
            () = sleep_until(next) => {}
            () = drain.cancelled() => {}
        }
    }
    relay.drain().await;
    Ok(())
}
