//! Edited letters: the command is sent as it should have been, under a new Command-Id.
//!
//! The letter's own Command-Id gets the outcome `500 dropped` in the transaction that claims the
//! letter, so its sender, who may repeat it at any time, is told, and it is never decided besides.

use std::collections::HashSet;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use async_nats::HeaderMap;
use brigade_contracts::{
    Command, Refusal, Token,
    header::COMMAND_ID,
    subject::{is_secret, parse_command, tenant_of},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{
    DeadLetters, Letter, Number,
    action::{Action, Entry, Kind, Refused, open},
    checks::Checked,
    drop::store_dropped,
    send::original_headers,
};
use crate::runtime::{
    dead_letter::{RAW_SUBJECT, headers_as_json},
    delivery::pairs,
};

/// What an operator changes of a command; all else stays as it was sent.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    pub subject: Option<String>,
    /// Headers with their new values; `None`: left out.
    pub headers: Vec<(String, Option<String>)>,
    pub payload: Option<Bytes>,
    /// By default one is made of the letter's own and of the content.
    pub command_id: Option<Token>,
}

/// A command as an operator has edited it.
#[derive(Clone, Debug)]
pub struct EditedCommand {
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
    pub command_id: Token,
}

impl EditedCommand {
    /// # Errors
    /// If that is no command, or not one that the letter may become.
    pub fn new(letter: &Letter, payload: &Bytes, edit: Edit) -> Result<Self> {
        ensure!(
            !letter.subject.starts_with("evt."),
            "an event is what SQL has committed: `replay` publishes it as it stands there"
        );
        let is_raw = letter.headers.get(RAW_SUBJECT).is_some();
        let subject = match edit.subject {
            Some(subject) => subject,
            None if is_raw => bail!("its subject is no text: give one"),
            None => letter.subject.clone(),
        };
        ensure!(subject.starts_with("cmd."), "{subject} is no command's: cmd.…");
        let own = tenant_of(&letter.subject).filter(|own| !is_raw && Token::new(own).is_ok());
        ensure!(
            own.is_none_or(|own| tenant_of(&subject) == Some(own)),
            "it stays with its tenant, {}",
            own.unwrap_or_default()
        );
        ensure!(
            edit.payload.is_some() || letter.payload_gone().is_none(),
            "its payload was not kept: give one"
        );
        let payload = edit.payload.unwrap_or_else(|| payload.clone());
        let mut headers = original_headers(&letter.headers);
        for (name, value) in edit.headers {
            ensure!(
                !name.eq_ignore_ascii_case(COMMAND_ID),
                "it gets another Command-Id by itself, or by --command-id"
            );
            headers = without(&headers, &name);
            if let Some(value) = value {
                let value = value.parse::<async_nats::HeaderValue>();
                headers.insert(name.as_str(), value.context("the value of a header")?);
            }
        }
        let former = letter.headers.get(COMMAND_ID).map(|id| id.as_str().to_owned());
        headers = without(&headers, COMMAND_ID);
        let command_id = match edit.command_id {
            Some(id) => id,
            None => derived_id(letter, &subject, &headers, &payload)?,
        };
        ensure!(former.as_deref() != Some(command_id.as_str()), "it needs a new Command-Id");
        headers.insert(COMMAND_ID, command_id.as_str());
        let edited = Self { subject, headers, payload, command_id };
        edited.check()?;
        Ok(edited)
    }

    /// Returns an error if it could not be decided.
    fn check(&self) -> Result<()> {
        let Self { subject, headers, payload, .. } = self;
        let says = |refusal: Refusal| anyhow!("{}: {}", refusal.code, refusal.message);
        let command = Command::decode(subject, pairs(Some(headers)), payload).map_err(says)?;
        command.request.map_err(says)?;
        let raw = parse_command(subject).context("no command's subject")?;
        ensure!(!is_secret(raw.aggregate, raw.verb), "no stream stores a secret: {}", raw.verb);
        Ok(())
    }
}

/// Returns a Command-Id that is the same for the same content, so that an edited command that was
/// interrupted is sent again under the same one.
fn derived_id(
    letter: &Letter,
    subject: &str,
    headers: &HeaderMap,
    payload: &[u8],
) -> Result<Token> {
    let mut hash = Sha256::new();
    for part in [subject.as_bytes(), headers_as_json(headers).as_bytes(), payload] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let hash = hex::encode(hash.finalize());
    let former = letter.headers.get(COMMAND_ID).map(|id| id.as_str());
    let stem = former.filter(|id| Token::new(id).is_ok()).map_or_else(
        || format!("letter-{}", letter.number),
        |id| id.chars().take(Token::MAX_LEN - 10).collect(),
    );
    Token::new(&format!("{stem}-e{}", &hash[..8])).map_err(|refusal| anyhow!(refusal.message))
}

fn without(headers: &HeaderMap, name: &str) -> HeaderMap {
    let mut rest = HeaderMap::new();
    for (other, value) in
        pairs(Some(headers)).filter(|(other, _)| !other.eq_ignore_ascii_case(name))
    {
        rest.append(other, value);
    }
    rest
}

impl DeadLetters {
    /// Sends a command as an operator has edited it, under its new Command-Id. An interrupted one
    /// is finished by the same edit.
    ///
    /// # Errors
    /// If the letter was replayed or dropped before, or its command may have been decided.
    pub async fn send_edited(
        &self,
        letter: &Letter,
        edited: &EditedCommand,
        why: &str,
        actor: &str,
    ) -> Result<()> {
        self.check_edited(letter).await?;
        let (kind, edited, reason) = (Kind::Replay, Some(edited), Some(why));
        self.act_on_one(letter, &Action { kind, reason, actor, job: None, edited }).await
    }

