//! What the projectors have in common: each shows some parts of aggregates in KV, from the events
//! (stream `EVENTS`) that carry these parts whole. So only the newest of a batch is written per key,
//! duplicates and reordering change nothing, and no SQL is read.
//!
//! Guarantees: at quiescence the parts equal SQL; their versions never go down. Not responsible for
//! the other parts and `versions` (command-handler) nor for lost buckets (cache-verifier).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use brigade_contracts::{
    Address, Part, Timestamp,
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
    infra::{Context, Kv, Put, Stored, WhenAbsent},
    runtime::{
        Delivery, Handler, Source, Turn, Verdict,
        consume::{ALONE_FROM, consume},
    },
};

/// What a projector is.
#[derive(Clone, Copy)]
pub struct Projection {
    /// That it writes.
    pub buckets: &'static [Bucket],
    /// What an event shows; nothing of one that carries none of its parts.
    pub decode: fn(&Address, After) -> Result<Vec<Shown>, String>,
    /// Steps at which a test stops it.
    pub before_show: &'static str,
    pub after_show: &'static str,
}

/// One key that an event shows.
pub struct Shown {
    pub address: Address,
    pub part: Part,
    pub at: Timestamp,
    pub bucket: Bucket,
    pub put: Put,
}

/// The keys of an event.
pub struct Message {
    shown: Vec<Shown>,
    /// Repair asked for this event again: what is remembered of its keys may be untrue.
    again: bool,
    /// Since when it is in hand to be handled alone; before that it comes again by itself.
    alone_since: Option<Instant>,
}

/// How long an event waits, without using up its tries, for `versions` to be there again. Healing
/// takes seconds, and a server that dies meanwhile makes it begin anew. It has an end because an event
/// that nobody committed would wait for ever.
const HEALING: Duration = Duration::from_secs(30);

struct Projector {
    cx: Context,
    projection: Projection,
    buckets: Vec<Kv>,
    versions: Kv,
}

/// # Errors
/// Where its stream cannot be consumed.
pub async fn run(cx: Context, projection: Projection) -> anyhow::Result<()> {
    let mut buckets = Vec::new();
    for bucket in projection.buckets {
        buckets.push(Kv::open(&cx.nats, *bucket).await?);
    }
    let versions = Kv::open(&cx.nats, Bucket::Versions).await?;
    let projector = Projector { cx: cx.clone(), projection, buckets, versions };
    consume(&cx, cx.health.duty("messages"), &[Source::Stream("EVENTS")], projector).await
}

impl Handler for Projector {
    type Message = Message;

    fn decode(&self, delivery: &Delivery) -> Result<Message, String> {
        let (address, _) =
            subject::parse_event(delivery.subject(), delivery.header(header::CE_SUBJECT))
                .ok_or("not an event's subject and ce-subject")?;
        let payload: brigade_contracts::event::Payload =
            serde_json::from_slice(delivery.payload()).map_err(|error| error.to_string())?;
        let again = delivery.header(header::MSG_ID) != delivery.header(header::CE_ID);
        let alone_since = (delivery.deliveries() >= ALONE_FROM).then_some(delivery.received);
        Ok(Message {
            shown: (self.projection.decode)(&address, payload.after)?,
            again,
            alone_since,
        })
    }

    async fn handle(&self, batch: Vec<Message>, _turn: Turn) -> Vec<Verdict> {
        self.cx.fail.point(self.projection.before_show).await;
        let all = || batch.iter().flat_map(|message| &message.shown);
        let again = batch.iter().filter(|message| message.again);
        for shown in again.flat_map(|message| &message.shown) {
            self.bucket(shown.bucket).forget_key(&shown.put.key);
        }
        let newest: Vec<&Shown> = newest(all()).into_values().collect();
        let buckets = self.buckets.iter().map(|bucket| self.show(bucket, &newest));
        let verdicts: HashMap<_, _> = join_all(buckets).await.into_iter().flatten().collect();
        for shown in &newest {
            // Of a part that stands at two keys once.
            if shown.bucket == self.projection.buckets[0]
                && verdicts.get(&place(shown)) == Some(&Verdict::Done)
            {
                self.cx.metrics.visible(shown.part, shown.at);
            }
        }
        self.cx.fail.point(self.projection.after_show).await;
        // An older event of the batch is done when the newest of its keys are.
        let verdict_of = |message: &Message| {
            let mut verdicts = message.shown.iter().filter_map(|shown| verdicts.get(&place(shown)));
            match verdicts.find(|verdict| **verdict != Verdict::Done) {
                Some(Verdict::Retry(why)) if message.waits() => Verdict::Away(why.clone()),
                worst => worst.cloned().unwrap_or(Verdict::Done),
            }
        };
        batch.iter().map(verdict_of).collect()
    }
}

