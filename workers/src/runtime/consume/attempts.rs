use brigade_contracts::{
    Era,
    key::{self, Bucket},
};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::{
    infra::{Context, Kv, KvEntry, Put, PutResult, WhenAbsent},
    runtime::{Delivery, delivery::Origin},
};

/// Most tries alone of a message that keeps failing.
pub(super) const MAX_TRIES: u32 = 5;

/// Counts the tries of messages that are handled alone. A try is recorded before it begins, so that
/// a message that kills its process is counted too. Other deliveries do not count: a message that
/// shared a batch with a bad one did nothing wrong.
pub(super) struct Attempts {
    kv: Kv,
    /// The number of tries, by key, that are or may be recorded although the message was not at
    /// fault: a server that dies loses acknowledgements, and cannot be asked to revoke a try. They
    /// are subtracted when the next try is recorded.
    uncounted: Cache<String, u32>,
}

/// Most messages whose uncounted tries are remembered.
const REMEMBERED: u64 = 10_000;

/// The stored value of a key.
#[derive(Serialize, Deserialize)]
struct AttemptRecord {
    /// The version of the record, so that a write is compare-and-set like any other.
    version: u64,
    tries: u32,
    /// The time at which the message was stored, in nanoseconds: a stream that is made again counts
    /// its messages from 1 again.
    stored_at: i128,
}

impl Attempts {
    pub(super) async fn open(cx: &Context) -> anyhow::Result<Self> {
        let kv = Kv::open(&cx.nats, Era::FIRST, Bucket::Attempts).await?;
        Ok(Self { kv, uncounted: Cache::new(REMEMBERED) })
    }

    /// Records that a try begins. Returns its number, from 1; above [`MAX_TRIES`] it may not begin.
    ///
    /// # Errors
    /// If the record cannot be written: then the try may not begin either.
    pub(super) async fn begin(&self, cx: &Context, delivery: &Delivery) -> anyhow::Result<u32> {
        let Some(key) = key(cx, delivery) else { return Ok(1) };
        let record = self.read(&key, delivery).await?;
        let uncounted = self.uncounted.remove(&key).unwrap_or(0);
        let number = record.tries.saturating_sub(uncounted) + 1;
        if number > MAX_TRIES {
            return Ok(number);
        }
        let written = self.write(&key, AttemptRecord { tries: number, ..record }).await;
        if written.is_err() {
            // It may be stored all the same.
            self.uncounted.insert(key, uncounted + 1);
        }
        written.map(|()| number)
    }

    /// Does not count a try that did not fail, even if its acknowledgement is lost.
    pub(super) fn discount(&self, cx: &Context, delivery: &Delivery) {
        if let Some(key) = key(cx, delivery) {
            let uncounted = self.uncounted.get(&key).unwrap_or(0);
            self.uncounted.insert(key, uncounted + 1);
        }
    }

    /// Revokes a try that ended because a dependency was away.
    pub(super) async fn revoke(&self, cx: &Context, delivery: &Delivery) {
        let Some(key) = key(cx, delivery) else { return };
        let revoked = async {
            let record = self.read(&key, delivery).await?;
            let tries = record.tries.saturating_sub(1);
            self.write(&key, AttemptRecord { tries, ..record }).await
        };
        if let Err(error) = revoked.await {
            tracing::debug!(worker = %cx.worker, %error, "a try is revoked with the next one");
            self.discount(cx, delivery);
        }
    }

    async fn read(&self, key: &str, delivery: &Delivery) -> anyhow::Result<AttemptRecord> {
        let stored_at = match &delivery.origin {
            Origin::Stored { stored_at, .. } => *stored_at,
            Origin::Request => 0,
        };
        let found = self.kv.get(key).await?;
        let read = |entry: KvEntry| serde_json::from_slice::<AttemptRecord>(&entry.value).ok();
        let record = found.and_then(read);
        let version = record.as_ref().map_or(0, |record| record.version);
        // A record of an earlier stream of this name says nothing about this message.
        let record = record.filter(|record| record.stored_at == stored_at);
        Ok(AttemptRecord { version, tries: record.map_or(0, |record| record.tries), stored_at })
    }

    async fn write(&self, key: &str, record: AttemptRecord) -> anyhow::Result<()> {
        let record = AttemptRecord { version: record.version + 1, ..record };
        let value = serde_json::to_vec(&record)?.into();
        let put = Put { key: key.to_owned(), version: record.version, value, ttl: None };
        match self.kv.put(&[put], WhenAbsent::Write).await.pop() {
            Some(PutResult::UpToDate) => Ok(()),
            other => anyhow::bail!("attempts: {other:?}"),
        }
    }
}

/// Returns the key of a stored message; requests have none.
fn key(cx: &Context, delivery: &Delivery) -> Option<String> {
    match &delivery.origin {
        Origin::Stored { stream, sequence, .. } => {
            Some(key::attempts(cx.worker, stream, *sequence))
        }
        Origin::Request => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use brigade_contracts::WorkerName;

    use super::*;
    use crate::{
        runtime::consume::queues::tests::delivery,
        testing::{SUPERUSER, TestServers, until},
    };

    #[tokio::test]
    async fn only_a_try_that_failed_counts_though_nats_ends_in_each() -> Result<()> {
        let mut servers = TestServers::start().await?;
        let cx = servers.context_as(WorkerName::OutboxRelay, SUPERUSER).await?;
        let (attempts, delivery) = (Attempts::open(&cx).await?, delivery(0, 3));
        let begun = || {
            until("an attempt on record", || async { attempts.begin(&cx, &delivery).await.ok() })
        };
        for _ in 0..=MAX_TRIES {
            assert_eq!(begun().await, 1);
            servers.nats.stop().await;
            attempts.revoke(&cx, &delivery).await;
            servers.nats.restart().await?;
            assert_eq!(begun().await, 1);
            // It was done; its acknowledgement is lost.
            attempts.discount(&cx, &delivery);
        }
        for failed in 1..=MAX_TRIES + 1 {
            assert_eq!(begun().await, failed);
        }
        Ok(())
    }
}
