use std::{sync::Arc, time::Instant};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::infra::intake::Message;

/// Longest reply subject that gets a response: those of clients and of imports take less than half.
const MAX_REPLY: usize = 255;

/// A message in hand, from a stream or from a request.
#[derive(Clone)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub origin: Origin,
    /// The subject of the response to a request, or of the acknowledgement of a stored message.
    pub(super) reply: Option<Subject>,
    /// The number of the source that it came from.
    pub source: usize,
    pub received: Instant,
    /// The number of messages that its consumer had still to deliver.
    pub pending: u64,
    /// It came ahead of its turn: another consumer delivers it too, and has its last try.
    pub overtakes: bool,
    /// The number of times that this process gave it back untried, or held up by somebody else's
    /// lock.
    pub given_back: i64,
    /// Bounds the messages in hand; released when the delivery is acknowledged.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// The origin of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A core request: nobody waits for anything but its response.
    Request,
    /// A stream: the server waits for an acknowledgement.
    /// `stored_at`, in nanoseconds, differs from that of a message that had the same sequence in an
    /// earlier stream of this name.
    Stored { stream: String, sequence: u64, deliveries: i64, stored_at: i128 },
}

impl Delivery {
    /// Returns the delivery of a core request.
    #[must_use]
    pub fn request(message: Message, source: usize) -> Self {
        let reply = message.reply.as_ref().filter(|reply| is_inbox(reply));
        Self {
            reply: reply.cloned().and_then(|reply| Subject::from_utf8(reply).ok()),
            message: Arc::new(message),
            origin: Origin::Request,
            source,
            received: Instant::now(),
            pending: 0,
            overtakes: false,
            given_back: 0,
            permit: None,
        }
    }

    /// Returns the delivery of a stored message; `None` if its reply subject is not JetStream's.
    #[must_use]
    pub fn stored(
        message: Message,
        source: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Self> {
        let reply = Subject::from_utf8(message.reply.clone()?).ok()?;
        let (origin, pending) = Origin::of_stored(&reply)?;
        Some(Self {
            reply: Some(reply),
            message: Arc::new(message),
            origin,
            source,
            received: Instant::now(),
            pending,
            overtakes: false,
            given_back: 0,
            permit: permit.map(Arc::new),
        })
    }

    /// Returns the subject as text. Bytes that are no visible ASCII are escaped.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.message.subject()
    }

    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Returns whether it comes from a stream. Only the sender waits for a request.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.origin != Origin::Request
    }

    /// Returns the subject of the acknowledgement of a stored message; a request has none.
    #[must_use]
    pub fn ack_to(&self) -> Option<&Subject> {
        self.reply.as_ref().filter(|_| self.is_stored())
    }

    /// Returns the subject of the response to a request: a well-formed inbox, and nothing else that
    /// its sender may have named, such as a key or the server's own interface.
    #[must_use]
    pub fn reply(&self) -> Option<&Subject> {
        self.reply.as_ref().filter(|_| !self.is_stored())
    }

    /// Checks that the headers can be read.
    ///
    /// # Errors
    /// If they cannot, with the reason.
    pub fn readable(&self) -> Result<(), &'static str> {
        self.message.readable()
    }

    /// Returns whether the headers are too large for all of them to be read.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.message.is_cut()
    }

    /// Returns all headers as name and value; a repeated name comes as often as it was sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.message.headers()
    }

    /// Returns the first value of a header, in whatever case its name was sent.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the number of times that the server has delivered it; 1 for a request.
    #[must_use]
    pub fn deliveries(&self) -> i64 {
        match self.origin {
            Origin::Request => 1,
            Origin::Stored { deliveries, .. } => deliveries,
        }
    }

    /// Returns the number of deliveries that may have failed over it: all but those that this
    /// process gave back.
    #[must_use]
    pub fn tried_deliveries(&self) -> i64 {
        self.deliveries() - self.given_back
    }
}

