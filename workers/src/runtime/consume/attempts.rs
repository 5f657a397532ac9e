use brigade_contracts::key::{self, Bucket};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::{
    infra::{Context, Kv, Put, PutResult, WhenAbsent},
    runtime::{Delivery, delivery::Origin},
};

/// Tries alone after which a message that keeps failing is dead.
pub(super) const MAX_TRIES: u32 = 5;

/// Counts the tries of messages that are handled alone, noted before each begins, so that a message
/// that kills its process is counted too. Other deliveries do not count: whoever shared a batch
/// with such a message did nothing wrong.
pub(super) struct Attempts {
    kv: Kv,
    /// Tries that are noted, or perhaps noted, although this process outlived them without a fault
    /// of the message, by the note's key: a server that dies takes acknowledgements along, and is
    /// not there to have a try taken back. They are taken off when the next try is noted.
    outlived: Cache<String, u32>,
}

/// Most messages whose tries are remembered as outlived.
const REMEMBERED: u64 = 10_000;

#[derive(Serialize, Deserialize)]
struct Note {
    /// Of the note, so that a write is compare-and-set like any other.
    version: u64,
    tries: u32,
    /// When the message was stored, in nanoseconds: a stream that is made again counts from 1
    /// again.
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
        let Some(key) = key(cx, delivery) else { return Ok(1) };
        let note = self.read(&key, delivery).await?;
        let outlived = self.outlived.remove(&key).unwrap_or(0);
        let number = note.tries.saturating_sub(outlived) + 1;
        if number > MAX_TRIES {
            return Ok(number);
        }
        let noted = self.write(&key, Note { tries: number, ..note }).await;
        if noted.is_err() {
            // It may stand there all the same.
            self.outlived.insert(key, outlived + 1);
        }
        noted.map(|()| number)
    }

    /// Whatever comes of the acknowledgement: the try did not fail.
    pub(super) fn outlive(&self, cx: &Context, delivery: &Delivery) {
        if let Some(key) = key(cx, delivery) {
            let outlived = self.outlived.get(&key).unwrap_or(0);
            self.outlived.insert(key, outlived + 1);
        }
    }

    /// Takes a try back that ended because a dependency was away.
    pub(super) async fn take_back(&self, cx: &Context, delivery: &Delivery) {
        let Some(key) = key(cx, delivery) else { return };
        let taken_back = async {
            let note = self.read(&key, delivery).await?;
            self.write(&key, Note { tries: note.tries.saturating_sub(1), ..note }).await
        };
        if let Err(error) = taken_back.await {
            tracing::debug!(worker = %cx.worker, %error, "a try is taken back later");
            self.outlive(cx, delivery);
        }
    }

    async fn read(&self, key: &str, delivery: &Delivery) -> anyhow::Result<Note> {
        let stored_at = match &delivery.origin {
            Origin::Stored { stored_at, .. } => *stored_at,
            Origin::Request => 0,
        };
        let found = self.kv.get(key).await?;
        let note = found.and_then(|entry| serde_json::from_slice::<Note>(&entry.value).ok());
        let version = note.as_ref().map_or(0, |note| note.version);
        let tries = note.filter(|note| note.stored_at == stored_at).map_or(0, |note| note.tries);
        Ok(Note { version, tries, stored_at })
    }

    async fn write(&self, key: &str, note: Note) -> anyhow::Result<()> {
        let note = Note { version: note.version + 1, ..note };
        let value = serde_json::to_vec(&note)?.into();
        let put = Put { key: key.to_owned(), version: note.version, value, ttl: None };
        match self.kv.put(&[put], WhenAbsent::Write).await.pop() {
            Some(PutResult::UpToDate) => Ok(()),
            other => anyhow::bail!("attempts: {other:?}"),
        }
    }
}

/// Requests have none.
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
    use std::cell::Cell;

    use anyhow::Result;

    use super::*;
    use crate::{
        infra::{Nats, intake::Message},
        workers::outbox_relay::tests::servers::{TestServers, eventually},
    };

    fn delivery() -> Delivery {
        let message = Message::new("s".into(), None, None, bytes::Bytes::new());
        let origin =
            Origin::Stored { stream: "S".into(), sequence: 1, deliveries: 3, stored_at: 7 };
        Delivery { origin, ..Delivery::request(message, 0) }
    }

    #[tokio::test]
    async fn only_a_try_that_failed_counts_though_nats_ends_in_each() -> Result<()> {
        let mut stand = TestServers::start().await?;
        let mut cx = stand.context().await?;
        let url = format!("nats://test:test@127.0.0.1:{}", stand.nats.port());
        cx.nats = Nats::connect(&url, &cx.health, &cx.metrics).await?;
        let (attempts, delivery) = (Attempts::open(&cx).await?, delivery());
        let begun = async || {
            let number = Cell::new(0);
            eventually("a noted try", async || {
                number.set(attempts.begin(&cx, &delivery).await?);
                Ok(true)
            })
            .await?;
            anyhow::Ok(number.get())
        };
        for _ in 0..=MAX_TRIES {
            assert_eq!(begun().await?, 1);
            stand.nats.stop().await;
            attempts.take_back(&cx, &delivery).await;
            stand.nats.restart().await?;
            assert_eq!(begun().await?, 1);
            // It was done; its acknowledgement is lost.
            attempts.outlive(&cx, &delivery);
        }
        for failed in 1..=MAX_TRIES + 1 {
            assert_eq!(begun().await?, failed);
        }
        Ok(())
    }
}
