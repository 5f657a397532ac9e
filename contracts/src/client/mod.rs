//! The client for producers: sends commands through either door until they are decided, reads
//! views that are never older than what it knows, watches views and the active orders, and queues
//! commands while there is no connection.

mod commands;
mod line;
mod orders;
mod pauses;
mod queue;
mod source;
mod views;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{HeaderMap, Request, RequestErrorKind, jetstream};
use serde_json::Value;

use self::views::KnownView;
pub use self::{
    commands::{Send, new_command_id},
    line::{CommandState, Line, QueueError, QueuedCommand},
    orders::{ActiveOrders, ListedOrder, OrderListChange},
    queue::Queue,
    views::ConfirmedView,
    watch::{OrdersWatch, ViewWatch},
};
use crate::{Address, header::STATUS};

/// Pause before a command or a query that was answered 503 is repeated.
const PAUSE: Duration = Duration::from_millis(50);
/// The time that one request waits for its response before it is repeated.
const ONE_TRY: Duration = Duration::from_secs(3);

/// The reason why there is no outcome or view. The command may have been decided all the same.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody gave a final answer in time: repeat it under the same Command-Id.
    #[error("no answer in time: {0}")]
    TimedOut(String),
    /// The stream has the command, and there is no outcome yet; there is none while it is a dead
    /// letter. Wait with [`Client::outcome`]: to send it again would only make another message.
    #[error("stored and not decided in time: {0}")]
    Undecided(String),
    /// The Command-Id was used for another aggregate: this command is never decided.
    #[error("the Command-Id was used for {0}")]
    CommandIdReused(String),
    /// The server does not take a message of this size.
    #[error("too large to be sent: {0}")]
    TooLarge(String),
    /// The answer is not one of brigade's.
    #[error("an answer that cannot be read: {0}")]
    Unreadable(String),
    /// The connection was closed for good.
    #[error("the connection was closed")]
    Closed,
    /// The query was refused: status and body.
    #[error("refused with {0}: {1}")]
    Refused(u16, Value),
}

/// A connection that speaks for one tenant. Clones share what they know.
#[derive(Clone)]
pub struct Client {
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    /// The longest that a call may take, its repetitions included.
    patience: Duration,
    known: Arc<Mutex<HashMap<Address, KnownView>>>,
}

impl Client {
    /// `nats` is connected as the tenant's producer, with its own inbox prefix.
    #[must_use]
    pub fn new(nats: async_nats::Client, patience: Duration) -> Self {
        let jetstream = jetstream::ContextBuilder::new().timeout(ONE_TRY).build(nats.clone());
        Self { nats, jetstream, patience, known: Arc::default() }
    }

    async fn ask(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<(u16, async_nats::Message), ClientError> {
        let request =
            Request::new().headers(headers).payload(payload.into()).timeout(Some(ONE_TRY));
        let reply = self.nats.send_request(subject.clone(), request).await;
        let reply = reply.map_err(|error| match error.kind() {
            RequestErrorKind::MaxPayloadExceeded => ClientError::TooLarge(error.to_string()),
            _ => ClientError::TimedOut(format!("{subject}: {error}")),
        })?;
        let status = reply.headers.as_ref().and_then(|headers| headers.get(STATUS));
        let status = status.and_then(|status| status.as_str().parse().ok());
        let unreadable = || ClientError::Unreadable(format!("{subject}: no {STATUS}"));
        Ok((status.ok_or_else(unreadable)?, reply))
    }
}

fn body(reply: &async_nats::Message) -> Value {
    serde_json::from_slice(&reply.payload).unwrap_or_default()
}