    /// Checks whether an edited command may take a letter's place, and changes nothing.
    ///
    /// # Errors
    /// If it may not.
    pub async fn check_edited(&self, letter: &Letter) -> Result<()> {
        if letter.decode(b"").is_err_and(|refusal| refusal.code == "wrong_tenant") {
            bail!("it was sent from another tenant's account: it is never sent again, drop it");
        }
        let Checked { decided, .. } = self.check_one(letter).await?;
        // The outcome may be the one that an interrupted edit has stored: the claim tells.
        match decided.filter(|_| letter.outcome != Some(500)) {
            Some(refused) if letter.action.is_none() => bail!(refused.why),
            _ => Ok(()),
        }
    }

    /// Stores the outcomes of the commands that are replaced.
    pub(super) async fn give_up_originals(
        &self,
        tx: &mut PgConnection,
        entries: &mut [Entry],
        new: &HashSet<Number>,
        edited: &EditedCommand,
    ) -> Result<()> {
        let id = &edited.command_id;
        let message = format!("an operator has edited it and sent it as {id}");
        for entry in open(entries).filter(|entry| new.contains(&entry.number())) {
            let Ok(command) = entry.letter.decode(&entry.payload) else { continue };
            let is_used = sqlx::query_scalar!(
                r#"select exists (select from brigade.command_inbox
                                  where tenant = $1 and command_id = $2) as "used!""#,
                command.tenant.as_str(),
                id.as_str(),
            );
            if is_used.fetch_one(&mut *tx).await? {
                entry.refuse(Refused::gap(format!("the Command-Id {id} is used already")));
            } else if entry.letter.id_belongs_to.is_none() {
                let commands = [(entry.letter.subject.clone(), command)];
                if store_dropped(tx, &commands, &message).await? == 0 {
                    let why = "its Command-Id has an outcome by now: drop it";
                    entry.refuse(Refused::no_gap(why));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    const JOIN: &str = r#"{"user":"bob"}"#;

    fn letter(headers: &[(&str, &str)]) -> Letter {
        let mut all = HeaderMap::new();
        all.insert("Origin-Subject", "cmd.t1.cart.c1.join");
        all.insert("Dead-Reason", "why");
        for (name, value) in headers {
            all.append(*name, *value);
        }
        Letter::new(Number::Stream(7), "command-handler", all, OffsetDateTime::UNIX_EPOCH)
    }

    fn edited(letter: &Letter, edit: Edit) -> Result<EditedCommand> {
        EditedCommand::new(letter, &Bytes::from_static(b"{}"), edit)
    }

    fn payload(text: &'static str) -> Edit {
        Edit { payload: Some(Bytes::from_static(text.as_bytes())), ..Edit::default() }
    }

    #[test]
    fn an_edited_command_has_a_new_id_that_its_content_makes() {
        let letter = letter(&[("Command-Id", "k1"), ("Actor", "ada"), ("Actor", "bob")]);
        let repaired = |text| Edit {
            headers: vec![("Actor".to_owned(), Some("ada".to_owned()))],
            ..payload(text)
        };
        let first = edited(&letter, repaired(JOIN)).unwrap();
        let again = edited(&letter, repaired(JOIN)).unwrap();
        let other = edited(&letter, repaired(r#"{"user":"eve"}"#)).unwrap();
        assert_eq!(first.command_id, again.command_id);
        assert_ne!(first.command_id, other.command_id);
        assert!(first.command_id.as_str().starts_with("k1-e"), "{}", first.command_id);
        let sent: Vec<_> = pairs(Some(&first.headers)).collect();
        assert!(sent.contains(&("Actor", "ada")) && !sent.contains(&("Actor", "bob")), "{sent:?}");
        assert!(sent.iter().all(|(name, _)| *name != "Dead-Reason"), "{sent:?}");
        // The letter of a command without an id gives it one.
        let edited = edited(&self::letter(&[]), payload(JOIN)).unwrap();
        assert!(edited.command_id.as_str().starts_with("letter-7-e"), "{}", edited.command_id);
    }

    #[test]
    fn what_could_not_be_decided_is_not_sent() {
        let letter = letter(&[("Command-Id", "k1")]);
        let subject = |subject: &str| Edit { subject: Some(subject.to_owned()), ..payload(JOIN) };
        let id = |id: &str| Edit { command_id: Some(Token::new(id).unwrap()), ..payload(JOIN) };
        for (edit, expected) in [
            (Edit::default(), "user"),
            (payload("{"), "malformed"),
            (subject("cmd.t2.cart.c1.join"), "stays with its tenant"),
            (subject("cmd.t1.cart.c1.dance"), "unknown_verb"),
            (subject("evt.t1.cart.c1.join"), "is no command's"),
            (id("k1"), "needs a new Command-Id"),
        ] {
            let refused = edited(&letter, edit.clone()).unwrap_err().to_string();
            assert!(refused.contains(expected), "{edit:?}: {refused}");
        }
        assert!(edited(&letter, subject("cmd.t1.cart.c2.join")).is_ok());
        let gone = self::letter(&[("Command-Id", "k1"), ("Dead-Payload", "17 bytes")]);
        let refused = edited(&gone, Edit::default()).unwrap_err().to_string();
        assert!(refused.contains("was not kept"), "{refused}");
        assert!(edited(&gone, payload(JOIN)).is_ok());
    }
}
