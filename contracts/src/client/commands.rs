//! Commands through either door, repeated until they are decided.

use std::time::Duration;

use async_nats::{HeaderMap, Subscriber, jetstream::context::PublishErrorKind};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{Client, ClientError, PAUSE, body};
use crate::{
    Address, Body, Door, EraVersion, Outcome, Timestamp, Token,
    header::{ACTOR, COMMAND_ID, DEADLINE, EXPECTED_VERSION, TRACEPARENT},
    subject,
};

/// The time between two queries for an outcome that is awaited.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A command to be sent.
#[derive(Clone, Debug)]
pub struct Send {
    pub address: Address,
    pub body: Body,
    /// The idempotency key; the same for every repetition.
    pub command_id: Token,
    pub door: Door,
    pub deadline: Option<Timestamp>,
    pub expected_version: Option<EraVersion>,
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
    /// Command-Id as long as it is not decided, on the durable door until it is stored.
    ///
    /// # Errors
    /// [`ClientError::TimedOut`] when patience is over: whether it was decided is not known;
    /// [`ClientError::Undecided`] where it is known to be stored;
    /// [`ClientError::CommandIdReused`], [`ClientError::TooLarge`].
    pub async fn send(&self, send: &Send) -> Result<Outcome, ClientError> {
        self.send_until(send, Instant::now() + self.patience).await
    }

    /// Waits for the outcome of a command that is stored, without sending it.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn outcome(&self, send: &Send) -> Result<Outcome, ClientError> {
        self.outcome_until(send, Instant::now() + self.patience).await
    }

    pub(super) async fn send_until(
        &self,
        send: &Send,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let outcome = match send.door {
            Door::Request => self.request_until_decided(send, until).await,
            Door::Durable => self.publish_and_wait(send, until).await,
        }?;
        self.learn(&send.address, outcome.era_version().unwrap_or_default(), None);
        Ok(outcome)
    }

    pub(super) async fn outcome_until(
        &self,
        send: &Send,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let outcomes = self.outcomes(send).await.map_err(ClientError::Undecided)?;
        let outcome = self.wait(send, outcomes, Instant::now(), until).await?;
        self.learn(&send.address, outcome.era_version().unwrap_or_default(), None);
        Ok(outcome)
    }

    async fn request_until_decided(
        &self,
        send: &Send,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let (subject, payload) = send.encode();
        loop {
            let answer = self.ask(subject.clone(), send.headers(), payload.clone()).await;
            let told = match answer {
                Ok((503, reply)) => body(&reply),
                // No outcome: its tenant sends more than is taken.
                Ok((429, reply)) if body(&reply)["code"] == "too_many" => body(&reply),
                Ok((_, reply)) => return read_outcome(send, &reply.payload),
                Err(ClientError::TimedOut(_)) => Value::Null,
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            if now >= until {
                return Err(ClientError::TimedOut(subject));
            }
            sleep(pause(&told, until - now)).await;
        }
    }

    /// Listens first, then publishes until it is stored, then waits.
    async fn publish_and_wait(&self, send: &Send, until: Instant) -> Result<Outcome, ClientError> {
        let outcomes = self.outcomes(send).await.map_err(ClientError::TimedOut)?;
        self.publish(send, until).await?;
        self.wait(send, outcomes, Instant::now() + ASK_EVERY, until).await
    }

    async fn outcomes(&self, send: &Send) -> Result<Subscriber, String> {
        let subject = subject::outcome(&send.address.tenant, &send.command_id);
        self.nats.subscribe(subject).await.map_err(|error| error.to_string())
    }

    async fn publish(&self, send: &Send, until: Instant) -> Result<(), ClientError> {
        let (subject, payload) = send.encode();
        loop {
            let stored = async {
                let (js, payload) = (&self.jetstream, payload.clone().into());
                js.publish_with_headers(subject.clone(), send.headers(), payload).await?.await
            };
            match stored.await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(ClientError::TooLarge(error.to_string()));
                }
                Err(_) if Instant::now() > until => return Err(ClientError::TimedOut(subject)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Asks for the outcome now and then, in case it was published while this client was not
    /// connected. Never publishes the command again: of a dead letter that would only make another.
    async fn wait(
        &self,
        send: &Send,
        mut outcomes: Subscriber,
        mut ask_at: Instant,
        until: Instant,
    ) -> Result<Outcome, ClientError> {
        let query = subject::query_outcome(&send.address.tenant, &send.command_id);
        loop {
            match timeout_at(ask_at.min(until), outcomes.next()).await {
                Ok(Some(message)) => return read_outcome(send, &message.payload),
                Ok(None) => return Err(ClientError::Undecided(query)),
                Err(_) => {}
            }
            let asked = self.ask(query.clone(), HeaderMap::new(), Vec::new());
            if let Ok((200, reply)) = asked.await {
                return read_outcome(send, &reply.payload);
            }
            if Instant::now() > until {
                return Err(ClientError::Undecided(query));
            }
            ask_at = Instant::now() + ASK_EVERY;
        }
    }
}

/// Returns the pause after a response that is not final: what it asks for, within the time left.
pub(super) fn pause(told: &Value, left: Duration) -> Duration {
    let told = told["retry_after_ms"].as_u64().map(Duration::from_millis);
    told.unwrap_or(PAUSE).max(PAUSE).min(left)
}

/// A Command-Id that nobody else has.
///
/// # Panics
/// Never: a UUID is a Token.
#[must_use]
pub fn new_command_id() -> Token {
    Token::new(&Uuid::now_v7().to_string()).expect("a UUID is a Token")
}

/// Refuses what is the outcome of another command under the same Command-Id.
fn read_outcome(send: &Send, payload: &[u8]) -> Result<Outcome, ClientError> {
    let outcome: Outcome = serde_json::from_slice(payload)
        .map_err(|error| ClientError::Unreadable(error.to_string()))?;
    let Address { aggregate, id, .. } = &send.address;
    if (outcome.aggregate.as_str(), outcome.id.as_str()) != (aggregate.as_str(), id.as_str()) {
        let other = format!("{}.{}", outcome.aggregate, outcome.id);
        return Err(ClientError::CommandIdReused(other));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pause_is_what_the_answer_says_and_never_longer_than_patience() {
        let millis = Duration::from_millis;
        for (told, left, expected) in [
            (json!({"retry_after_ms": 500}), 2000, millis(500)),
            (json!({"retry_after_ms": 500}), 300, millis(300)),
            (json!({"retry_after_ms": u64::MAX}), 300, millis(300)),
            (json!({"retry_after_ms": 0}), 2000, PAUSE),
            (json!({"retry_after_ms": null}), 2000, PAUSE),
            (Value::Null, 2000, PAUSE),
        ] {
            assert_eq!(pause(&told, millis(left)), expected, "{told}");
        }
    }
}
