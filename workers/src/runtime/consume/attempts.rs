use brigade_contracts::key::{self, Bucket};
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
}

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
        Ok(Self { kv: Kv::open(&cx.nats, Bucket::Attempts).await? })
    }

    /// Notes that a try begins. Returns its number, from 1; above [`MAX_TRIES`] it may not begin.
    ///
    /// # Errors
    /// Where the note cannot be written: then nothing may begin either.
    pub(super) async fn begin(&self, cx: &Context, delivery: &Delivery) -> anyhow::Result<u32> {
        self.add(cx, delivery, |tries| tries.saturating_add(1)).await
    }

    /// Takes a try back that ended because a dependency was away.
    pub(super) async fn take_back(&self, cx: &Context, delivery: &Delivery) {
        if let Err(error) = self.add(cx, delivery, |tries| tries.saturating_sub(1)).await {
            tracing::warn!(worker = %cx.worker, %error, "a try counts that should not");
        }
    }

    async fn add(
        &self,
        cx: &Context,
        delivery: &Delivery,
        change: fn(u32) -> u32,
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
