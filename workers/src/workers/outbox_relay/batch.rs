//! One batch: read → publish → delete. If a step fails, or the relay dies in between, the batch is
//! read and published again, and the stream recognises the events that it has.

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Aggregate, Refusal, Token, Via, event::Envelope, header, planted::PlantedBug,
};
use bytes::Bytes;
use uuid::Uuid;

use super::{
    metrics::RelayMetrics,
    park::{Unfit, park},
    publish::{self, OutboxEvent},
    watermark::{RelaySessions, Watermark},
};
use crate::{
    infra::{Context, postgres::bounded},
    runtime::dead_letter::one_line,
};

/// Most events of a batch: as many as the server takes. Half as many cost a tenth of the pace.
const MOST: usize = 1000;
/// Most events of one shard in a batch.
const MOST_OF_A_SHARD: usize = 500;
/// Bytes of payload after which a batch is full: it has at most these and one event.
const MOST_BYTES: i64 = 4 * 1024 * 1024;

/// A shard to be read.
#[derive(Clone, Copy, Debug)]
pub struct ShardRead {
    pub shard: i16,
    pub watermark: Watermark,
}

/// The progress of a shard in a batch.
#[derive(Clone, Copy, Debug)]
pub struct ShardProgress {
    pub shard: i16,
    /// The watermark that the shard may rise to.
    pub watermark: Watermark,
    /// True if there may be more rows.
    pub more: bool,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub struct BatchResult {
    /// The shards in which nothing failed.
    pub shards: Vec<ShardProgress>,
    /// The number of events that left the outbox.
    pub relayed: usize,
    pub failure: Option<RelayFailure>,
}

/// The server that failed, and why.
#[derive(Debug)]
pub enum RelayFailure {
    Postgres(String),
    Stream(String),
}

/// Relays the oldest events of some shards and deletes them from the outbox. `settled` is
/// the number that is settled before this begins.
pub async fn relay(
    cx: &Context,
    metrics: &RelayMetrics,
    sessions: &RelaySessions,
    due: &[ShardRead],
    settled: Watermark,
) -> BatchResult {
    relay_read(cx, metrics, sessions, due, settled).await.unwrap_or_else(|error| BatchResult {
        failure: Some(RelayFailure::Postgres(error.to_string())),
        ..BatchResult::default()
    })
}

async fn relay_read(
    cx: &Context,
    metrics: &RelayMetrics,
    sessions: &RelaySessions,
    due: &[ShardRead],
    settled: Watermark,
) -> sqlx::Result<BatchResult> {
    let mut result = BatchResult::default();
    let EventBatch { mut events, mut unfit, epoch, more } = read(sessions, due).await?;
    if PlantedBug::RelayOutOfOrder.is_planted() {
        events.reverse();
    }
    let mut left: BTreeSet<(i16, i64)> = events.iter().map(|e| (e.shard, e.seq)).collect();
    left.extend(unfit.iter().map(|unfit| (unfit.shard, unfit.seq)));
    let mut gone = Vec::with_capacity(left.len());
    let mut stored = None;
    if PlantedBug::RelayDeletesFirst.is_planted() {
        delete(sessions, &left.iter().copied().collect::<Vec<_>>()).await?;
    }
    if !events.is_empty() {
        cx.fail.point("outbox-relay.before_publish").await;
        let published = publish::publish(&cx.nats, &events).await;
        cx.fail.point("outbox-relay.after_publish").await;
        let done = events.iter().zip(&published.done).filter(|(_, done)| **done);
        gone.extend(done.clone().map(|(event, _)| (event.shard, event.seq)));
        // What repair put in once more is as old as the event, which says nothing of the relay. A
        // first publication has the number of its event as its place.
        let first = done.filter(|(event, _)| event.seq == event.event_seq);
        let oldest = first.map(|(event, _)| event.envelope.at).min();
        stored = (!gone.is_empty()).then_some((published.mode, gone.len(), oldest));
        let refused = published.unfit.iter().map(|(at, why)| Unfit::refused(&events[*at], why));
        unfit.extend(refused);
        result.failure = published.error.map(RelayFailure::Stream);
    }
    if result.failure.is_none() {
        let (parked, error) = park(cx, &unfit).await;
        metrics.events_parked.inc_by(parked as u64);
        gone.extend(unfit[..parked].iter().map(|unfit| (unfit.shard, unfit.seq)));
        result.failure = error.map(RelayFailure::Stream);
    }
    if !gone.is_empty() {
        delete(sessions, &gone).await?;
    }
    if let Some((mode, count, oldest)) = stored {
        metrics.count_batch(mode, count, oldest);
    }
    result.relayed = gone.len();
    gone.iter().for_each(|row| {
        left.remove(row);
    });
    let failed: BTreeSet<i16> = left.into_iter().map(|(shard, _)| shard).collect();
    let settled = settled.in_epoch(epoch);
    for shard in due.iter().map(|due| due.shard).filter(|shard| !failed.contains(shard)) {
        let more = more.contains(&shard);
        let last = events.iter().rfind(|event| event.shard == shard).map_or(0, |event| event.seq);
        // Nothing is left below what was read, and nothing at all where no more is.
        let seq = if more { settled.min(last) } else { settled };
        result.shards.push(ShardProgress { shard, watermark: Watermark { seq, epoch }, more });
    }
    Ok(result)
}

struct EventBatch {
    /// The events, in the order of the queue.
    events: Vec<OutboxEvent>,
    /// The rows that are no event.
    unfit: Vec<Unfit>,
    epoch: u64,
    /// The shards of which there are more rows than were read.
    more: BTreeSet<i16>,
}

async fn read(sessions: &RelaySessions, due: &[ShardRead]) -> sqlx::Result<EventBatch> {
    let most = (MOST / due.len().max(1)).min(MOST_OF_A_SHARD);
    let shards: Vec<i16> = due.iter().map(|due| due.shard).collect();
    let rows = sessions.read(due.iter().map(|due| due.watermark), async |session, server| {
        let epoch = server.epoch;
        let watermarks: Vec<i64> = due.iter().map(|due| due.watermark.in_epoch(epoch)).collect();
        let rows = sqlx::query_file_as!(
            OutboxRow,
            "src/workers/outbox_relay/read.sql",
            &shards,
            &watermarks,
            i64::try_from(most).unwrap_or(i64::MAX),
            MOST_BYTES,
            server.name,
        );
        Ok((rows.fetch_all(session).await?, epoch))
    });
    let (rows, epoch) = rows.await?;
    let read_of = |shard| rows.iter().filter(|row| row.shard == shard).count();
    let more = shards.into_iter().filter(|shard| read_of(*shard) >= most).collect();
    let mut read = EventBatch { events: Vec::new(), unfit: Vec::new(), epoch, more };
    for mut row in rows {
        // The rows behind it of the same shard have none either, since bytes only grow.
        let Some(payload) = row.payload.take().map(Bytes::from) else {
            read.more.insert(row.shard);
            continue;
        };
        let OutboxRow { shard, seq, event_seq, .. } = row;
        match row.envelope() {
            Ok(envelope) => {
                let era = sessions.era;
                read.events.push(OutboxEvent { shard, seq, era, event_seq, envelope, payload })
            }
            Err(refusal) => read.unfit.push(row.unfit(payload, &refusal)),
        }
    }
    Ok(read)
}

/// A row of `read.sql`.
struct OutboxRow {
    shard: i16,
    seq: i64,
    event_seq: i64,
    event_id: Uuid,
    again: i32,
    tenant: String,
    aggregate: String,
    id: String,
    version: i64,
    name: String,
    /// None beyond the bytes of the batch.
    payload: Option<String>,
    at: time::OffsetDateTime,
    command_id: String,
    actor: Option<String>,
    via: Option<String>,
    traceparent: Option<String>,
}

impl OutboxRow {
    fn envelope(&self) -> Result<Envelope, Refusal> {
        let aggregate = Aggregate::parse(&self.aggregate)
            .ok_or_else(|| Refusal::new(500, "unknown_aggregate", self.aggregate.clone()))?;
        Ok(Envelope {
            event_id: self.event_id.to_string(),
            republication: self.again.unsigned_abs(),
            address: Address::new(&self.tenant, aggregate, &self.id)?,
            name: Token::new(&self.name)?,
            version: self.version.unsigned_abs(),
            at: self.at.into(),
            command_id: Token::new(&self.command_id)?,
            actor: self.actor.as_deref().map(Token::new).transpose()?,
            via: self.via.as_deref().and_then(Via::parse),
            traceparent: self.traceparent.clone(),
        })
    }

