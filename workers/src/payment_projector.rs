//! payment-projector: shows what is paid.
//!
//! Consumes the events that touch the part `payments` of carts (stream `EVENTS`) and writes that
//! part into `views`. An event carries the whole part, so only the newest of a batch is written
//! per key, duplicates and reordering change nothing, and no SQL is read.
//!
//! Guarantees: at quiescence the part equals SQL; its version never goes down. Not responsible
//! for the part `core` and `versions` (command-handler) nor for lost buckets (cache-verifier).

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Address, Part, Timestamp,
    event::Payload,
    key::{self, Bucket, Versions},
    subject,
};
use bytes::Bytes;
use serde::Deserialize;

use crate::{
    runtime::{Context, Delivery, Handler, Metrics, Source, Verdict, consume},
    store::{Kv, Put, Stored, WhenAbsent},
};

struct PaymentProjector {
    views: Kv,
    versions: Kv,
    metrics: Arc<Metrics>,
}

/// The part that an event carries.
struct Shown {
    address: Address,
    version: u64,
    at: Timestamp,
    ended: bool,
    part: Bytes,
}

/// # Errors
/// Where its stream cannot be consumed.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let projector = PaymentProjector {
        views: Kv::open(&cx.nats, Bucket::Views).await?,
        versions: Kv::open(&cx.nats, Bucket::Versions).await?,
        metrics: cx.metrics.clone(),
    };
    consume(&cx, &[Source::Stream("EVENTS")], projector).await
}

impl Handler for PaymentProjector {
    /// `None`: an event that does not touch the part.
    type Message = Option<Shown>;

    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String> {
        decode(delivery)
    }

    async fn handle(&self, batch: Vec<Option<Shown>>) -> Vec<Verdict> {
        let newest = newest(&batch);
        let puts: Vec<Put> = newest.values().map(|shown| put(shown)).collect();
        let results = self.show(&puts).await;
        let verdicts: HashMap<&str, Verdict> =
            puts.iter().map(|put| put.key.as_str()).zip(results).collect();
        for shown in newest.values() {
            let key = key::view(&shown.address, Part::Payments);
            if verdicts.get(key.as_str()) == Some(&Verdict::Done) {
                self.metrics.visible(Part::Payments, shown.at);
            }
        }
        // An older event of the batch is done when the newest of its key is.
        let verdict_of = |shown: &Shown| {
            let key = key::view(&shown.address, Part::Payments);
            verdicts.get(key.as_str()).cloned().unwrap_or(Verdict::Done)
        };
        batch.iter().map(|s| s.as_ref().map_or(Verdict::Done, verdict_of)).collect()
    }
}

impl PaymentProjector {
    async fn show(&self, puts: &[Put]) -> Vec<Verdict> {
        let stored = self.views.put(puts, WhenAbsent::Ask).await;
        let mut verdicts = Vec::with_capacity(puts.len());
        for (put, stored) in puts.iter().zip(stored) {
            verdicts.push(match stored {
                Stored::Shown => Verdict::Done,
                Stored::Failed(why) => Verdict::Away(why),
                Stored::Absent => self.show_absent(put).await,
            });
        }
        verdicts
    }

    /// Nothing stands at a key that must have had a value: it was not written yet, it expired, or
    /// it was lost. Only `versions` tells whether this event is still the newest.
    async fn show_absent(&self, put: &Put) -> Verdict {
        let address = put.key.rsplit_once('.').map_or("", |(address, _)| address);
        let newest = match self.versions.get(address).await {
            Ok(Some(entry)) => serde_json::from_slice::<Versions>(&entry.value).ok(),
            Ok(None) => return Verdict::Retry(format!("no version of {address} yet")),
            Err(error) => return Verdict::Away(format!("{error:#}")),
        };
        let newest = newest.and_then(|versions| versions.parts.get(&Part::Payments).copied());
        if newest.is_some_and(|newest| newest > put.version) {
            return Verdict::Done;
        }
        match self.views.put(std::slice::from_ref(put), WhenAbsent::Write).await.pop() {
            Some(Stored::Shown) => Verdict::Done,
            Some(Stored::Failed(why)) => Verdict::Away(why),
            Some(Stored::Absent) | None => Verdict::Retry("the key is contended".to_owned()),
        }
    }
}

fn decode(delivery: &Delivery) -> Result<Option<Shown>, String> {
    let (address, _) = subject::parse_event(delivery.subject()).ok_or("not an event's subject")?;
    let payload: Payload =
        serde_json::from_slice(delivery.payload()).map_err(|error| error.to_string())?;
    let Some(part) = payload.after.payments else { return Ok(None) };
    let head: PartHead = serde_json::from_str(part.get()).map_err(|error| error.to_string())?;
    Ok(Some(Shown {
        address,
        version: head.version,
        at: head.at,
        ended: payload.after.ended,
        part: Bytes::from(String::from(Box::<str>::from(part))),
    }))
}

#[derive(Deserialize)]
struct PartHead {
    version: u64,
    at: Timestamp,
}

/// The newest of each key.
fn newest(batch: &[Option<Shown>]) -> HashMap<&Address, &Shown> {
    let mut newest: HashMap<&Address, &Shown> = HashMap::new();
    for shown in batch.iter().flatten() {
        let known = newest.entry(&shown.address).or_insert(shown);
        if shown.version > known.version {
            *known = shown;
        }
    }
    newest
}

fn put(shown: &Shown) -> Put {
    Put {
        key: key::view(&shown.address, Part::Payments),
        version: shown.version,
        value: shown.part.clone(),
        ttl: shown.ended.then_some(key::ENDED_TTL),
    }
}
