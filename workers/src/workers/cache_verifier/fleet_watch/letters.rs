//! Dead letters by worker and reason. Of the stream the oldest [`MOST`] are read, by their headers,
//! and only when it has changed since.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use futures::TryStreamExt as _;
use serde::Serialize;

const STREAM: &str = "DLQ";
const MOST: usize = 1000;
/// The reason of those that are not read.
const NOT_READ: &str = "not read";
/// The most reasons that are told apart; the rest are `other`.
const MAX_REASONS: usize = 50;
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Time after which the server deletes the consumer of one who died.
const FORGOTTEN: std::time::Duration = std::time::Duration::from_secs(30);

/// How many dead letters of a worker there are that nobody replayed or dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterCount {
    /// Empty where that is not read.
    pub worker: String,
    /// The beginning of the reasons, up to a colon.
    pub reason: String,
    pub letters: i64,
}

/// The letters of the stream, as they were counted last.
pub struct LettersInStream {
    consumer: String,
    /// First and last sequence, and messages.
    seen: Option<(u64, u64, u64)>,
    counts: Vec<LetterCount>,
}

impl LettersInStream {
    /// Reads by a consumer of this name.
    #[must_use]
    pub fn new(consumer: &str) -> Self {
        Self { consumer: consumer.to_owned(), seen: None, counts: Vec::new() }
    }

    /// Counts the letters of the stream, unless it is as it was.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn count(&mut self, js: &jetstream::Context) -> Result<&[LetterCount]> {
        let mut stream = js.get_stream(STREAM).await.context("the stream DLQ cannot be read")?;
        let state = &stream.info().await?.state;
        let (seen, messages) =
            ((state.first_sequence, state.last_sequence, state.messages), state.messages);
        if self.seen == Some(seen) {
            return Ok(&self.counts);
        }
        let read = if messages > 0 { self.read(js).await? } else { Vec::new() };
        let rest = i64::try_from(messages).unwrap_or(i64::MAX) - read.len() as i64;
        let rest = (rest > 0).then(|| (String::new(), NOT_READ.to_owned(), rest));
        self.counts = count(read.into_iter().map(|(w, reason)| (w, reason, 1)).chain(rest));
        self.seen = Some(seen);
        Ok(&self.counts)
    }

    /// Reads worker and reason of the oldest letters.
    async fn read(&self, js: &jetstream::Context) -> Result<Vec<(String, String)>> {
        let stream = js.get_stream_no_info(STREAM).await?;
        // One of an instance that died is not at the beginning.
        let _gone = stream.delete_consumer(&self.consumer).await;
        let config = pull::Config {
            name: Some(self.consumer.clone()),
            description: Some("counts dead letters".to_owned()),
            filter_subject: "dlq.>".to_owned(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN,
            ..pull::Config::default()
        };
        let consumer: PullConsumer = stream.create_consumer(config).await?;
        let most = usize::try_from(consumer.cached_info().num_pending).unwrap_or(MOST).min(MOST);
        let mut found = Vec::with_capacity(most);
        if most > 0 {
            let mut batch = consumer.fetch().max_messages(most).expires(TIMEOUT).messages().await?;
            while let Some(message) = batch.try_next().await.map_err(anyhow::Error::from_boxed)? {
                let worker = message.subject.split('.').nth(1).unwrap_or_default().to_owned();
                let reason = message.headers.as_ref().and_then(|all| all.get("Dead-Reason"));
                found.push((worker, kind(reason.map(async_nats::HeaderValue::as_str))));
            }
        }
        let _deleted = stream.delete_consumer(&self.consumer).await;
        Ok(found)
    }
}

/// Returns the beginning of a reason, up to a colon.
pub(super) fn kind(reason: Option<&str>) -> String {
    let kind = reason.unwrap_or_default().split(':').next().unwrap_or_default();
    kind.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Adds up, with the most frequent reasons first.
pub(super) fn count(all: impl Iterator<Item = (String, String, i64)>) -> Vec<LetterCount> {
    let mut sums: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (worker, reason, letters) in all {
        let is_full = sums.len() >= MAX_REASONS;
        let key = (worker, reason);
        let key = match sums.contains_key(&key) {
            false if is_full => (key.0, "other".to_owned()),
            _ => key,
        };
        *sums.entry(key).or_default() += letters;
    }
    let counted = sums.into_iter();
    let mut counted: Vec<_> = counted
        .map(|((worker, reason), letters)| LetterCount { worker, reason, letters })
        .collect();
    counted.sort_by_key(|count| std::cmp::Reverse(count.letters));
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_added_up_by_worker_and_kind_of_reason_and_reasons_are_bounded() {
        let letter = |worker: &str, reason: &str| (worker.to_owned(), kind(Some(reason)), 1);
        let counted =
            count([letter("a", "x: 1"), letter("b", "x: 2"), letter("a", "x")].into_iter());
        let as_text: Vec<_> =
            counted.iter().map(|c| format!("{} {} {}", c.worker, c.reason, c.letters)).collect();
        assert_eq!(as_text, ["a x 2", "b x 1"]);
        let many = count((0..80).map(|n| ("a".to_owned(), format!("r{n}"), 1)));
        assert_eq!((many.len(), many[0].letters), (51, 30));
        assert_eq!(many[0].reason, "other");
    }
}