impl Message {
    /// Whether what is lost may be on its way back: a dependency is away, the event has not failed.
    fn waits(&self) -> bool {
        self.alone_since.is_some_and(|since| since.elapsed() < HEALING)
    }
}

/// Bucket and key.
type Place<'a> = (Bucket, &'a str);

fn place(shown: &Shown) -> Place<'_> {
    (shown.bucket, &shown.put.key)
}

impl Projector {
    fn bucket(&self, bucket: Bucket) -> &Kv {
        let own = self.buckets.iter().find(|own| own.bucket() == bucket);
        own.expect("a projection names the buckets that it writes")
    }

    /// Writes into one bucket.
    async fn show<'a>(&self, bucket: &Kv, what: &[&'a Shown]) -> Vec<(Place<'a>, Verdict)> {
        let of_bucket = what.iter().filter(|shown| shown.bucket == bucket.bucket());
        let what: Vec<&'a Shown> = of_bucket.copied().collect();
        let puts: Vec<Put> = what.iter().map(|shown| shown.put.clone()).collect();
        let stored = bucket.put(&puts, WhenAbsent::Ask).await;
        // A bucket that was lost is absent at every key: all of them are asked about at once.
        let verdicts = what.into_iter().zip(stored).map(|(shown, stored)| async move {
            let verdict = match stored {
                Stored::Shown => Verdict::Done,
                Stored::Failed(why) => Verdict::Away(why),
                Stored::Absent => self.show_absent(bucket, shown).await,
            };
            (place(shown), verdict)
        });
        join_all(verdicts).await
    }

    /// Nothing stands at a key that must have had a value: it was not written yet, it expired, or
    /// it was lost. Only `versions` tells whether this event is still the newest.
    async fn show_absent(&self, bucket: &Kv, shown: &Shown) -> Verdict {
        let key = key::versions(&shown.address);
        let newest = match self.versions.get(&key).await {
            Ok(Some(entry)) => serde_json::from_slice::<Versions>(&entry.value).ok(),
            Ok(None) => return Verdict::Retry(format!("no version of {key} yet")),
            Err(error) => return Verdict::Away(format!("{error:#}")),
        };
        let newest = newest.and_then(|versions| versions.parts.get(&shown.part).copied());
        if newest.is_some_and(|newest| newest > shown.put.version) {
            return Verdict::Done;
        }
        match bucket.put(std::slice::from_ref(&shown.put), WhenAbsent::Write).await.pop() {
            Some(Stored::Shown) => Verdict::Done,
            Some(Stored::Failed(why)) => Verdict::Away(why),
            Some(Stored::Absent) | None => Verdict::Retry("the key is contended".to_owned()),
        }
    }
}

/// The version of a part and the time of the change, which stand in the part itself.
#[derive(Deserialize)]
struct PartHead {
    version: u64,
    at: Timestamp,
}

impl Shown {
    /// `value` is what stands at the key, made of `part`.
    ///
    /// # Errors
    /// Where the part is not one.
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

/// The newest of each key. An end may carry a part that it did not touch, at an old version: the
/// later event wins then, because only it knows that the key may expire.
fn newest<'a>(all: impl Iterator<Item = &'a Shown>) -> HashMap<Place<'a>, &'a Shown> {
    let mut newest: HashMap<Place<'a>, &Shown> = HashMap::new();
    for shown in all {
        let known = newest.entry(place(shown)).or_insert(shown);
        let (version, before) = (shown.put.version, known.put.version);
        if version > before || shown.put.ttl.is_some() && version == before {
            *known = shown;
        }
    }
    newest
}
