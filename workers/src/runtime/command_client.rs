//! The client of command-handler's request door.

use std::{fmt, time::Duration};

use async_nats::{Client, HeaderMap, Request};
use brigade_contracts::{Address, Body, Era, Outcome, WorkerName, header, subject};
use uuid::Uuid;

use super::Verdict;
use crate::infra::Context;

/// Sends commands to command-handler in the name of a worker, each once: the caller repeats a
/// command that was not decided.
#[derive(Clone, Copy)]
pub struct CommandClient<'a> {
    nats: &'a Client,
    actor: WorkerName,
    era: Era,
    timeout: Duration,
}

/// The headers of a command that its worker may set.
#[derive(Debug, Default)]
pub struct CommandOptions {
    /// The Command-Id. Without one a new id is made: the outcome of an earlier command says nothing
    /// about the present.
    pub command_id: Option<String>,
    pub expected_version: Option<u64>,
}

/// The reason why a command has no outcome that its sender expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDecided {
    /// command-handler does not respond or is too busy: the command may be decided later.
    Unavailable(String),
    /// The reply is no outcome, or an outcome that no correct fleet gives to this command.
    Refused(String),
}

impl<'a> CommandClient<'a> {
    /// Returns a client whose commands wait for at most `timeout` for their outcomes.
    #[must_use]
    pub fn new(cx: &'a Context, timeout: Duration) -> Self {
        Self { nats: &cx.nats.client, actor: cx.worker, era: cx.era, timeout }
    }

    /// Sends a command and returns its outcome, whatever was decided.
    ///
    /// # Errors
    /// If nothing is decided within the timeout, command-handler is too busy, or the reply is no
    /// outcome.
    pub async fn send(
        &self,
        address: &Address,
        body: &Body,
        options: CommandOptions,
    ) -> Result<Outcome, NotDecided> {
        let (verb, payload) = body.encode();
        let request = Request::new()
            .headers(headers(self.actor, self.era, options))
            .payload(payload.into())
            .timeout(Some(self.timeout));
        match self.nats.send_request(subject::request(address, verb), request).await {
            Ok(reply) => decided(&reply.payload),
            Err(error) => Err(NotDecided::Unavailable(format!("command-handler: {error}"))),
        }
    }
}

impl NotDecided {
    /// Returns the error of an outcome that the sender does not expect.
    #[must_use]
    pub fn unexpected(outcome: &Outcome) -> Self {
        Self::Refused(format!("{} {}: {}", outcome.status, outcome.code, outcome.message))
    }

    /// The values of the label `outcome` in metrics.
    pub const LABELS: [&str; 2] = ["away", "refused"];

    /// Returns the value of the label `outcome` in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "away",
            Self::Refused(_) => "refused",
        }
    }

    /// Returns the verdict on a message whose command was not decided.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Unavailable(why) => Verdict::Away(why),
            Self::Refused(why) => Verdict::Retry(why),
        }
    }
}

impl fmt::Display for NotDecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unavailable(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

fn headers(actor: WorkerName, era: Era, options: CommandOptions) -> HeaderMap {
    let CommandOptions { command_id, expected_version } = options;
    let mut headers = HeaderMap::new();
    let command_id = command_id.unwrap_or_else(|| Uuid::now_v7().to_string());
    headers.insert(header::COMMAND_ID, command_id);
    headers.insert(header::ACTOR, actor.as_str());
    if let Some(version) = expected_version {
        headers.insert(header::EXPECTED_VERSION, era.at(version).to_string());
    }
    headers
}

fn decided(reply: &[u8]) -> Result<Outcome, NotDecided> {
    let outcome: Outcome = serde_json::from_slice(reply)
        .map_err(|error| NotDecided::Refused(format!("the reply is no outcome: {error}")))?;
    match outcome.status {
        429 | 503 => Err(NotDecided::Unavailable(format!("command-handler: {}", outcome.code))),
        _ => Ok(outcome),
    }
}

/// Returns an outcome as command-handler replies it.
#[cfg(test)]
pub fn outcome(status: u16, code: &str, retry_after_ms: Option<u64>) -> Outcome {
    decided(&reply(status, code, retry_after_ms)).expect("a status of a decision")
}

#[cfg(test)]
fn reply(status: u16, code: &str, retry_after_ms: Option<u64>) -> Vec<u8> {
    let outcome = serde_json::json!({
        "command_id": "k1", "status": status, "code": code, "message": "why", "aggregate": "cart",
        "id": "c1", "version": 7, "etag": null, "effects": [], "data": {},
        "retry_after_ms": retry_after_ms,
    });
    outcome.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Aggregate, Command, Text, cart, verb::Reason};

    use super::*;

    #[test]
    fn every_outcome_is_a_decision_but_those_of_a_busy_handler() {
        for (status, code) in [(200, "ok"), (404, "not_found"), (409, "cart_paid"), (500, "bug")] {
            let outcome = decided(&reply(status, code, None)).unwrap();
            assert_eq!((outcome.status, outcome.code.as_ref()), (status, code));
        }
        for (status, code) in [(503, "busy"), (429, "too_many")] {
            let error = decided(&reply(status, code, Some(500))).unwrap_err();
            assert_eq!(error, NotDecided::Unavailable(format!("command-handler: {code}")));
            assert_eq!(error.label(), "away");
            assert!(matches!(error.verdict(), Verdict::Away(_)));
        }
        let error = decided(b"not JSON").unwrap_err();
        assert!(matches!(error, NotDecided::Refused(_)));
        assert_eq!(error.label(), "refused");
        assert!(matches!(error.verdict(), Verdict::Retry(_)));
        let error = NotDecided::unexpected(&outcome(404, "unknown_verb", None));
        assert_eq!(error, NotDecided::Refused("404 unknown_verb: why".into()));
    }

    #[test]
    fn the_handler_reads_what_is_sent() {
        let cart = Address::new("t1", Aggregate::Cart, "c1").unwrap();
        let reason = Text::new("idle".to_owned()).unwrap();
        let body = Body::Cart(cart::Verb::Abandon(Reason { reason }));
        let sent = |options| {
            let headers = headers(WorkerName::CartLockExpiry, Era::new(9), options);
            let pairs: Vec<(String, String)> = headers
                .iter()
                .map(|(name, values)| (name.to_string(), values[0].as_str().to_owned()))
                .collect();
            let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let (verb, payload) = body.encode();
            Command::decode(&subject::request(&cart, verb), pairs, &payload).unwrap()
        };
        let (first, second) = (sent(CommandOptions::default()), sent(CommandOptions::default()));
        assert_ne!(first.command_id, second.command_id);
        assert_eq!(first.actor.as_ref().map(|actor| actor.as_str()), Some("cart-lock-expiry"));
        assert_eq!(first.request.unwrap().expected_version, None);
        let chosen = sent(CommandOptions {
            command_id: Some("verified-1".to_owned()),
            expected_version: Some(7),
        });
        assert_eq!(chosen.command_id.as_str(), "verified-1");
        let request = chosen.request.unwrap();
        assert_eq!(
            (request.address, request.expected_version),
            (cart.clone(), Some(Era::new(9).at(7)))
        );
        assert_eq!(request.body, body);
    }
}
