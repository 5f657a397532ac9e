//! payment-projector: shows what is paid.
//!
//! Consumes the events that carry the part `payments` of carts and orders (stream `EVENTS`) and
//! writes that part into `views`, and of orders the payment row of `active_orders`. An event
//! carries the whole part, so only the newest of a batch is written per key, duplicates and
//! reordering change nothing, and no SQL is read.
//!
//! Guarantees: at quiescence the part equals SQL; its version never goes down. Not responsible
//! for the part `core` and `versions` (command-handler) nor for lost buckets (cache-verifier).

use std::collections::HashMap;

use brigade_contracts::{
    Address, Aggregate, Part, Timestamp,
    event::Payload,
    header,
    key::{self, Bucket, ENDED_TTL, REMOVED_TTL, Versions},
    order, subject,
};
use bytes::Bytes;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    domain::order::active_payment,
    runtime::{Context, Delivery, Handler, Source, Turn, Verdict, consume},
    store::{Kv, Put, Stored, WhenAbsent},
};

struct PaymentProjector {
    cx: Context,
    views: Kv,
    active_orders: Kv,
    versions: Kv,
}

/// What an event shows.
struct Shown {
    address: Address,
    version: u64,
    at: Timestamp,
    view: Put,
    /// Of orders only.
    row: Option<Put>,
    /// Repair asked for this event again: what is remembered of its keys may be untrue.
    again: bool,
}

/// # Errors
/// Where its stream cannot be consumed.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let projector = PaymentProjector {
        views: Kv::open(&cx.nats, Bucket::Views).await?,
        active_orders: Kv::open(&cx.nats, Bucket::ActiveOrders).await?,
        versions: Kv::open(&cx.nats, Bucket::Versions).await?,
        cx: cx.clone(),
    };
    consume(&cx, &[Source::Stream("EVENTS")], projector).await
}

impl Handler for PaymentProjector {
    /// `None`: an event that does not carry the part.
    type Message = Option<Shown>;

    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String> {
        decode(delivery)
    }

    async fn handle(&self, batch: Vec<Option<Shown>>, _turn: Turn) -> Vec<Verdict> {
        self.cx.fail.point("payment-projector.before_show").await;
        let newest = newest(&batch);
        for shown in batch.iter().flatten().filter(|shown| shown.again) {
            self.views.forget_key(&shown.view.key);
            if let Some(row) = &shown.row {
                self.active_orders.forget_key(&row.key);
            }
        }
        let shown: Vec<&Shown> = newest.values().copied().collect();
        let views = shown.iter().map(|shown| (*shown, &shown.view)).collect();
        let rows = shown.iter().filter_map(|shown| Some((*shown, shown.row.as_ref()?))).collect();
        let (views, rows) =
            tokio::join!(self.show(&self.views, views), self.show(&self.active_orders, rows));
        for shown in shown.iter().filter(|shown| views.get(&shown.address) == Some(&Verdict::Done))
        {
            self.cx.metrics.visible(Part::Payments, shown.at);
        }
        self.cx.fail.point("payment-projector.after_show").await;
        // An older event of the batch is done when the newest of its aggregate is.
        let verdict_of = |shown: &Shown| {
            let of = |verdicts: &HashMap<_, _>| verdicts.get(&shown.address).cloned();
            let mut both = [of(&views), of(&rows)].into_iter().flatten();
            both.find(|verdict| *verdict != Verdict::Done).unwrap_or(Verdict::Done)
        };
        batch.iter().map(|s| s.as_ref().map_or(Verdict::Done, verdict_of)).collect()
    }
}

impl PaymentProjector {
    /// Writes into one bucket.
    async fn show(&self, bucket: &Kv, what: Vec<(&Shown, &Put)>) -> HashMap<Address, Verdict> {
        let puts: Vec<Put> = what.iter().map(|(_, put)| (*put).clone()).collect();
        let stored = bucket.put(&puts, WhenAbsent::Ask).await;
        // A bucket that was lost is absent at every key: all of them are asked about at once.
        let verdicts = what.into_iter().zip(stored).map(|((shown, put), stored)| async move {
            let verdict = match stored {
                Stored::Shown => Verdict::Done,
                Stored::Failed(why) => Verdict::Away(why),
                Stored::Absent => self.show_absent(bucket, shown, put).await,
            };
            (shown.address.clone(), verdict)
        });
        join_all(verdicts).await.into_iter().collect()
    }

    /// Nothing stands at a key that must have had a value: it was not written yet, it expired, or
    /// it was lost. Only `versions` tells whether this event is still the newest.
    async fn show_absent(&self, bucket: &Kv, shown: &Shown, put: &Put) -> Verdict {
        let key = key::versions(&shown.address);
        let newest = match self.versions.get(&key).await {
            Ok(Some(entry)) => serde_json::from_slice::<Versions>(&entry.value).ok(),
            Ok(None) => return Verdict::Retry(format!("no version of {key} yet")),
            Err(error) => return Verdict::Away(format!("{error:#}")),
        };
        let newest = newest.and_then(|versions| versions.parts.get(&Part::Payments).copied());
        if newest.is_some_and(|newest| newest > shown.version) {
            return Verdict::Done;
        }
        match bucket.put(std::slice::from_ref(put), WhenAbsent::Write).await.pop() {
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
    let ended = payload.after.ended;
    let put = |key, part: Box<RawValue>, ttl| Put {
        key,
        version: head.version,
        value: Bytes::from(String::from(Box::<str>::from(part))),
        ttl: ended.then_some(ttl),
    };
    let row = if address.aggregate == Aggregate::Order {
        let part: order::Payments = serde_json::from_str(part.get()).map_err(|e| e.to_string())?;
        let key = key::active_order(&address, Part::Payments);
        Some(put(key, active_payment(&part), REMOVED_TTL))
    } else {
        None
    };
    let view = put(key::view(&address, Part::Payments), part, ENDED_TTL);
    let again = delivery.header(header::MSG_ID) != delivery.header(header::CE_ID);
    Ok(Some(Shown { address, version: head.version, at: head.at, view, row, again }))
}

#[derive(Deserialize)]
struct PartHead {
    version: u64,
    at: Timestamp,
}

/// The newest of each aggregate. An end may carry a part that it did not touch, at an old version:
/// the later event wins then, because only it knows that the key may expire.
fn newest(batch: &[Option<Shown>]) -> HashMap<&Address, &Shown> {
    let mut newest: HashMap<&Address, &Shown> = HashMap::new();
    for shown in batch.iter().flatten() {
        let known = newest.entry(&shown.address).or_insert(shown);
        let ends = shown.view.ttl.is_some() && shown.version == known.version;
        if shown.version > known.version || ends {
            *known = shown;
        }
    }
    newest
}
