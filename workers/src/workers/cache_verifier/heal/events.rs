//! Events of the log in SQL, by their numbers, and their way into the outbox.

use brigade_contracts::{Address, Aggregate, shard_of};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BATCH, step::EventRange};
use crate::infra::{Context, postgres::bounded};

pub struct LoggedEvent {
    pub seq: i64,
    event_id: Uuid,
    tenant: String,
    aggregate: String,
    id: String,
}

impl LoggedEvent {
    pub fn address(&self) -> Option<Address> {
        Address::new(&self.tenant, Aggregate::parse(&self.aggregate)?, &self.id).ok()
    }
}

/// Returns the range of the events since a time, and up to [`BATCH`] earlier ones. The numbers of
/// events grow with their times, so it is looked for by halves: however many events there are, some
/// thirty of them are read.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn range_since(cx: &Context, since: OffsetDateTime) -> sqlx::Result<EventRange> {
    bounded(&cx.postgres, async |connection| {
        let ends = sqlx::query_as!(
            EventRange,
            r#"select coalesce(min(seq), 1) - 1 as "after!", coalesce(max(seq), 0) as "until!"
               from brigade.events"#,
        );
        let EventRange { mut after, until } = ends.fetch_one(&mut **connection).await?;
        let mut high = until;
        while high - after > BATCH {
            let middle = after + (high - after) / 2;
            let is_earlier = sqlx::query_scalar!(
                r#"select at < $2 as "is_earlier!" from brigade.events where seq > $1
                   order by seq limit 1"#,
                middle,
                since,
            );
            if is_earlier.fetch_optional(&mut **connection).await?.unwrap_or(false) {
                after = middle;
            } else {
                high = middle;
            }
        }
        Ok(EventRange { after, until })
    })
    .await
}

/// Loads the first events of a range.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_batch(
    cx: &Context,
    range: EventRange,
    limit: i64,
) -> sqlx::Result<Vec<LoggedEvent>> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query_as!(
            LoggedEvent,
            "select seq, event_id, tenant, aggregate, id from brigade.events
             where seq > $1 and seq <= $2 order by seq limit $3",
            range.after,
            range.until,
            limit,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await
}

/// Puts events into the outbox once more. Returns how many.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn republish(
    postgres: &mut PgConnection,
    events: &[LoggedEvent],
    under_new_ids: bool,
) -> sqlx::Result<u64> {
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
    let shard = |event: &LoggedEvent| event.address().map_or(0, |a| i16::from(shard_of(&a)));
    let shards: Vec<i16> = events.iter().map(shard).collect();
    let inserted = sqlx::query_file!(
        "src/workers/cache_verifier/heal/republish_events.sql",
        &seqs,
        &ids,
        &shards,
        under_new_ids,
    )
    .execute(postgres)
    .await?;
    Ok(inserted.rows_affected())
}
