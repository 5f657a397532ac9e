//! Events that will never be in the stream: the stream refuses them by themselves, or their row
//! cannot be read.
//!
//! Such an event is **parked**: it becomes a dead letter of the relay, and leaves the outbox. Those
//! behind it go on, also those of its aggregate. SQL keeps it (`brigade.events`), and replaying its
//! letter puts it back into the outbox.

use async_nats::HeaderMap;
use brigade_contracts::header;
use bytes::Bytes;

use super::publish::OutboxEvent;
use crate::{
    infra::Context,
    runtime::dead_letter::{self, NewLetter, copied, one_line},
};

/// The bytes that the headers of a letter may take beside its payload: those of the event, and the
/// reason of its death.
const HEADERS: usize = 8 * 1024;

/// An event to be parked.
pub struct Unfit {
    pub shard: i16,
    pub seq: i64,
    pub event_seq: i64,
    /// The subject on which it would have been published.
    pub subject: String,
    /// The headers of the event, its `Nats-Msg-Id` among them.
    pub headers: Vec<(&'static str, String)>,
    pub payload: Bytes,
    pub reason: String,
}

impl Unfit {
    pub fn refused(event: &OutboxEvent, reason: &str) -> Self {
        Self {
            shard: event.shard,
            seq: event.seq,
            event_seq: event.event_seq,
            subject: event.envelope.subject(),
            headers: event.envelope.headers().collect(),
            payload: event.payload.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Returns true if a dead letter can hold the payload.
    fn fits(&self, most: usize) -> bool {
        self.payload.len() + HEADERS <= most
    }
}

/// Parks events. Returns how many of the first ones are parked, and why not all.
pub async fn park(cx: &Context, all: &[Unfit]) -> (usize, Option<String>) {
    for (parked, unfit) in all.iter().enumerate() {
        if let Err(error) = bury(cx, unfit).await {
            let error = format!("an event that the stream refuses cannot be parked: {error:#}");
            return (parked, Some(error));
        }
    }
    (all.len(), None)
}

async fn bury(cx: &Context, unfit: &Unfit) -> anyhow::Result<()> {
    let pairs = unfit.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let mut headers: HeaderMap = copied(pairs);
    headers.insert("Origin-Stream", "outbox");
    headers.insert("Origin-Seq", unfit.seq.to_string());
    let mut payload = unfit.payload.clone();
    if !unfit.fits(cx.nats.client.max_payload()) {
        let (bytes, seq) = (payload.len(), unfit.event_seq);
        headers.insert("Dead-Payload", format!("{bytes} bytes: brigade.events, seq {seq}"));
        payload = Bytes::new();
    }
    let id = unfit.headers.iter().find(|(name, _)| *name == header::MSG_ID);
    let id = id.map_or_else(|| unfit.seq.to_string(), |(_, id)| one_line(id));
    let (subject, reason) = (unfit.subject.as_str(), unfit.reason.as_str());
    let letter = NewLetter { subject, id: &id, reason, headers, payload, command: None };
    dead_letter::store(cx, letter).await
}
