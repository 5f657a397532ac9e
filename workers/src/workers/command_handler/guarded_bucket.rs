//! A bucket behind a [`CircuitBreaker`]: answers do not wait for it for ever.

use std::{
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::{Era, key::Bucket};
use tokio::time::{sleep, timeout};

use super::circuit_breaker::{Circuit, CircuitBreaker, PROBE_INTERVAL};
use crate::infra::{Kv, Nats, Put, PutResult, WhenAbsent};

/// Longest time that answers wait for a bucket.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time that answers wait for a probe.
const PROBE_TIMEOUT: Duration = PROBE_INTERVAL;
/// Pause before a failed write is made once more.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A bucket that is not written to while its circuit is open.
pub struct GuardedBucket {
    kv: Kv,
    breaker: Mutex<CircuitBreaker>,
}

impl GuardedBucket {
    /// Opens the bucket.
    ///
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(nats: &Nats, era: Era, bucket: Bucket) -> anyhow::Result<Self> {
        Ok(Self { kv: Kv::open(nats, era, bucket).await?, breaker: Mutex::default() })
    }

    /// Forgets the remembered versions of these keys, so that the next write reads what is stored.
    pub fn forget(&self, puts: &[Put]) {
        for put in puts {
            self.kv.forget_key(&put.key);
        }
    }

    /// Writes as [`Kv::put`] does. Everything fails while the circuit is open.
    pub async fn put(&self, puts: &[Put], absent: WhenAbsent) -> Vec<PutResult> {
        if puts.is_empty() {
            return Vec::new();
        }
        let circuit = self.breaker().begin(Instant::now());
        match circuit {
            Circuit::Closed => self.put_within(WRITE_TIMEOUT, puts, absent).await,
            Circuit::Open => refused(puts.len()),
            Circuit::HalfOpen => self.probe(puts, absent).await,
        }
    }

    /// Writes the keys one by one until the circuit is closed or the probe's time is over, then the
    /// rest as usual. One write shows whether the bucket takes any, while a batch may need longer
    /// than a probe is given, and would never be taken. A key that needs no write shows nothing:
    /// the next one is tried.
    async fn probe(&self, puts: &[Put], absent: WhenAbsent) -> Vec<PutResult> {
        let until = Instant::now() + PROBE_TIMEOUT;
        let mut stored = Vec::new();
        for put in puts {
            let left = until.saturating_duration_since(Instant::now());
            stored.extend(self.put_within(left, slice::from_ref(put), absent).await);
            if !self.is_open() || Instant::now() >= until {
                break;
            }
        }
        let rest = &puts[stored.len()..];
        stored.extend(if self.is_open() {
            refused(rest.len())
        } else {
            self.put_within(WRITE_TIMEOUT, rest, absent).await
        });
        stored
    }

    /// Writes until nothing fails or the time is over, and tells the circuit breaker.
    async fn put_within(
        &self,
        limit: Duration,
        puts: &[Put],
        absent: WhenAbsent,
    ) -> Vec<PutResult> {
        let until = Instant::now() + limit;
        let before = self.kv.acknowledged();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stored = timeout(left, self.kv.put(puts, absent)).await;
            let failure = match &stored {
                Ok(stored) => stored.iter().find_map(|stored| match stored {
                    PutResult::Failed(why) => Some(why.as_str()),
                    PutResult::UpToDate | PutResult::Absent => None,
                }),
                Err(_) => Some("no acknowledgement"),
            };
            match failure {
                // A remembered version, or a read, says nothing about writes.
                None if self.kv.acknowledged() == before => {}
                None => self.succeeded(),
                Some(why) if Instant::now() >= until => self.failed(why),
                Some(_) => {
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            return stored
                .unwrap_or_else(|_| vec![PutResult::Failed("late".to_owned()); puts.len()]);
        }
    }

    fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    fn succeeded(&self) {
        if self.breaker().succeeded() {
            tracing::info!(bucket = self.kv.bucket().as_str(), "the bucket takes writes again");
        }
    }

    fn failed(&self, why: &str) {
        if self.breaker().failed(Instant::now()) {
            let bucket = self.kv.bucket().as_str();
            tracing::warn!(bucket, why, "the bucket takes no writes; answers do not wait for it");
        }
    }
}

/// Returns the results of writes that were not made.
fn refused(puts: usize) -> Vec<PutResult> {
    vec![PutResult::Failed("the circuit is open".to_owned()); puts]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_nats::jetstream;
    use brigade_contracts::WorkerName;

    use super::*;
    use crate::{
        infra::{Health, Metrics},
        operations::provision,
        testing::nats_server,
    };

    fn put(key: &str) -> Put {
        Put { key: key.to_owned(), version: 1, value: r#"{"version":1}"#.into(), ttl: None }
    }

    /// Returns the first result of a circuit that is not open.
    async fn put_when_probed(bucket: &GuardedBucket, puts: &[Put]) -> Vec<PutResult> {
        let put = async {
            loop {
                let stored = bucket.put(puts, WhenAbsent::Ask).await;
                if stored != refused(puts.len()) {
                    return stored;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), put).await.expect("a probe")
    }

    #[tokio::test]
    async fn only_an_acknowledged_write_closes_the_circuit() -> anyhow::Result<()> {
        let (server, _dir) = nats_server("").await?;
        let url = format!("nats://test:test@127.0.0.1:{}", server.port());
        provision::run(&url, 1).await?;
        let health = Health::new(WorkerName::CommandHandler);
        let nats = Nats::connect(&url, &health, &Arc::new(Metrics::new())).await?;
        let bucket = GuardedBucket::open(&nats, Era::FIRST, Bucket::Views).await?;
        assert_eq!(bucket.put(&[put("a")], WhenAbsent::Ask).await, [PutResult::UpToDate]);

        // It can be read, and takes no write.
        let stream = nats.jetstream.get_stream(Bucket::Views.stream()).await?;
        let declared = stream.cached_info().config.clone();
        let full = jetstream::stream::Config { max_bytes: 1, ..declared.clone() };
        nats.jetstream.update_stream(full).await?;
        let failed = bucket.put(&[put("b")], WhenAbsent::Ask).await;
        assert!(matches!(failed[..], [PutResult::Failed(_)]), "{failed:?}");
        let known = put_when_probed(&bucket, &[put("a")]).await;
        assert_eq!((known, bucket.is_open()), (vec![PutResult::UpToDate], true));
        let absent = Put { version: 2, ..put("c") };
        let absent = put_when_probed(&bucket, &[absent]).await;
        assert_eq!((absent, bucket.is_open()), (vec![PutResult::Absent], true));

        // What needs no write keeps no other one from being the probe.
        nats.jetstream.update_stream(declared).await?;
        let both = put_when_probed(&bucket, &[put("a"), put("b"), put("c")]).await;
        assert_eq!((both, bucket.is_open()), (vec![PutResult::UpToDate; 3], false));
        Ok(())
    }
}
