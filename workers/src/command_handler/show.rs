//! Shows aggregates: writes `versions` and the parts that command-handler owns, at their newest
//! versions, so that a newer show speaks for all older ones.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::{
    Address, Part,
    cart::Status,
    key::{self, Bucket, ENDED_TTL, Versions},
};
use bytes::Bytes;
use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use super::carts;
use crate::{
    domain::Cart,
    runtime::{Context, Metrics},
    store::{Kv, Put, Stored, WhenAbsent},
};

/// Answers do not wait longer for a bucket.
const PATIENCE: Duration = Duration::from_secs(1);
/// A bucket that did not take a write is tried again this often.
const PROBE: Duration = Duration::from_millis(200);

/// The buckets that command-handler writes.
pub struct Show {
    versions: Patient,
    views: Patient,
    postgres: PgPool,
    metrics: Arc<Metrics>,
}

impl Show {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(cx: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            versions: Patient::new(Kv::open(&cx.nats, Bucket::Versions).await?),
            views: Patient::new(Kv::open(&cx.nats, Bucket::Views).await?),
            postgres: cx.postgres.clone(),
            metrics: cx.metrics.clone(),
        })
    }

    /// Shows carts, all keys at once. Returns those of which everything stands in KV now, with
    /// their versions; the others stay noted.
    pub async fn show(&self, carts: &[Cart]) -> Vec<(Address, u64)> {
        let (shown, absent) = self.write(carts, WhenAbsent::Ask).await;
        if absent.is_empty() {
            return shown;
        }
        // Nothing stands at keys that must have had a value. What SQL has now is the newest.
        let again = match carts::read(&self.postgres, absent.iter()).await {
            Ok(carts) => self.write(&carts, WhenAbsent::Write).await.0,
            Err(error) => {
                tracing::warn!(%error, "cannot ask whether a lost key is still the newest");
                Vec::new()
            }
        };
        [shown, again].concat()
    }

    /// Looks at what is stored before the next write, instead of trusting what was written.
    pub fn forget(&self) {
        self.versions.kv.forget();
        self.views.kv.forget();
    }

    /// Returns the shown and the absent ones.
    async fn write(
        &self,
        carts: &[Cart],
        absent: WhenAbsent,
    ) -> (Vec<(Address, u64)>, Vec<Address>) {
        let versions: Vec<Put> = carts.iter().map(versions).collect();
        let cores: Vec<Put> = carts.iter().map(core).collect();
        let (versions, cores) =
            tokio::join!(self.versions.put(&versions, absent), self.views.put(&cores, absent));
        let mut shown = Vec::new();
        let mut lost = Vec::new();
        for ((cart, version), core) in carts.iter().zip(versions).zip(cores) {
            if core == Stored::Shown {
                self.metrics.visible(Part::Core, cart.head.part(Part::Core).1);
            }
            match (version, core) {
                (Stored::Shown, Stored::Shown) => {
                    shown.push((cart.head.address.clone(), cart.head.version));
                }
                (Stored::Absent, _) | (_, Stored::Absent) => lost.push(cart.head.address.clone()),
                _ => {}
            }
        }
        (shown, lost)
    }
}

fn versions(cart: &Cart) -> Put {
    let head = &cart.head;
    let value = Versions { version: head.version, parts: head.part_versions(), at: head.at };
    Put {
        key: key::versions(&head.address),
        version: head.version,
        value: serde_json::to_vec(&value).unwrap_or_default().into(),
        ttl: ttl(cart),
    }
}

fn core(cart: &Cart) -> Put {
    Put {
        key: key::view(&cart.head.address, Part::Core),
        version: cart.head.part(Part::Core).0,
        value: Bytes::from(String::from(Box::<str>::from(cart.part(Part::Core)))),
        ttl: ttl(cart),
    }
}

fn ttl(cart: &Cart) -> Option<Duration> {
    (cart.status != Status::Open).then_some(ENDED_TTL)
}

/// A bucket that answers do not wait for for ever: after [`PATIENCE`] it is skipped, until a write
/// every [`PROBE`] succeeds.
struct Patient {
    kv: Kv,
    skipped_until: Mutex<Option<Instant>>,
}

impl Patient {
    fn new(kv: Kv) -> Self {
        Self { kv, skipped_until: Mutex::new(None) }
    }

    async fn put(&self, puts: &[Put], absent: WhenAbsent) -> Vec<Stored> {
        let Some(patience) = self.patience() else {
            return vec![Stored::Failed("skipped".to_owned()); puts.len()];
        };
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stored = timeout(left, self.kv.put(puts, absent)).await;
            let failed = match &stored {
                Ok(stored) => stored.iter().find_map(|stored| match stored {
                    Stored::Failed(why) => Some(why.as_str()),
                    Stored::Shown | Stored::Absent => None,
                }),
                Err(_) => Some("no acknowledgement"),
            };
            match failed {
                None => self.set_skipped(None, ""),
                Some(why) if Instant::now() >= until => {
                    self.set_skipped(Some(Instant::now() + PROBE), why);
                }
                Some(_) => {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
            return stored.unwrap_or_else(|_| vec![Stored::Failed("late".to_owned()); puts.len()]);
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
