//! The client for producers: sends commands through either door until they are decided, and reads
//! views that are never older than what it knows.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, Request, jetstream};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::{
    Address, Body, Door, Outcome, Timestamp, Token,
    header::{
        ACTOR, COMMAND_ID, DEADLINE, ETAG, EXPECTED_VERSION, IF_NONE_MATCH, MIN_VERSION, STATUS,
        TRACEPARENT, WAIT_MS,
    },
    subject,
};

/// Pause before a command or a query that was answered 503 is repeated.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one request waits for its answer before it is repeated.
const ONE_TRY: Duration = Duration::from_secs(3);

/// Aggregates that are remembered; what is forgotten is only read in full again.
const MAX_KNOWN: usize = 10_000;

/// Why there is no outcome or view. The command may have been decided all the same: repeat it under
/// the same Command-Id.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody gave a final answer in time.
    #[error("no answer in time: {0}")]
    TimedOut(String),
    /// The answer is not one of brigade's.
    #[error("an answer that cannot be read: {0}")]
    Unreadable(String),
    /// The query was refused: status and body.
    #[error("refused with {0}: {1}")]
    Refused(u16, Value),
}

/// A command to be sent.
#[derive(Clone, Debug)]
pub struct Send {
    pub address: Address,
    pub body: Body,
    /// The idempotency key; the same for every repetition.
    pub command_id: Token,
    pub door: Door,
    pub deadline: Option<Timestamp>,
    pub expected_version: Option<u64>,
    pub actor: Option<Token>,
    pub traceparent: Option<String>,
}

impl Send {
    /// A command for the request door, under a new Command-Id.
    #[must_use]
    pub fn new(address: Address, body: Body) -> Self {
        Self {
            address,
            body,
            command_id: new_command_id(),
            door: Door::Request,
            deadline: None,
            expected_version: None,
            actor: None,
            traceparent: None,
        }
    }

    /// The same through another door.
    #[must_use]
    pub fn through(self, door: Door) -> Self {
        Self { door, ..self }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COMMAND_ID, self.command_id.as_str());
        let optional = [
            (DEADLINE, self.deadline.map(|at| at.to_string())),
            (EXPECTED_VERSION, self.expected_version.map(|version| version.to_string())),
            (ACTOR, self.actor.as_ref().map(ToString::to_string)),
            (TRACEPARENT, self.traceparent.clone()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        headers
    }
}

/// A view, as it was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub version: u64,
    pub body: Value,
}

/// A connection that speaks for one tenant.
pub struct Client {
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    /// The longest that a call may take, its repetitions included.
    patience: Duration,
    known: Mutex<HashMap<Address, Known>>,
}

/// What this client knows of an aggregate.
#[derive(Clone, Default)]
struct Known {
    /// The highest version that anybody told it: outcomes and views.
    version: u64,
    /// The newest view it has, perhaps of an earlier version.
    view: Option<View>,
}

impl Client {
    /// `nats` is connected as the tenant's producer, with its own inbox prefix.
    #[must_use]
    pub fn new(nats: async_nats::Client, patience: Duration) -> Self {
        let jetstream = jetstream::ContextBuilder::new().timeout(ONE_TRY).build(nats.clone());
        Self { nats, jetstream, patience, known: Mutex::default() }
    }

    /// Sends a command and returns its final outcome, a refusal included. Repeats it under its
    /// Command-Id as long as it is not decided.
    ///
    /// # Errors
    /// [`ClientError::TimedOut`] when patience is over: whether it was decided is not known.
    pub async fn send(&self, send: &Send) -> Result<Outcome, ClientError> {
        let until = Instant::now() + self.patience;
        let outcome = match send.door {
            Door::Request => self.request_until_decided(send, until).await,
            Door::Durable => self.publish_and_wait(send, until).await,
        }?;
        self.learn(&send.address, outcome.version.unwrap_or(0), None);
        Ok(outcome)
    }

    /// The view of an aggregate, never older than any outcome or view that this client was given.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 where there is none; [`ClientError::TimedOut`].
    pub async fn view(&self, address: &Address) -> Result<View, ClientError> {
        let until = Instant::now() + self.patience;
        loop {
            let known = self.known(address);
            let mut headers = HeaderMap::new();
            // An ETag below what is known would only ask for what is known to be old.
            let cached = known.view.filter(|view| view.version >= known.version);
            if let Some(view) = &cached {
                headers.insert(IF_NONE_MATCH, Outcome::etag_of(view.version));
            }
            if known.version > 0 {
                headers.insert(MIN_VERSION, known.version.to_string());
                headers.insert(WAIT_MS, "1000");
            }
            let reply = self.ask(subject::query_view(address), headers, Vec::new()).await;
            match reply {
                Ok((200, reply)) => {
                    let view = read_view(&reply)?;
                    self.learn(address, view.version, Some(view.clone()));
                    return Ok(view);
                }
                // Not changed, as far as this client knows: another call may have learned more
                // while this one was under way.
                Ok((304, _)) => match cached {
                    Some(view) if view.version >= self.known(address).version => return Ok(view),
                    _ => {}
                },
                Ok((503 | 504, _)) | Err(_) => sleep(PAUSE).await,
                Ok((status, reply)) => {
                    return Err(ClientError::Refused(status, body(&reply)));
                }
            }
            if Instant::now() > until {
                return Err(ClientError::TimedOut(format!("the view of {address}")));
            }
        }
    }

