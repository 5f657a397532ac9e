//! A bucket that answers do not wait for for ever.

use std::{
    slice,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::key::Bucket;
use tokio::time::{sleep, timeout};

use crate::infra::{Kv, Nats, Put, PutResult, WhenAbsent};

/// Answers do not wait longer for a bucket.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// A bucket that did not take a write is tried again this often.
const PROBE: Duration = Duration::from_millis(200);

/// After [`PATIENCE`] the bucket is skipped, until a write every [`PROBE`] succeeds.
pub struct Patient {
    kv: Kv,
    skipped_until: Mutex<Option<Instant>>,
}

impl Patient {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(nats: &Nats, bucket: Bucket) -> anyhow::Result<Self> {
        Ok(Self { kv: Kv::open(nats, bucket).await?, skipped_until: Mutex::new(None) })
    }

    /// Looks at what is stored before these keys are written next.
    pub fn forget(&self, puts: &[Put]) {
        for put in puts {
            self.kv.forget_key(&put.key);
        }
    }

    /// Writes as [`Kv::put`] does. What is skipped has failed.
    pub async fn put(&self, puts: &[Put], absent: WhenAbsent) -> Vec<PutResult> {
        match self.patience() {
            _ if puts.is_empty() => Vec::new(),
            None => skipped(puts.len()),
            Some(PROBE) => self.probe(puts, absent).await,
            Some(patience) => self.put_within(patience, puts, absent).await,
        }
    }

    /// One write tells whether the bucket takes any. A batch may need longer than a probe is
    /// given, and would never be taken. What needs no write tells nothing: the next one is tried.
    async fn probe(&self, puts: &[Put], absent: WhenAbsent) -> Vec<PutResult> {
        let until = Instant::now() + PROBE;
        let mut stored = Vec::new();
        for put in puts {
            let left = until.saturating_duration_since(Instant::now());
            stored.extend(self.put_within(left, slice::from_ref(put), absent).await);
            if !self.is_skipped() || Instant::now() >= until {
                break;
            }
        }
        let rest = &puts[stored.len()..];
        stored.extend(if self.is_skipped() {
            skipped(rest.len())
        } else {
            self.put_within(PATIENCE, rest, absent).await
        });
        stored
    }

    async fn put_within(
        &self,
        patience: Duration,
        puts: &[Put],
        absent: WhenAbsent,
    ) -> Vec<PutResult> {
        let until = Instant::now() + patience;
        let before = self.kv.acknowledged();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stored = timeout(left, self.kv.put(puts, absent)).await;
            let failed = match &stored {
                Ok(stored) => stored.iter().find_map(|stored| match stored {
                    PutResult::Failed(why) => Some(why.as_str()),
                    PutResult::UpToDate | PutResult::Absent => None,
                }),
                Err(_) => Some("no acknowledgement"),
            };
            match failed {
                // What was remembered or only read says nothing about writes.
                None if self.kv.acknowledged() == before => {}
                None => self.set_skipped(None, ""),
                Some(why) if Instant::now() >= until => {
                    self.set_skipped(Some(Instant::now() + PROBE), why);
                }
                Some(_) => {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
            return stored
                .unwrap_or_else(|_| vec![PutResult::Failed("late".to_owned()); puts.len()]);
        }
    }

    /// How long this write may take; `None`: it is skipped.
    fn patience(&self) -> Option<Duration> {
        let mut skipped = self.skipped_until.lock().unwrap_or_else(PoisonError::into_inner);
        match *skipped {
            None => Some(PATIENCE),
            Some(until) if until > Instant::now() => None,
            Some(_) => {
                *skipped = Some(Instant::now() + PROBE);
                Some(PROBE)
            }
        }
    }

    /// Whether no write has succeeded since one did not.
    fn is_skipped(&self) -> bool {
        self.skipped_until.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set_skipped(&self, until: Option<Instant>, why: &str) {
        let mut skipped = self.skipped_until.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = self.kv.bucket().as_str();
        match (skipped.is_some(), until.is_some()) {
            (false, true) => tracing::warn!(bucket, why, "takes no writes; answers go on"),
            (true, false) => tracing::info!(bucket, "takes writes again"),
            _ => {}
        }
        *skipped = until;
    }
}

fn skipped(puts: usize) -> Vec<PutResult> {
    vec![PutResult::Failed("skipped".to_owned()); puts]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_nats::jetstream;
    use brigade_contracts::WorkerName;
    use brigade_servers::{Binaries, NatsServer, config::StackConfig};

    use super::*;
    use crate::{
        infra::{Health, Metrics},
        operations::provision,
    };

    fn put(key: &str) -> Put {
        Put { key: key.to_owned(), version: 1, value: r#"{"version":1}"#.into(), ttl: None }
    }

    /// The first result that is not that of a bucket that is skipped just now.
    async fn put_when_probed(bucket: &Patient, puts: &[Put]) -> Vec<PutResult> {
        let put = async {
            loop {
                let stored = bucket.put(puts, WhenAbsent::Ask).await;
                if stored != skipped(puts.len()) {
                    return stored;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), put).await.expect("a probe")
    }

    #[tokio::test]
    async fn only_a_write_that_is_acknowledged_ends_the_skipping() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = NatsServer::start(&binaries.nats_server, dir.path(), 0, "").await?;
        let url = format!("nats://test:test@127.0.0.1:{}", server.port());
        provision::run(&url, 1).await?;
        let health = Health::new(WorkerName::CommandHandler);
        let nats = Nats::connect(&url, &health, &Arc::new(Metrics::new())).await?;
        let bucket = Patient::open(&nats, Bucket::Views).await?;
        assert_eq!(bucket.put(&[put("a")], WhenAbsent::Ask).await, [PutResult::UpToDate]);

        // It can be read, and takes no write.
        let stream = nats.jetstream.get_stream(Bucket::Views.stream()).await?;
        let declared = stream.cached_info().config.clone();
        let full = jetstream::stream::Config { max_bytes: 1, ..declared.clone() };
        nats.jetstream.update_stream(full).await?;
        let refused = bucket.put(&[put("b")], WhenAbsent::Ask).await;
        assert!(matches!(refused[..], [PutResult::Failed(_)]), "{refused:?}");
        let known = put_when_probed(&bucket, &[put("a")]).await;
        assert_eq!((known, bucket.is_skipped()), (vec![PutResult::UpToDate], true));
        let absent = Put { version: 2, ..put("c") };
        let absent = put_when_probed(&bucket, &[absent]).await;
        assert_eq!((absent, bucket.is_skipped()), (vec![PutResult::Absent], true));

        // What needs no write keeps no other one from being the probe.
        nats.jetstream.update_stream(declared).await?;
        let both = put_when_probed(&bucket, &[put("a"), put("b"), put("c")]).await;
        assert_eq!((both, bucket.is_skipped()), (vec![PutResult::UpToDate; 3], false));
        Ok(())
    }
}
