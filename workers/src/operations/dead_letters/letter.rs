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
    /// Part of the payload, or of the value of a header.
    pub contains: Option<String>,
    /// Stored before this time.
    pub before: Option<OffsetDateTime>,
    /// Includes the archive.
    pub all: bool,
}

impl Filter {
    /// Returns whether a letter is selected. Its payload may be left out if nothing is searched.
    pub(super) fn matches(&self, letter: &Letter, payload: &[u8]) -> bool {
        let tenant = subject::tenant_of(&letter.subject);
        (self.all || letter.action.is_none())
            && self.worker.as_deref().is_none_or(|wanted| letter.worker == wanted)
            && self.tenant.as_deref().is_none_or(|wanted| tenant == Some(wanted))
            && self.reason.as_deref().is_none_or(|part| letter.reason.contains(part))
            && self.before.is_none_or(|time| letter.stored_at < time)
            && self.contains.as_deref().is_none_or(|part| {
                memmem(payload, part.as_bytes())
                    || pairs(Some(&letter.headers)).any(|(_, value)| value.contains(part))
            })
    }

    /// Returns subjects in the stream among which all letters of the worker and the tenant are.
    pub(super) fn subjects(&self) -> Vec<String> {
        let token = |text: &Option<String>| {
            text.as_deref().filter(|text| Token::new(text).is_ok()).map(str::to_owned)
        };
        let worker = token(&self.worker).unwrap_or_else(|| "*".to_owned());
        // The tenant of a timer stands behind its kind: no two of these overlap.
        match token(&self.tenant).filter(|tenant| tenant != "lock") {
            Some(tenant) => {
                [format!("*.{tenant}.>"), format!("due.lock.{tenant}.>"), "unroutable".to_owned()]
                    .map(|rest| format!("dlq.{worker}.{rest}"))
                    .to_vec()
            }
            None => vec![format!("dlq.{worker}.>")],
        }
    }
}

fn memmem(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
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

    /// Returns the name of what its letters are acted on in order: the aggregate, if it names one.
    pub(super) fn aggregate(&self) -> String {
        let ce_subject = self.headers.get(header::CE_SUBJECT).map(|value| value.as_str());
        if let Some((address, _)) = subject::parse_event(&self.subject, ce_subject) {
            return address.to_string();
        }
        let command = subject::parse_command(&self.subject);
        command.map_or_else(
            || self.subject.clone(),
            |command| format!("{}.{}.{}", command.tenant, command.aggregate, command.id),
        )
    }

    /// Returns the place at which its message stood in its stream; of the letters of an aggregate
    /// the order in which they died may be another one.
    pub(super) fn origin(&self) -> (&str, u64) {
        let header = |name| self.headers.get(name).map_or("", |value| value.as_str());
        (header("Origin-Stream"), header("Origin-Seq").parse().unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(subject: &str, headers: &[(&str, &str)]) -> Letter {
        let mut all = HeaderMap::new();
        all.insert("Origin-Subject", subject);
        for (name, value) in headers {
            all.append(*name, *value);
        }
        Letter::new(Number::Stream(1), "command-handler", all, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_text_is_found_in_the_payload_and_in_the_headers() {
        let letter = letter("cmd.t1.cart.c1.open", &[("Command-Id", "k17")]);
        let filter = |text: &str| Filter { contains: Some(text.into()), ..Filter::default() };
        assert!(filter("ada").matches(&letter, br#"{"owner":"ada"}"#));
        assert!(filter("k17").matches(&letter, b""));
        assert!(filter("").matches(&letter, b""));
        assert!(!filter("bob").matches(&letter, br#"{"owner":"ada"}"#));
        assert!(!filter("a longer text than the payload").matches(&letter, b"a"));
        let stored_later = Filter { before: Some(letter.stored_at), ..Filter::default() };
        assert!(!stored_later.matches(&letter, b""));
    }

    #[test]
    fn the_server_is_asked_for_the_letters_of_a_worker_and_a_tenant() {
        let filter = |worker: Option<&str>, tenant: Option<&str>| {
            let [worker, tenant] = [worker, tenant].map(|text| text.map(str::to_owned));
            Filter { worker, tenant, ..Filter::default() }.subjects()
        };
        assert_eq!(filter(None, None), ["dlq.*.>"]);
        assert_eq!(filter(Some("edge"), None), ["dlq.edge.>"]);
        assert_eq!(
            filter(Some("edge"), Some("t1")),
            ["dlq.edge.*.t1.>", "dlq.edge.due.lock.t1.>", "dlq.edge.unroutable"]
        );
        // What cannot be part of a subject is compared with each letter.
        assert_eq!(filter(Some("a.>"), Some("*")), ["dlq.*.>"]);
    }

    #[test]
    fn letters_of_an_aggregate_have_one_name() {
        for (subject, ce_subject, expected) in [
            ("cmd.t1.cart.c1.open", "", "t1.cart.c1"),
            ("evt.t1.cart.opened.03", "c1", "t1.cart.c1"),
            ("due.lock.t1.c1.7", "", "due.lock.t1.c1.7"),
        ] {
            let letter = letter(subject, &[("ce-subject", ce_subject)]);
            assert_eq!(letter.aggregate(), expected);
        }
        let sent =
            letter("cmd.t1.cart.c1.open", &[("Origin-Stream", "COMMANDS"), ("Origin-Seq", "7")]);
        assert_eq!(sent.origin(), ("COMMANDS", 7));
        assert_eq!(letter("", &[]).origin(), ("", 0));
    }
}
