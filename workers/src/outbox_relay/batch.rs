//! One batch: read → publish → delete. Whatever fails, or kills it in between, it is read again
//! and published again, and the stream recognises what it has.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate, Refusal, Token, event::Envelope};
use uuid::Uuid;

use super::{
    floor::{Mark, Sessions},
    publish::{self, Event},
};
use crate::{runtime::Context, store::postgres::bounded};

/// Most events of a batch: as many as the server takes. Half as many cost a tenth of the pace.
const MOST: usize = 1000;
/// Most events of one shard in a batch.
const MOST_OF_A_SHARD: usize = 500;
/// Most bytes of payload in a batch, unless its first event alone is larger.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A shard to be read.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub shard: i16,
    pub floor: Mark,
}

/// How a batch left a shard.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub shard: i16,
    /// Where its floor may rise to.
    pub floor: Mark,
    /// There may be more to read.
    pub more: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Those of the shards that nothing failed in.
    pub shards: Vec<Left>,
    pub relayed: usize,
    pub trouble: Option<Trouble>,
}

/// Who did not do what was asked.
#[derive(Debug)]
pub enum Trouble {
    Postgres(String),
    Stream(String),
}

/// Relays the oldest events of some shards and deletes them from the outbox. `settled` is what is
/// known to be settled before this begins.
pub async fn relay(cx: &Context, sessions: &Sessions, due: &[Due], settled: Mark) -> Outcome {
    relay_read(cx, sessions, due, settled).await.unwrap_or_else(|error| Outcome {
        trouble: Some(Trouble::Postgres(error.to_string())),
        ..Outcome::default()
    })
}

async fn relay_read(
    cx: &Context,
    sessions: &Sessions,
    due: &[Due],
    settled: Mark,
) -> sqlx::Result<Outcome> {
    let mut outcome = Outcome::default();
    let Read { events, epoch, more, mut failed } = read(sessions, due).await?;
    if !events.is_empty() {
        cx.fail.point("outbox-relay.before_publish").await;
        let published = publish::publish(&cx.nats, &events).await;
        cx.fail.point("outbox-relay.after_publish").await;
        let (done, undone): (Vec<_>, Vec<_>) =
            events.iter().zip(&published.done).partition(|(_, done)| **done);
        failed.extend(undone.iter().map(|(event, _)| event.shard));
        let done: Vec<&Event> = done.into_iter().map(|(event, _)| event).collect();
        if let Some(oldest) = done.iter().map(|event| event.envelope.at).min() {
            delete(sessions, &done).await?;
            cx.metrics.relayed(published.how, done.len(), oldest);
        }
        outcome.relayed = done.len();
        outcome.trouble = published.error.map(Trouble::Stream);
    }
    let settled = settled.in_epoch(epoch);
    for shard in due.iter().map(|due| due.shard).filter(|shard| !failed.contains(shard)) {
        let more = more.contains(&shard);
        let last = events.iter().rfind(|event| event.shard == shard).map_or(0, |event| event.seq);
        // Nothing is left below what was read, and nothing at all where no more is.
        let seq = if more { settled.min(last) } else { settled };
        outcome.shards.push(Left { shard, floor: Mark { seq, epoch }, more });
    }
    Ok(outcome)
}

struct Read {
    /// In the order of the queue.
    events: Vec<Event>,
    epoch: u64,
    /// Shards of which there is more than was taken.
    more: BTreeSet<i16>,
    /// Shards with a row that is no event. Nothing behind it is taken.
    failed: BTreeSet<i16>,
}

async fn read(sessions: &Sessions, due: &[Due]) -> sqlx::Result<Read> {
    let most = (MOST / due.len().max(1)).min(MOST_OF_A_SHARD);
    let shards: Vec<i16> = due.iter().map(|due| due.shard).collect();
    let rows = sessions.read(due.iter().map(|due| due.floor), async |session, epoch| {
        let floors: Vec<i64> = due.iter().map(|due| due.floor.in_epoch(epoch)).collect();
        let rows = sqlx::query_file_as!(
            Row,
            "src/outbox_relay/read.sql",
            &shards,
            &floors,
            i64::try_from(most).unwrap_or(i64::MAX),
        );
        Ok((rows.fetch_all(session).await?, epoch))
    });
    let (rows, epoch) = rows.await?;
    let read_of = |shard| rows.iter().filter(|row| row.shard == shard).count();
    let more = shards.into_iter().filter(|shard| read_of(*shard) >= most).collect();
    let mut read = Read { events: Vec::new(), epoch, more, failed: BTreeSet::new() };
    let mut bytes = 0;
    for row in rows {
        let (shard, seq) = (row.shard, row.seq);
        bytes += row.payload.len();
        if bytes > MOST_BYTES && !read.events.is_empty() {
            // The rows behind it of the same shard are not taken either, since bytes only grow.
            read.more.insert(shard);
            continue;
        }
        if read.failed.contains(&shard) {
            continue;
        }
        match row.into_event() {
            Ok(event) => read.events.push(event),
            Err(error) => {
                tracing::error!(shard, seq, %error, "a row of the outbox is no event");
                read.failed.insert(shard);
            }
        }
    }
    Ok(read)
}

/// As `read.sql` gives it.
struct Row {
    shard: i16,
    seq: i64,
    event_id: Uuid,
    again: i32,
    tenant: String,
    aggregate: String,
    id: String,
    version: i64,
    name: String,
    payload: String,
    at: time::OffsetDateTime,
    command_id: String,
    traceparent: Option<String>,
}

impl Row {
    fn into_event(self) -> Result<Event, Refusal> {
        let aggregate = Aggregate::parse(&self.aggregate)
            .ok_or_else(|| Refusal::new(500, "unknown_aggregate", self.aggregate))?;
        let envelope = Envelope {
            event_id: self.event_id.to_string(),
            again: self.again.unsigned_abs(),
            address: Address::new(&self.tenant, aggregate, &self.id)?,
            name: Token::new(&self.name)?,
            version: self.version.unsigned_abs(),
            at: self.at.into(),
            command_id: Token::new(&self.command_id)?,
            traceparent: self.traceparent,
        };
        Ok(Event { shard: self.shard, seq: self.seq, envelope, payload: self.payload.into() })
    }
}

async fn delete(sessions: &Sessions, events: &[&Event]) -> sqlx::Result<()> {
    let shards: Vec<i16> = events.iter().map(|event| event.shard).collect();
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    let deleted = bounded(&sessions.pool, async |session| {
        sqlx::query!(
            // Each by its key, for the same reason as in `read.sql`.
            "delete from brigade.outbox where ctid = any (array (
             select o.ctid
             from unnest($1::smallint[], $2::bigint[]) as done (shard, seq)
             cross join lateral (
                 select queued.ctid from brigade.outbox queued
                 where queued.shard = done.shard and queued.seq = done.seq limit 1
             ) o
         ))",
            &shards,
            &seqs,
        )
        .execute(&mut **session)
        .await
    });
    deleted.await?;
    Ok(())
}
