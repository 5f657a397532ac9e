//! The common part of the projectors: each projects some parts of aggregates into KV, from the
//! events (stream `EVENTS`) that carry these parts whole. So only the newest of a batch is written
//! per key, duplicates and reordering change nothing, and no SQL is read.
//!
//! Guarantees: at quiescence the parts equal SQL; their versions never go down. Not responsible for
//! the other parts and `versions` (command-handler) nor for lost buckets (cache-verifier).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use brigade_contracts::{
    Address, Era, Part, Timestamp,
    event::After,
    header,
    key::{self, Bucket, Versions},
    subject,
};
use bytes::Bytes;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    infra::{Context, Kv, Put, PutResult, WhenAbsent, metrics::VisibilityMetrics},
    runtime::{BatchPermit, Delivery, Handler, Source, Verdict, consume::consume},
};

/// The definition of a projector.
#[derive(Clone, Copy)]
pub struct Projection {
    /// The buckets that it writes.
    pub buckets: &'static [Bucket],
    /// Returns the keys that an event projects; none of an event without any of its parts.
    pub decode: fn(&Address, After) -> Result<Vec<ProjectedKey>, String>,
    /// The fail points at which a test stops it.
    pub before_projection: &'static str,
    pub after_projection: &'static str,
}

/// One key with the value that an event projects.
pub struct ProjectedKey {
    pub address: Address,
    pub part: Part,
    pub at: Timestamp,
    pub bucket: Bucket,
    pub put: Put,
}

/// An event as the keys that it projects.
pub struct ProjectionEvent {
    keys: Vec<ProjectedKey>,
    /// True if repair published this event again: the remembered versions of its keys may be wrong.
    again: bool,
    /// When it was received to be handled alone; before that it is redelivered by itself.
    alone_since: Option<Instant>,
    /// It is of a later era than this worker, which is about to be started again.
    is_ahead: bool,
}

/// The longest time that an event waits, without using up its tries, for `versions` to be healed.
/// Healing takes seconds, and starts over if a server dies meanwhile. Without a limit an event that
/// nobody committed would wait for ever.
const HEALING: Duration = Duration::from_secs(30);

struct Projector {
    cx: Context,
    projection: Projection,
    buckets: Vec<Kv>,
    versions: Kv,
    visibility: Arc<VisibilityMetrics>,
}

/// Runs a projector until the drain.
///
/// # Errors
/// If the stream `EVENTS` cannot be consumed.
pub async fn run(cx: Context, projection: Projection) -> anyhow::Result<()> {
    let mut buckets = Vec::new();
    for bucket in projection.buckets {
        buckets.push(Kv::open(&cx.nats, cx.era, *bucket).await?);
    }
    let versions = Kv::open(&cx.nats, cx.era, Bucket::Versions).await?;
    let visibility = cx.metrics.group();
    let projector = Projector { cx: cx.clone(), projection, buckets, versions, visibility };
    consume(&cx, cx.health.duty("messages"), &[Source::Stream("EVENTS")], projector).await
}

impl Handler for Projector {
    type Message = ProjectionEvent;

    fn decode(&self, delivery: &Delivery) -> Result<ProjectionEvent, String> {
        let (address, _) =
            subject::parse_event(delivery.subject(), delivery.header(header::CE_SUBJECT))
                .ok_or("not an event's subject and ce-subject")?;
        let payload: brigade_contracts::event::Payload =
            serde_json::from_slice(delivery.payload()).map_err(|error| error.to_string())?;
        let era = match delivery.header(header::ERA) {
            None => Era::FIRST,
            Some(era) => Era::new(era.parse().map_err(|_| "not an era")?),
        };
        let again = delivery.header(header::MSG_ID) != delivery.header(header::CE_ID);
        let alone_since = delivery.is_alone().then_some(delivery.received);
        let keys = (self.projection.decode)(&address, payload.after)?;
        // What was published in an earlier era may have been lost. What was not is published again
        // by healing.
        let keys = if era == self.cx.era { keys } else { Vec::new() };
        Ok(ProjectionEvent { keys, again, alone_since, is_ahead: era > self.cx.era })
    }

    async fn handle(&self, batch: Vec<ProjectionEvent>, _permit: BatchPermit) -> Vec<Verdict> {
        self.cx.fail.point(self.projection.before_projection).await;
        let all = || batch.iter().flat_map(|message| &message.keys);
        let again = batch.iter().filter(|message| message.again);
        for key in again.flat_map(|message| &message.keys) {
            self.bucket(key.bucket).forget_key(&key.put.key);
        }
        let newest: Vec<&ProjectedKey> = newest(all()).into_values().collect();
        let buckets = self.buckets.iter().map(|bucket| self.project(bucket, &newest));
        let verdicts: HashMap<_, _> = join_all(buckets).await.into_iter().flatten().collect();
        for key in &newest {
            // A part that stands at two keys counts once.
            if key.bucket == self.projection.buckets[0]
                && verdicts.get(&bucket_key(key)) == Some(&Verdict::Done)
            {
                self.visibility.observe(key.part, key.at);
            }
        }
        self.cx.fail.point(self.projection.after_projection).await;
        // An older event of the batch is done when the newest of its keys are.
        let verdict_of = |message: &ProjectionEvent| {
            if message.is_ahead {
                return Verdict::Away("the database is in a later era".to_owned());
            }
            let mut verdicts = message.keys.iter().filter_map(|key| verdicts.get(&bucket_key(key)));
            match verdicts.find(|verdict| **verdict != Verdict::Done) {
                Some(Verdict::Retry(why)) if message.waits() => Verdict::Away(why.clone()),
                worst => worst.cloned().unwrap_or(Verdict::Done),
            }
        };
        batch.iter().map(verdict_of).collect()
    }
}

