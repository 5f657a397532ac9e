//! Lists letters page by page: those of the stream, then those of the table, and between them those
//! of the archive.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    },
};
use futures::TryStreamExt as _;

use super::{
    DeadLetters, Filter, Letter, Number, STREAM,
    letter::{headers_of, worker_of},
};
use crate::runtime::delivery::pairs;

/// Letters that are read in one round trip. They come without their payloads, which may be 100
/// times as large, but where the payloads are searched.
const BATCH: u16 = 500;
const BATCH_WITH_PAYLOADS: u16 = 50;
/// Time after which the server deletes the consumer of a command that was killed.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Longest wait for a batch, which takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The server's own: the length of a payload that it leaves out.
const PAYLOAD_LENGTH: &str = "Nats-Msg-Size";

/// Some of the letters that a filter selects.
pub struct Page {
    pub letters: Vec<Letter>,
    /// Further letters follow the last one.
    pub more: bool,
}

impl DeadLetters {
    /// Returns all letters that a filter selects, oldest first.
    ///
    /// # Errors
    /// If NATS or Postgres fails.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Letter>> {
        Ok(self.page(filter, None, usize::MAX).await?.letters)
    }

    /// Returns the first letters behind a number that a filter selects, oldest first: those of the
    /// stream, then those of the table.
    ///
    /// # Errors
    /// If NATS or Postgres fails.
    pub async fn page(&self, filter: &Filter, after: Option<Number>, limit: usize) -> Result<Page> {
        let mut archived = self.archived(filter.all, filter.contains.is_some()).await?;
        let mut letters = Vec::new();
        // One letter beyond the limit tells that there are more.
        let mut add = |mut letter: Letter, payload: &[u8]| {
            // Its action is completed, its removal is not.
            letter.action = archived.remove(&letter.number).and_then(|done| done.0.action);
            if filter.matches(&letter, payload) {
                letters.push(letter);
            }
            letters.len() <= limit
        };
        let (in_stream, in_table) = match after {
            None => (Some(0), 0),
            Some(Number::Stream(number)) => (Some(number), 0),
            Some(Number::Table(number)) => (None, number),
        };
        let mut incomplete = true;
        if let Some(after) = in_stream {
            incomplete = self.read_stream(filter, after, &mut add).await?;
        }
        if incomplete {
            self.read_table(in_table, filter.contains.is_some(), &mut add).await?;
        }
        let archived = archived.into_values().filter(|(letter, payload)| {
            after.is_none_or(|after| letter.number > after) && filter.matches(letter, payload)
        });
        letters.extend(archived.map(|(letter, _)| letter));
        letters.sort_by_key(|letter| letter.number);
        let more = letters.len() > limit;
        letters.truncate(limit);
        self.add_outcomes(&mut letters).await?;
        Ok(Page { letters, more })
    }

    /// Passes the letters of the stream to `add` until it declines more, and returns whether it
    /// accepts more.
    async fn read_stream(
        &self,
        filter: &Filter,
        after: u64,
        add: &mut impl FnMut(Letter, &[u8]) -> bool,
    ) -> Result<bool> {
        let searches = filter.contains.is_some();
        let stream = self.js.get_stream_no_info(STREAM).await?;
        let config = pull::Config {
            description: Some("brigade dlq".to_owned()),
            filter_subjects: filter.subjects(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            headers_only: !searches,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let batch = if searches { BATCH_WITH_PAYLOADS } else { BATCH };
        let read = read_consumer(&consumer, batch.into(), add).await;
        // If this fails the server deletes it later.
        let _deleted = stream.delete_consumer(&consumer.cached_info().name).await;
        read
    }

    /// Does the same with the letters of the table.
    async fn read_table(
        &self,
        after: u64,
        with_payloads: bool,
        add: &mut impl FnMut(Letter, &[u8]) -> bool,
    ) -> Result<()> {
        let mut after = after.cast_signed();
        loop {
            let rows = sqlx::query!(
                r#"select number, subject, headers::text as "headers!", stored_at,
                          case when $3 then payload else '' end as "payload!"
                   from brigade.dead_letters where number > $1 order by number limit $2"#,
                after,
                i64::from(BATCH),
                with_payloads,
            )
            .fetch_all(&self.postgres)
            .await?;
            let full = rows.len() == usize::from(BATCH);
            for row in rows {
                after = row.number;
                let number = Number::Table(row.number.cast_unsigned());
                let headers = headers_of(&row.headers)?;
                let letter = Letter::new(number, worker_of(&row.subject), headers, row.stored_at);
                if !add(letter, &row.payload) {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }
}

/// Reads what a consumer has to deliver, a batch each round trip.
async fn read_consumer(
    consumer: &PullConsumer,
    batch: usize,
    add: &mut impl FnMut(Letter, &[u8]) -> bool,
) -> Result<bool> {
    let mut pending = consumer.cached_info().num_pending;
    let mut delivered = 0;
    while pending > 0 {
        let size = usize::try_from(pending).unwrap_or(usize::MAX).min(batch);
        let mut batch = consumer.fetch().max_messages(size).expires(TIMEOUT).messages().await?;
        let before = delivered;
        while let Some(message) = batch.try_next().await.map_err(anyhow::Error::from_boxed)? {
            let info = message.info().map_err(anyhow::Error::from_boxed)?;
            delivered += 1;
            // Nothing is acknowledged, so what a connection lost does not come again.
            ensure!(
                info.consumer_sequence == delivered,
                "the connection to NATS was lost while dead letters were read: try again"
            );
            pending = info.pending;
            let letter = letter_of(&message, info.stream_sequence, info.published);
            if !add(letter, &message.payload) {
                return Ok(false);
            }
        }
        if delivered == before {
            // Somebody else has removed the rest, or the server is away.
            pending = consumer.get_info().await.context("dead letters cannot be read")?.num_pending;
            ensure!(pending == 0, "nats-server does not deliver dead letters: try again");
        }
    }
    Ok(true)
}

fn letter_of(
    message: &jetstream::Message,
    sequence: u64,
    stored_at: time::OffsetDateTime,
) -> Letter {
    let mut headers = HeaderMap::new();
    let all = pairs(message.headers.as_ref());
    for (name, value) in all.filter(|(name, _)| *name != PAYLOAD_LENGTH) {
        headers.append(name, value);
    }
    Letter::new(Number::Stream(sequence), worker_of(&message.subject), headers, stored_at)
}
