//! Commands through either door, repeated until they are decided.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{Client, ClientError, PAUSE};
use crate::{
    Address, Body, Door, Outcome, Timestamp, Token,
    header::{ACTOR, COMMAND_ID, DEADLINE, EXPECTED_VERSION, TRACEPARENT},
    subject,
};

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

    /// Its subject and its payload.
    pub(super) fn encode(&self) -> (String, Vec<u8>) {
        let (verb, payload) = self.body.encode();
        let verb = Token::new(verb).expect("a verb is a Token");
        (subject::command(self.door, &self.address, &verb), payload)
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

impl Client {
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

    async fn request_until_decided(
        &self,
        send: &Send,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let (subject, payload) = send.encode();
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
        let (subject, payload) = send.encode();
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
}

/// A Command-Id that nobody else has.
///
/// # Panics
/// Never: a UUID is a Token.
#[must_use]
pub fn new_command_id() -> Token {
    Token::new(&Uuid::now_v7().to_string()).expect("a UUID is a Token")
}

fn read_outcome(payload: &[u8]) -> Result<Outcome, ClientError> {
    serde_json::from_slice(payload).map_err(|error| ClientError::Unreadable(error.to_string()))
}