impl ProjectionEvent {
    /// Returns true while lost keys may still be healed: a dependency is unavailable, the event has
    /// not failed.
    fn waits(&self) -> bool {
        self.alone_since.is_some_and(|since| since.elapsed() < HEALING)
    }
}

/// A bucket and one of its keys.
type BucketKey<'a> = (Bucket, &'a str);

fn bucket_key(key: &ProjectedKey) -> BucketKey<'_> {
    (key.bucket, &key.put.key)
}

impl Projector {
    fn bucket(&self, bucket: Bucket) -> &Kv {
        let own = self.buckets.iter().find(|own| own.bucket() == bucket);
        own.expect("a projection names the buckets that it writes")
    }

    /// Writes the keys of one bucket, and returns their verdicts.
    async fn project<'a>(
        &self,
        bucket: &Kv,
        what: &[&'a ProjectedKey],
    ) -> Vec<(BucketKey<'a>, Verdict)> {
        let of_bucket = what.iter().filter(|key| key.bucket == bucket.bucket());
        let what: Vec<&'a ProjectedKey> = of_bucket.copied().collect();
        let puts: Vec<Put> = what.iter().map(|key| key.put.clone()).collect();
        let stored = bucket.put(&puts, WhenAbsent::Ask).await;
        // A bucket that was lost is absent at every key: the versions of all are read at once.
        let verdicts = what.into_iter().zip(stored).map(|(key, stored)| async move {
            let verdict = match stored {
                PutResult::UpToDate => Verdict::Done,
                PutResult::Failed(why) => Verdict::Away(why),
                PutResult::Absent => self.project_absent(bucket, key).await,
            };
            (bucket_key(key), verdict)
        });
        join_all(verdicts).await
    }

    /// Writes a key without a value, which it must have had: it was not written yet, it expired, or
    /// it was lost. Only `versions` tells whether this event is still the newest.
    async fn project_absent(&self, bucket: &Kv, projected: &ProjectedKey) -> Verdict {
        let key = key::versions(&projected.address);
        let newest = match self.versions.get(&key).await {
            Ok(Some(entry)) => serde_json::from_slice::<Versions>(&entry.value).ok(),
            Ok(None) => return Verdict::Retry(format!("no version of {key} yet")),
            Err(error) => return Verdict::Away(format!("{error:#}")),
        };
        let newest = newest.and_then(|versions| versions.parts.get(&projected.part).copied());
        if newest.is_some_and(|newest| newest > projected.put.version) {
            return Verdict::Done;
        }
        match bucket.put(std::slice::from_ref(&projected.put), WhenAbsent::Write).await.pop() {
            Some(PutResult::UpToDate) => Verdict::Done,
            Some(PutResult::Failed(why)) => Verdict::Away(why),
            Some(PutResult::Absent) | None => Verdict::Retry("the key is contended".to_owned()),
        }
    }
}

/// The version of a part and the time of its change, as they stand in the part itself.
#[derive(Deserialize)]
struct PartHead {
    version: u64,
    at: Timestamp,
}

impl ProjectedKey {
    /// Returns a key whose `value` is made of `part`.
    ///
    /// # Errors
    /// If the part has no version and time.
    pub fn new(
        address: &Address,
        kind: Part,
        part: &RawValue,
        (bucket, key): (Bucket, String),
        value: Box<RawValue>,
        ttl: Option<Duration>,
    ) -> Result<Self, String> {
        let PartHead { version, at } =
            serde_json::from_str(part.get()).map_err(|error| error.to_string())?;
        let value = Bytes::from(String::from(Box::<str>::from(value)));
        let put = Put { key, version, value, ttl };
        Ok(Self { address: address.clone(), part: kind, at, bucket, put })
    }
}

/// Returns the newest value of each key. An end may carry a part that it did not touch, at an old
/// version: the later event wins then, because only it knows that the key may expire.
fn newest<'a>(
    all: impl Iterator<Item = &'a ProjectedKey>,
) -> HashMap<BucketKey<'a>, &'a ProjectedKey> {
    let mut newest: HashMap<BucketKey<'a>, &ProjectedKey> = HashMap::new();
    for key in all {
        let known = newest.entry(bucket_key(key)).or_insert(key);
        let (version, before) = (key.put.version, known.put.version);
        if version > before || key.put.ttl.is_some() && version == before {
            *known = key;
        }
    }
    newest
}