    /// Notes a version that this client heard of elsewhere, such as by a push on `live.>`: no view
    /// older than that is returned any more.
    pub fn heard(&self, address: &Address, version: u64) {
        self.learn(address, version, None);
    }

    async fn request_until_decided(
        &self,
        send: &Send,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let (verb, payload) = send.body.encode();
        let subject = format!("{}.{}.{verb}", send.door.prefix(), send.address);
        loop {
            match self.ask(subject.clone(), send.headers(), payload.clone()).await {
                Ok((503, _)) | Err(_) if Instant::now() < until => sleep(PAUSE).await,
                Ok((503, _)) | Err(_) => return Err(ClientError::TimedOut(subject)),
                Ok((_, reply)) => return read_outcome(&reply.payload),
            }
        }
    }

    /// Listens first, then publishes until it is stored, then waits; asks for the outcome now and
    /// then, in case it was published while this client was not connected.
    async fn publish_and_wait(&self, send: &Send, until: Instant) -> Result<Outcome, ClientError> {
        let (verb, payload) = send.body.encode();
        let subject = format!("{}.{}.{verb}", send.door.prefix(), send.address);
        let (tenant, id) = (&send.address.tenant, &send.command_id);
        let timed_out = || ClientError::TimedOut(subject.clone());
        let mut outcomes = self
            .nats
            .subscribe(subject::outcome(tenant, id))
            .await
            .map_err(|error| ClientError::TimedOut(error.to_string()))?;
        loop {
            let stored = async {
                let js = &self.jetstream;
                let sent = js.publish_with_headers(
                    subject.clone(),
                    send.headers(),
                    payload.clone().into(),
                );
                sent.await.ok()?.await.ok()
            };
            if stored.await.is_some() {
                break;
            }
            if Instant::now() > until {
                return Err(timed_out());
            }
            sleep(PAUSE).await;
        }
        loop {
            let next = Instant::now() + Duration::from_secs(1);
            match timeout_at(next.min(until), outcomes.next()).await {
                Ok(Some(message)) => return read_outcome(&message.payload),
                Ok(None) => return Err(timed_out()),
                Err(_) => {}
            }
            let asked = self.ask(subject::query_outcome(tenant, id), HeaderMap::new(), Vec::new());
            if let Ok((200, reply)) = asked.await {
                return read_outcome(&reply.payload);
            }
            if Instant::now() > until {
                return Err(timed_out());
            }
        }
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
        let reply = reply.map_err(|error| ClientError::TimedOut(format!("{subject}: {error}")))?;
        let status = reply.headers.as_ref().and_then(|headers| headers.get(STATUS));
        let status = status.and_then(|status| status.as_str().parse().ok());
        let unreadable = || ClientError::Unreadable(format!("{subject}: no {STATUS}"));
        Ok((status.ok_or_else(unreadable)?, reply))
    }

    fn known(&self, address: &Address) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(address).cloned().unwrap_or_default()
    }

    fn learn(&self, address: &Address, version: u64, view: Option<View>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(address) {
            // Whole views are only kept to save work, and versions of what was touched long ago say
            // nothing that the servers do not: they confirm every read.
            known.clear();
        }
        let known = known.entry(address.clone()).or_default();
        known.version = known.version.max(version);
        let newer = |view: &View| known.view.as_ref().is_none_or(|old| old.version < view.version);
        if let Some(view) = view.filter(newer) {
            known.view = Some(view);
        }
    }
}

/// A Command-Id that nobody else has.
///
/// # Panics
/// Never: a UUID is a Token.
#[must_use]
pub fn new_command_id() -> Token {
    Token::new(&Uuid::now_v7().to_string()).expect("a UUID is a Token")
}

fn body(reply: &async_nats::Message) -> Value {
    serde_json::from_slice(&reply.payload).unwrap_or_default()
}

fn read_outcome(payload: &[u8]) -> Result<Outcome, ClientError> {
    serde_json::from_slice(payload).map_err(|error| ClientError::Unreadable(error.to_string()))
}

fn read_view(reply: &async_nats::Message) -> Result<View, ClientError> {
    let unreadable = |what: &str| ClientError::Unreadable(format!("a view without {what}"));
    let body = body(reply);
    let version = body["version"].as_u64().ok_or_else(|| unreadable("version"))?;
    let etag = reply.headers.as_ref().and_then(|headers| headers.get(ETAG));
    etag.ok_or_else(|| unreadable("ETag"))?;
    Ok(View { version, body })
}
