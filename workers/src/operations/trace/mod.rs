//! The way of a command: `brigade trace`. It is put together from what is kept anyway: the inbox,
//! events and outbox in SQL, the streams, KV and the dead letters. What nobody keeps is said to be
//! unknown.

mod dead;
mod decided;
mod projected;
mod stored;

use std::str::FromStr;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use brigade_contracts::{Aggregate, Timestamp, Token};
use serde::Serialize;
use sqlx::PgPool;

use super::OperatorServers;
use crate::infra::{nats::OperatorConnection, postgres::operator_pool};

/// Commands of an aggregate that are traced, the newest.
const MAX_COMMANDS: i64 = 20;

/// What is traced: the commands of an id, or the newest ones of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    Command(String),
    Aggregate(Aggregate, Token),
}

impl FromStr for Traced {
    type Err = String;

    /// An aggregate is `<kind>.<id>`; everything else is a Command-Id.
    fn from_str(text: &str) -> Result<Self, String> {
        let of_aggregate = text.split_once('.').and_then(|(kind, id)| {
            Some(Self::Aggregate(Aggregate::parse(kind)?, Token::new(id).ok()?))
        });
        let is_id = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match of_aggregate {
            Some(traced) => Ok(traced),
            None if !text.is_empty() && text.chars().all(is_id) => {
                Ok(Self::Command(text.to_owned()))
            }
            None => Err("expected a Command-Id, or an aggregate such as cart.c1".to_owned()),
        }
    }
}

/// A station of a command's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Station {
    Received,
    Decided,
    Committed,
    Relayed,
    Projected,
    Dead,
}

impl Station {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Decided => "decided",
            Self::Committed => "committed",
            Self::Relayed => "relayed",
            Self::Projected => "projected",
            Self::Dead => "dead",
        }
    }
}

/// Whether a command has been at a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    Yes,
    NotYet,
    /// Nobody keeps it, or not for so long.
    Unknown,
}

/// A step of a command's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub station: Station,
    pub passed: Passed,
    /// By the clock of the server that holds it.
    pub at: Option<Timestamp>,
    /// Who did it, as far as that is kept.
    pub who: Option<String>,
    pub what: String,
}

impl Step {
    fn new(station: Station, passed: Passed, what: impl Into<String>) -> Self {
        Self { station, passed, at: None, who: None, what: what.into() }
    }

    fn unknown(station: Station, why: impl Into<String>) -> Self {
        Self::new(station, Passed::Unknown, why)
    }

    fn at(self, at: impl Into<Timestamp>) -> Self {
        Self { at: Some(at.into()), ..self }
    }

    fn by(self, who: Option<String>) -> Self {
        Self { who, ..self }
    }
}

/// The way of one command.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub tenant: String,
    pub command_id: String,
    pub steps: Vec<Step>,
}

/// Where the traces are looked for.
pub struct Tracer {
    js: jetstream::Context,
    postgres: PgPool,
}

impl Tracer {
    /// # Errors
    /// If a server cannot be reached.
    pub async fn open(servers: &OperatorServers) -> Result<Self> {
        let nats = OperatorConnection::open(&servers.nats_url, &servers.nats, "trace").await?;
        let postgres = operator_pool(&servers.database_url).await?;
        Ok(Self { js: nats.jetstream, postgres })
    }

    /// Traces commands, oldest first; of one tenant alone if it is named.
    ///
    /// # Errors
    /// If a server does not answer, or nothing is known of what is asked for.
    pub async fn trace(&self, traced: &Traced, tenant: Option<&str>) -> Result<Vec<Trace>> {
        let commands = match traced {
            Traced::Command(id) => self.outcomes_of_id(id, tenant).await?,
            Traced::Aggregate(kind, id) => self.outcomes_of_aggregate(*kind, id, tenant).await?,
        };
        let mut traces = Vec::new();
        for command in commands {
            let steps = self.of_decided(&command).await?;
            traces.push(Trace { tenant: command.tenant, command_id: command.command_id, steps });
        }
        let known: Vec<_> =
            traces.iter().map(|t| (t.tenant.clone(), t.command_id.clone())).collect();
        traces.extend(self.undecided(traced, tenant, &known).await?);
        ensure!(
            !traces.is_empty(),
            "nothing is known of it: outcomes are kept for 30 days, commands that nobody decided \
             for 3; over HTTP the id is <user>.<Idempotency-Key>"
        );
        Ok(traces)
    }

    /// Puts together the way of a command that was decided.
    async fn of_decided(&self, outcome: &decided::StoredOutcome) -> Result<Vec<Step>> {
        let mut steps = vec![self.received(outcome).await?];
        steps.push(outcome.step());
        let events = self.events_of(outcome).await?;
        steps.push(self.committed(outcome).await?);
        for event in &events {
            steps.push(self.relayed(outcome, event).await?);
            steps.extend(self.projected(outcome, event).await?);
        }
        steps.extend(self.dead(&outcome.tenant, &outcome.command_id).await?);
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_told_from_a_command() {
        let cart = Traced::Aggregate(Aggregate::Cart, Token::new("c1").unwrap());
        assert_eq!("cart.c1".parse(), Ok(cart));
        for id in ["k1", "ada.k1", "ada..k1", "0190-x_y"] {
            assert_eq!(id.parse(), Ok(Traced::Command(id.to_owned())));
        }
        for odd in ["", "a b", "é", "a/b", "cart.>"] {
            assert!(odd.parse::<Traced>().is_err(), "{odd}");
        }
    }
}
