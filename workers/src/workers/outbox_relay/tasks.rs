//! What runs beside the relay's own loop: it gets copies and reports what it has [`Done`].

use brigade_contracts::subject;
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    SHARES,
    batch::{Due, Outcome},
    floor::{Mark, Sessions, Settling},
    relay::{Mask, PAUSE},
};
use crate::infra::{Context, lease::Held};

/// What a task has done.
pub enum Done {
    Round(sqlx::Result<Held>),
    Look(sqlx::Result<Looked>),
    Step(sqlx::Result<Settling>),
    Batch(Mask, Outcome),
}

/// A look at shards in which nothing was known to be due.
pub struct Looked {
    pub at: Mask,
    pub found: Mask,
    /// The floor of those in which nothing was found.
    pub floor: Mark,
}

/// A round of the shares. The other relays hear of it if it gives them something to do. One that
/// is not `fit` to publish gives all of them back.
pub async fn round(
    cx: &Context,
    sessions: &Sessions,
    first: bool,
    fit: bool,
) -> sqlx::Result<Held> {
    if !fit {
        SHARES.give_back(&sessions.pool, &cx.instance).await?;
        return Ok(Held::default());
    }
    let held = SHARES.take(&sessions.pool, &cx.instance).await?;
    if held.released || first {
        announce(cx).await;
    }
    Ok(held)
}

/// Which of these shards have a row above their floor: one statement for all of them.
pub async fn look(
    sessions: &Sessions,
    at: Mask,
    due: &[Due],
    settled: Mark,
) -> sqlx::Result<Looked> {
    let shards: Vec<i16> = due.iter().map(|due| due.shard).collect();
    let found = sessions.read(due.iter().map(|due| due.floor), async |session, epoch| {
        let floors: Vec<i64> = due.iter().map(|due| due.floor.in_epoch(epoch)).collect();
        let found = sqlx::query_scalar!(
            r#"select due.shard as "shard!"
           from unnest($1::smallint[], $2::bigint[]) as due (shard, floor)
           cross join lateral (
               select from brigade.outbox o
               where o.shard = due.shard and o.seq > due.floor limit 1
           ) as found"#,
            &shards,
            &floors,
        );
        Ok((found.fetch_all(session).await?, epoch))
    });
    let (found, epoch) = found.await?;
    let found = found.iter().fold(0, |mask, shard| mask | 1 << shard);
    Ok(Looked { at, found, floor: Mark { seq: settled.in_epoch(epoch), epoch } })
}

/// Tells the other relays that shards change hands. A hint: they look every half second anyway.
pub async fn announce(cx: &Context) {
    let publish = cx.nats.client.publish(subject::OUTBOX_RELAYS, Bytes::new());
    let _hint = timeout(PAUSE, publish).await;
}
