use std::{sync::Arc, time::Instant};

use async_nats::{HeaderMap, Subject, jetstream};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

/// A message in hand, from a stream or from a request.
#[derive(Clone)]
pub struct Delivery {
    pub message: Arc<async_nats::Message>,
    pub origin: Origin,
    /// Which of the worker's sources it came from.
    pub source: usize,
    pub received: Instant,
    /// Bounds the work in hand; given back when the delivery is settled.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// Where a message came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A core request: its answer is all that anybody waits for.
    Request,
    /// A stream: the server waits for an acknowledgement.
    /// `stored_at` tells it from a message that had its number in an earlier stream of this name.
    Stored { stream: String, sequence: u64, deliveries: i64, stored_at: i128 },
}

impl Delivery {
    #[must_use]
    pub fn request(message: async_nats::Message, source: usize) -> Self {
        Self {
            message: Arc::new(message),
            origin: Origin::Request,
            source,
            received: Instant::now(),
            permit: None,
        }
    }

    /// # Errors
    /// Where the reply subject is not one of JetStream's.
    pub fn stored(
        message: jetstream::Message,
        source: usize,
        permit: OwnedSemaphorePermit,
    ) -> anyhow::Result<Self> {
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        let origin = Origin::Stored {
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            deliveries: info.delivered,
            stored_at: info.published.unix_timestamp_nanos(),
        };
        Ok(Self {
            message: Arc::new(message.message),
            origin,
            source,
            received: Instant::now(),
            permit: Some(Arc::new(permit)),
        })
    }

    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Where the acknowledgement of a stored message goes.
    #[must_use]
    pub fn ack_to(&self) -> Option<&Subject> {
        self.message.reply.as_ref().filter(|_| self.origin != Origin::Request)
    }

    /// Where the answer to a request goes: an inbox, or what the server puts in its place for a
    /// request of another account, and nothing else that its sender may have named, such as a key
    /// or the server's own interface.
    #[must_use]
    pub fn reply(&self) -> Option<&Subject> {
        let inbox = |reply: &&Subject| reply.starts_with("_INBOX.") || reply.starts_with("_R_.");
        self.message.reply.as_ref().filter(inbox).filter(|_| self.origin == Origin::Request)
    }

    /// All headers, name and value; a repeated name comes as often as it stands there.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        pairs(self.message.headers.as_ref())
    }

    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// How often the server has delivered it; 1 for a request.
    #[must_use]
    pub fn deliveries(&self) -> i64 {
        match self.origin {
            Origin::Request => 1,
            Origin::Stored { deliveries, .. } => deliveries,
        }
    }
}

/// The headers as pairs.
pub fn pairs(headers: Option<&HeaderMap>) -> impl Iterator<Item = (&str, &str)> + Clone {
    headers.into_iter().flat_map(|headers| {
        headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
    })
}
