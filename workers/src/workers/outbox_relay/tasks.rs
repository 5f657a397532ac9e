//! The tasks beside the relay's own loop: they get copies and report a [`TaskResult`].

use std::time::Duration;

use brigade_contracts::{planted::PlantedBug, subject};
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    batch::{BatchResult, ShardRead},
    shards::{Mask, SHARES, mask},
    watermark::{RelaySessions, Settling, Watermark},
};
use crate::infra::{Context, lease::HeldShares};

/// An announcement that takes longer is given up.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_millis(100);

/// The result of a task.
pub enum TaskResult {
    Round(sqlx::Result<HeldShares>),
    Probe(sqlx::Result<Probe>),
    Step(sqlx::Result<Settling>),
    Batch(Mask, BatchResult),
}

/// A probe of shards in which no row was known to be due.
pub struct Probe {
    pub at: Mask,
    pub found: Mask,
    /// The watermark of the shards without a row.
    pub watermark: Watermark,
}

/// Renews and balances the shares, and announces it if other relays have something to do then. A
/// relay that is not `fit` to publish gives all of its shares back.
pub async fn round(
    cx: &Context,
    sessions: &RelaySessions,
    first: bool,
    fit: bool,
) -> sqlx::Result<HeldShares> {
    if !fit && !PlantedBug::LeaseNotGivenUp.is_planted() {
        SHARES.give_back(&sessions.pool, &cx.instance).await?;
        return Ok(HeldShares::default());
    }
    let held = SHARES.take(&sessions.pool, &cx.instance).await?;
    if held.released || first {
        announce(cx).await;
    }
    Ok(held)
}

/// Finds the shards that have a row above their watermark, in one statement.
pub async fn probe(
    sessions: &RelaySessions,
    at: Mask,
    due: &[ShardRead],
    settled: Watermark,
) -> sqlx::Result<Probe> {
    let shards: Vec<i16> = due.iter().map(|due| due.shard).collect();
    let found = sessions.read(due.iter().map(|due| due.watermark), async |session, server| {
        let epoch = server.epoch;
        let watermarks: Vec<i64> = due.iter().map(|due| due.watermark.in_epoch(epoch)).collect();
        let found = sqlx::query_scalar!(
            r#"select due.shard as "shard!"
           from unnest($1::smallint[], $2::bigint[]) as due (shard, floor)
           cross join lateral (
               select from brigade.outbox o
               where o.shard = due.shard and o.seq > due.floor limit 1
           ) as found
           where (select brigade.assert_incarnation($3))"#,
            &shards,
            &watermarks,
            server.name,
        );
        Ok((found.fetch_all(session).await?, epoch))
    });
    let (found, epoch) = found.await?;
    let found = mask(found.iter().map(|shard| shard.unsigned_abs().into()));
    Ok(Probe { at, found, watermark: Watermark { seq: settled.in_epoch(epoch), epoch } })
}

/// Publishes that shards change hands. A hint: the other relays renew every half second anyway.
pub async fn announce(cx: &Context) {
    let publish = cx.nats.client.publish(subject::OUTBOX_RELAYS, Bytes::new());
    let _hint = timeout(ANNOUNCE_TIMEOUT, publish).await;
}
