//! A dead letter, its number, and which letters a filter matches.

use std::{fmt, num::ParseIntError, str::FromStr};

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use brigade_contracts::{
    Command, Refusal, Token,
    header::{self, MSG_ID, REQUEST_INFO},
    permissions::check_sender,
    subject,
};
use time::OffsetDateTime;

use crate::runtime::{
    dead_letter::{PAYLOAD_GONE, PAYLOAD_HASH},
    delivery::pairs,
};

/// The name of a letter: `17` in the stream, `sql-17` in the table of those that the stream did not
/// accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Number {
    Stream(u64),
    Table(u64),
}

/// A dead letter, without its payload.
#[derive(Clone, Debug)]
pub struct Letter {
    pub number: Number,
    pub worker: String,
    /// The subject that the message was first sent to.
    pub subject: String,
    pub reason: String,
    pub at: String,
    pub headers: HeaderMap,
    /// The time at which it was stored, by the clock of the server that holds it.
    pub stored_at: OffsetDateTime,
    /// The action that an operator completed: `replay` or `drop`.
    pub action: Option<String>,
    /// The status of the outcome that its command has by now.
    pub outcome: Option<i32>,
    /// Another command that was decided under its Command-Id: `<aggregate>.<id>.<verb>`.
    pub id_belongs_to: Option<String>,
}

/// Selects letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub worker: Option<String>,
    pub tenant: Option<String>,
    /// Part of the reason.
    pub reason: Option<String>,
    /// Includes the archive.
    pub all: bool,
}

impl Filter {
    pub(super) fn matches(&self, letter: &Letter) -> bool {
        let tenant = subject::tenant_of(&letter.subject);
        (self.all || letter.action.is_none())
            && self.worker.as_deref().is_none_or(|wanted| letter.worker == wanted)
            && self.tenant.as_deref().is_none_or(|wanted| tenant == Some(wanted))
            && self.reason.as_deref().is_none_or(|part| letter.reason.contains(part))
    }
}

impl Letter {
    /// Reads a letter from its headers.
    pub(super) fn new(
        number: Number,
        worker: &str,
        headers: HeaderMap,
        stored_at: OffsetDateTime,
    ) -> Self {
        let header = |name: &str| {
            headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
        };
        Self {
            number,
            worker: worker.to_owned(),
            subject: header("Origin-Subject"),
            reason: header("Dead-Reason"),
            at: header("Dead-At"),
            headers,
            stored_at,
            action: None,
            outcome: None,
            id_belongs_to: None,
        }
    }

    /// Returns why the letter has no payload, if it had one that was not kept.
    #[must_use]
    pub fn payload_gone(&self) -> Option<&str> {
        self.headers.get(PAYLOAD_GONE).map(|value| value.as_str())
    }

    /// Returns the hash of the payload, which older letters do not carry.
    pub(super) fn payload_hash(&self) -> Option<[u8; 32]> {
        let hash = hex::decode(self.headers.get(PAYLOAD_HASH)?.as_str()).ok()?;
        hash.try_into().ok()
    }

    /// Returns tenant and Command-Id of a command that can have an outcome.
    pub(super) fn command(&self) -> Option<(Token, Token)> {
        check_sender(&self.subject, self.sent_headers()).ok()?;
        let tenant = self.subject.strip_prefix("cmd.")?.split('.').next()?;
        let id = header::command_id(pairs(Some(&self.headers))).ok()?;
        Some((Token::new(tenant).ok()?, id))
    }

    /// Returns the headers without the letter's own id, and with the name that it was sent under
    /// for the one that tells the sender's account.
    fn sent_headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let sent = pairs(Some(&self.headers)).filter(|(name, _)| *name != MSG_ID);
        sent.map(|(name, value)| match name.strip_prefix("Dead-") {
            Some(REQUEST_INFO) => (REQUEST_INFO, value),
            _ => (name, value),
        })
    }

    /// Decodes the command. Its payload may be left out if only the command's identity matters and
    /// the letter carries the hash.
    ///
    /// # Errors
    /// If the command cannot have an outcome.
    pub(super) fn decode(&self, payload: &[u8]) -> Result<Command, Refusal> {
        let command = Command::decode(&self.subject, self.sent_headers(), payload)?;
        let payload_hash = self.payload_hash().unwrap_or(command.payload_hash);
        Ok(Command { payload_hash, ..command })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(number) => f.pad(&number.to_string()),
            Self::Table(number) => f.pad(&format!("sql-{number}")),
        }
    }
}

impl FromStr for Number {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sql-") {
            Some(number) => number.parse().map(Self::Table),
            None => text.parse().map(Self::Stream),
        }
    }
}

/// Returns the worker of a `dlq.<worker>.<original subject>`.
pub(super) fn worker_of(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Reads headers as they are stored in SQL: `[[name, value], …]`.
pub(super) fn headers_of(json: &str) -> Result<HeaderMap> {
    let pairs: Vec<(String, String)> = serde_json::from_str(json).context("no headers")?;
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    Ok(headers)
}
