//! One batch into the stream `EVENTS`.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    HeaderMap, HeaderName, Request,
    client::{PublishErrorKind, RequestErrorKind},
    connection::State,
    jetstream::{ErrorCode, publish::PublishAck, response::Response},
};
use brigade_contracts::{Address, Era, event::Envelope, header};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::timeout;
use uuid::Uuid;

use super::metrics::PublishMode;
use crate::infra::Nats;

/// Up to so many events single publishes are faster: an atomic batch costs 2 ms, a publish that
/// waits for the one before it 0.25 ms.
const FEW: usize = 8;
/// Single publishes that are under way at once.
const AT_ONCE: usize = 64;
/// The time that an acknowledgement is awaited. Long, because an event that was stored after all
/// makes the next attempt a slow one; a connection that is lost ends the wait at once.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// The errors of a message that the stream will never take. All other errors are about the stream
/// itself, and pass: it is full, sealed, without a leader.
const UNFIT: [ErrorCode; 2] =
    [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM];

/// An event on its way.
pub struct OutboxEvent {
    pub shard: i16,
    pub seq: i64,
    /// The era of the database that it was read in.
    pub era: Era,
    /// The `seq` of the event in `brigade.events`.
    pub event_seq: i64,
    pub envelope: Envelope,
    pub payload: Bytes,
}

/// The result of publishing a batch.
pub struct Published {
    pub mode: PublishMode,
    /// One entry per event: true if it stands in the stream for certain.
    pub done: Vec<bool>,
    /// The events that the stream will never take, and why. Later ones of their aggregates may be
    /// done.
    pub unfit: Vec<(usize, String)>,
    pub error: Option<String>,
}

enum PublishError {
    /// It will be refused whenever it is sent: the message is at fault.
    Unfit(String),
    /// The server will not have it, so nothing of it is stored.
    Refused(String),
    /// It may be stored or not.
    Unknown(String),
}

impl Published {
    fn new(mode: PublishMode, done: Vec<bool>, error: Option<String>) -> Self {
        Self { mode, done, unfit: Vec::new(), error }
    }
}

/// Publishes events. Of each aggregate an unbroken run from its first one on is done, but for those
/// that are unfit.
pub async fn publish(nats: &Nats, events: &[OutboxEvent]) -> Published {
    if nats.client.connection_state() != State::Connected {
        // What is sent now would wait in the client's buffer.
        let error = Some("not connected".to_owned());
        return Published::new(PublishMode::Atomic, vec![false; events.len()], error);
    }
    if events.len() <= FEW {
        return one_by_one(nats, events, PublishMode::Single).await;
    }
    let error = match atomic(nats, events).await {
        Ok(()) => {
            return Published::new(PublishMode::Atomic, vec![true; events.len()], None);
        }
        // Mostly: an id is known, because an earlier acknowledgement was lost. Or one is too large.
        Err(PublishError::Refused(why) | PublishError::Unfit(why)) => {
            tracing::debug!(why, "a batch is published one by one");
            return one_by_one(nats, events, PublishMode::OneByOne).await;
        }
        Err(PublishError::Unknown(why)) => Some(why),
    };
    Published::new(PublishMode::Atomic, vec![false; events.len()], error)
}

/// Publishes all or none of the events, in this order and without others in between.
async fn atomic(nats: &Nats, events: &[OutboxEvent]) -> Result<(), PublishError> {
    let id = Uuid::now_v7().simple().to_string();
    let Some((last, events)) = events.split_last() else { return Ok(()) };
    let part = |event: &OutboxEvent, place: usize| {
        let mut headers = headers(event);
        headers.insert(HeaderName::from_static(header::BATCH_ID), id.as_str());
        headers.insert(HeaderName::from_static(header::BATCH_SEQUENCE), place.to_string());
        headers
    };
    let send = async {
        for (before, event) in events.iter().enumerate() {
            let (subject, headers) = (event.envelope.subject(), part(event, before + 1));
            let sent = nats.client.publish_with_headers(subject, headers, event.payload.clone());
            sent.await.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => PublishError::Unfit(error.to_string()),
                _ => PublishError::Unknown(error.to_string()),
            })?;
        }
        Ok(())
    };
    // Only an outage makes it wait: the client's buffer is full.
    let sent = timeout(ACK_TIMEOUT, send).await;
    sent.unwrap_or_else(|_| {
        Err(PublishError::Unknown("the batch was not sent in time".to_owned()))
    })?;
    let mut headers = part(last, events.len() + 1);
    headers.insert(HeaderName::from_static(header::BATCH_COMMIT), "1");
    acknowledged(nats, last, headers).await
}

/// Publishes each event of an aggregate after the acknowledgement of the one before it, or after
/// the stream has refused that for good. An event that the stream has already is acknowledged too.
async fn one_by_one(nats: &Nats, events: &[OutboxEvent], mode: PublishMode) -> Published {
    let mut runs: BTreeMap<&Address, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        runs.entry(&event.envelope.address).or_default().push(at);
    }
    let publish_run = |run: Vec<usize>| async move {
        let (mut done, mut unfit) = (Vec::new(), Vec::new());
        for at in run {
            let event = &events[at];
            match acknowledged(nats, event, headers(event)).await {
                Ok(()) => done.push(at),
                Err(PublishError::Unfit(why)) => unfit.push((at, why)),
                Err(PublishError::Refused(why) | PublishError::Unknown(why)) => {
                    return (done, unfit, Some(why));
                }
            }
        }
        (done, unfit, None)
    };
    let mut published = Published::new(mode, vec![false; events.len()], None);
    let mut runs = stream::iter(runs.into_values().map(publish_run)).buffer_unordered(AT_ONCE);
    while let Some((done, unfit, error)) = runs.next().await {
        for at in done {
            published.done[at] = true;
        }
        published.unfit.extend(unfit);
        published.error = published.error.or(error);
    }
    published
}

/// Publishes with these headers and waits for the acknowledgement of the stream.
async fn acknowledged(
    nats: &Nats,
    event: &OutboxEvent,
    headers: HeaderMap,
) -> Result<(), PublishError> {
    let request =
        Request::new().headers(headers).payload(event.payload.clone()).timeout(Some(ACK_TIMEOUT));
    let reply = tokio::select! {
        // First, so that it watches before anything is sent.
        biased;
        () = nats.reconnected() => {
            return Err(PublishError::Unknown("the connection was lost".to_owned()));
        }
        reply = nats.client.send_request(event.envelope.subject(), request) => reply,
    };
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            PublishError::Unknown("there is no stream that takes events".to_owned())
        }
        // The client does not even send it.
        RequestErrorKind::MaxPayloadExceeded => PublishError::Unfit(error.to_string()),
        _ => PublishError::Unknown(error.to_string()),
    })?;
    match serde_json::from_slice::<Response<PublishAck>>(&reply.payload) {
        Ok(Response::Ok(_)) => Ok(()),
        Ok(Response::Err { error }) if UNFIT.contains(&error.error_code()) => {
            Err(PublishError::Unfit(error.to_string()))
        }
        Ok(Response::Err { error }) => Err(PublishError::Refused(error.to_string())),
        Err(error) => Err(PublishError::Unknown(format!("not an acknowledgement: {error}"))),
    }
}

fn headers(event: &OutboxEvent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in event.envelope.headers() {
        headers.insert(HeaderName::from_static(name), value);
    }
    if !event.era.is_first() {
        headers.insert(HeaderName::from_static(header::ERA), event.era.to_string());
    }
    headers
}