    /// Returns what is known of a row that is no event.
    fn unfit(&self, payload: Bytes, refusal: &Refusal) -> Unfit {
        let Self { tenant, aggregate, id, name, .. } = self;
        let headers = [
            (header::CE_TYPE, format!("brigade.{aggregate}.{name}")),
            (header::CE_SOURCE, format!("/brigade/{tenant}")),
            (header::CE_SUBJECT, id.clone()),
            (header::CE_ID, self.event_id.to_string()),
            (header::MSG_ID, format!("{}.{}", self.event_id, self.again)),
            (header::AGGREGATE_VERSION, self.version.to_string()),
            (header::COMMAND_ID, self.command_id.clone()),
        ];
        Unfit {
            shard: self.shard,
            seq: self.seq,
            event_seq: self.event_seq,
            subject: format!("evt.{tenant}.{aggregate}.{name}.{:02}", self.shard),
            headers: headers.map(|(name, value)| (name, one_line(&value))).into(),
            payload,
            reason: format!("a row of the outbox is no event: {refusal}"),
        }
    }
}

/// Deletes rows by shard and seq.
async fn delete(sessions: &RelaySessions, rows: &[(i16, i64)]) -> sqlx::Result<()> {
    let (shards, seqs): (Vec<i16>, Vec<i64>) = rows.iter().copied().unzip();
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
