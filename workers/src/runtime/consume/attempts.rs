use brigade_contracts::key::{self, Bucket};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::{
    runtime::{Context, Delivery, delivery::Origin},
    store::{Kv, Put, Stored, WhenAbsent},
};

/// Tries alone after which a message that keeps failing is dead.
pub(super) const MAX_TRIES: u32 = 5;

/// Counts the tries of messages that are handled alone, noted before each begins, so that a message
/// that kills its process is counted too. Other deliveries do not count: whoever shared a batch with
/// such a message did nothing wrong.
pub(super) struct Attempts {
    kv: Kv,
    /// Tries that are noted, or perhaps noted, although this process outlived them without a fault of
    /// the message, by the note's key: a server that dies takes acknowledgements along, and is not
    /// there to have a try taken back. They are taken off when the next try is noted.
    outlived: Cache<String, u32>,
}

/// Most messages whose tries are remembered as outlived.
const REMEMBERED: u64 = 10_000;

#[derive(Serialize, Deserialize)]
struct Note {
    /// Of the note, so that a write is compare-and-set like any other.
    version: u64,
    tries: u32,
    /// When the message was stored, in nanoseconds: a stream that is made again counts from 1 again.
    stored_at: i128,
}

impl Attempts {
    pub(super) async fn open(cx: &Context) -> anyhow::Result<Self> {
        let kv = Kv::open(&cx.nats, Bucket::Attempts).await?;
        Ok(Self { kv, outlived: Cache::new(REMEMBERED) })
    }

    /// Notes that a try begins. Returns its number, from 1; above [`MAX_TRIES`] it may not begin.
    ///
    /// # Errors
    /// Where the note cannot be written: then nothing may begin either.
    pub(super) async fn begin(&self, cx: &Context, delivery: &Delivery) -> anyhow::Result<u32> {
        let key = Self::key(cx, delivery);
        let outlived = key.as_ref().and_then(|key| self.outlived.remove(key)).unwrap_or(0);
        let begun = self.add(cx, delivery, |tries| tries.saturating_sub(outlived) + 1).await;
        if let (Err(_), Some(key)) = (&begun, key) {
            // It may be noted all the same.
            self.outlived.insert(key, outlived + 1);
        }
        begun
    }

    /// Whatever comes of the acknowledgement: the try did not fail.
    pub(super) fn outlive(&self, cx: &Context, delivery: &Delivery) {
        if let Some(key) = Self::key(cx, delivery) {
            let outlived = self.outlived.get(&key).unwrap_or(0);
            self.outlived.insert(key, outlived + 1);
        }
    }

    /// Takes a try back that ended because a dependency was away.
    pub(super) async fn take_back(&self, cx: &Context, delivery: &Delivery) {
        if let Err(error) = self.add(cx, delivery, |tries| tries.saturating_sub(1)).await {
            tracing::debug!(worker = %cx.worker, %error, "a try is taken back later");
            self.outlive(cx, delivery);
        }
    }

    fn key(cx: &Context, delivery: &Delivery) -> Option<String> {
        match &delivery.origin {
            Origin::Stored { stream, sequence, .. } => {
                Some(key::attempts(cx.worker, stream, *sequence))
            }
            Origin::Request => None,
        }
    }

    async fn add(
        &self,
        cx: &Context,
        delivery: &Delivery,
        change: impl Fn(u32) -> u32,
    ) -> anyhow::Result<u32> {
        let Origin::Stored { stream, sequence, stored_at, .. } = &delivery.origin else {
            return Ok(1);
        };
        let key = key::attempts(cx.worker, stream, *sequence);
        let found = self.kv.get(&key).await?;
        let note = found.and_then(|entry| serde_json::from_slice::<Note>(&entry.value).ok());
        let version = note.as_ref().map_or(0, |note| note.version);
        let tries = note.filter(|note| note.stored_at == *stored_at).map_or(0, |note| note.tries);
        let note = Note { version: version + 1, tries: change(tries), stored_at: *stored_at };
        if note.tries > MAX_TRIES {
            return Ok(note.tries);
        }
        let value = serde_json::to_vec(&note)?.into();
        let put = Put { key, version: note.version, value, ttl: None };
        match self.kv.put(&[put], WhenAbsent::Write).await.pop() {
            Some(Stored::Shown) => Ok(note.tries),
            other => anyhow::bail!("attempts: {other:?}"),
        }
    }
}