impl Origin {
    /// Reads a reply subject of JetStream (ADR-15):
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>`,
    /// or with domain and account after `$JS.ACK`, and perhaps more at the end. Returns the origin,
    /// and the number of pending messages.
    fn of_stored(reply: &str) -> Option<(Self, u64)> {
        let reply = reply.strip_prefix("$JS.ACK.")?;
        let before = match reply.split('.').count() {
            7 => 0,
            9.. => 2,
            _ => return None,
        };
        let mut tokens = reply.split('.').skip(before);
        let mut next = || tokens.next();
        let (stream, _consumer, deliveries, sequence) = (next()?, next()?, next()?, next()?);
        let (_consumer_sequence, stored_at, pending) = (next()?, next()?, next()?);
        let origin = Self::Stored {
            stream: stream.to_owned(),
            sequence: sequence.parse().ok()?,
            deliveries: deliveries.parse().ok()?,
            stored_at: stored_at.parse().ok()?,
        };
        Some((origin, pending.parse().ok()?))
    }
}

/// Returns whether a reply is an inbox that a response can be sent to: `_INBOX.` of a client, or
/// `_R_.` of the server for a request through an import, and tokens of visible ASCII after it. A
/// response to any other subject would be refused by the server, or received by somebody who did
/// not send the request.
fn is_inbox(reply: &[u8]) -> bool {
    let tokens = reply.strip_prefix(b"_INBOX.").or_else(|| reply.strip_prefix(b"_R_."));
    let fits = |byte: &u8| byte.is_ascii_graphic() && !b"*>".contains(byte);
    reply.len() <= MAX_REPLY
        && tokens.is_some_and(|tokens| {
            tokens
                .split(|byte| *byte == b'.')
                .all(|token| !token.is_empty() && token.iter().all(fits))
        })
}

/// Returns headers as name and value.
pub fn pairs(headers: Option<&HeaderMap>) -> impl Iterator<Item = (&str, &str)> + Clone {
    headers.into_iter().flat_map(|headers| {
        headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_inbox_gets_a_response() {
        for good in ["_INBOX.a", "_INBOX.t1-producer.9.x", "_R_.gX2.ab", "_INBOX.a\\b"] {
            assert!(is_inbox(good.as_bytes()), "{good}");
        }
        let long = format!("_INBOX.{}", "a".repeat(MAX_REPLY));
        for bad in [
            b"".as_slice(),
            b"_INBOX",
            b"_INBOX.",
            b"_R_.",
            b"_INBOX.a..b",
            b"_INBOX.a.",
            b"_INBOX..a",
            b"_INBOX.*",
            b"_INBOX.a.>",
            b"_INBOX.a\xff",
            b"_INBOX.\xc3\xbc",
            b"_INBOX.a\x01",
            b"_inbox.a",
            b"$KV.views.t2.cart.c1.core",
            b"evt.t2.order.o1.paid",
            long.as_bytes(),
        ] {
            assert!(!is_inbox(bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_stored_message_is_known_by_the_subject_of_its_acknowledgement() {
        let stored = Origin::Stored {
            stream: "COMMANDS".to_owned(),
            sequence: 7,
            deliveries: 3,
            stored_at: 1_700_000_000_000_000_000,
        };
        let tokens = "COMMANDS.command-handler.3.7.9.1700000000000000000.5";
        for good in ["", "hub.acc."].map(|domain| format!("$JS.ACK.{domain}{tokens}")) {
            assert_eq!(Origin::of_stored(&good), Some((stored.clone(), 5)), "{good}");
        }
        assert_eq!(Origin::of_stored(&format!("$JS.ACK.hub.acc.{tokens}.x")), Some((stored, 5)));
        for bad in ["_INBOX.a", "$JS.ACK.COMMANDS", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.a.b.1.2.3.4"]
        {
            assert_eq!(Origin::of_stored(bad), None, "{bad}");
        }
    }
}
