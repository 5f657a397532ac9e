//! Events of the log in SQL, by their numbers, and their way into the outbox.

use brigade_contracts::{Address, Aggregate, shard_of};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::infra::{Context, postgres::bounded};

pub struct LoggedEvent {
    seq: i64,
    event_id: Uuid,
    tenant: String,
    aggregate: String,
    id: String,
    pub version: i64,
}

impl LoggedEvent {
    pub fn address(&self) -> Option<Address> {
        Address::new(&self.tenant, Aggregate::parse(&self.aggregate)?, &self.id).ok()
    }
}

/// Numbers of events: above the first, up to the second.
pub struct EventRange {
    after: i64,
    until: i64,
}

/// Returns the range of the events since a time.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn range_since(cx: &Context, since: OffsetDateTime) -> sqlx::Result<EventRange> {
    bounded(&cx.postgres, async |connection| {
        // The inner query is kept apart, else the planner walks from the first event on.
        sqlx::query_as!(
            EventRange,
            r#"select coalesce(min(seq), 1) - 1 as "after!", coalesce(max(seq), 0) as "until!"
               from (select seq from brigade.events where at >= $1 offset 0) recent"#,
            since,
        )
        .fetch_one(&mut **connection)
        .await
    })
    .await
}

/// Loads the next events of a range, and shortens it by them.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_batch(
    cx: &Context,
    range: &mut EventRange,
    limit: i64,
) -> sqlx::Result<Vec<LoggedEvent>> {
    let (after, until) = (range.after, range.until);
    let batch = bounded(&cx.postgres, async |connection| {
        sqlx::query_as!(
            LoggedEvent,
            "select seq, event_id, tenant, aggregate, id, version from brigade.events
             where seq > $1 and seq <= $2 order by seq limit $3",
            after,
            until,
            limit,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    if let Some(last) = batch.last() {
        range.after = last.seq;
    }
    Ok(batch)
}

/// Puts events into the outbox once more. Returns how many.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn republish(
    cx: &Context,
    events: &[LoggedEvent],
    under_new_ids: bool,
) -> sqlx::Result<u64> {
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
    let shard = |event: &LoggedEvent| event.address().map_or(0, |a| i16::from(shard_of(&a)));
    let shards: Vec<i16> = events.iter().map(shard).collect();
    let inserted = bounded(&cx.postgres, async |connection| {
        sqlx::query_file!(
            "src/workers/cache_verifier/heal/republish_events.sql",
            &seqs,
            &ids,
            &shards,
            under_new_ids,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(inserted.rows_affected())
}
