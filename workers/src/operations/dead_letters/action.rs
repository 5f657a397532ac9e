//! Actions on letters: what is to be done, and what has become of each.

use anyhow::{Result, bail};
use bytes::Bytes;

use super::{DeadLetters, Letter, Number, edit::EditedCommand};

/// An action on letters, as the archive records it.
#[derive(Clone, Copy)]
pub(super) struct Action<'a> {
    pub kind: Kind,
    /// Of a drop, of an edited command, or of a replay that is forced.
    pub reason: Option<&'a str>,
    pub actor: &'a str,
    /// The job that it is of.
    pub job: Option<i64>,
    /// The command that is sent in place of the letter's.
    pub edited: Option<&'a EditedCommand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Replay,
    Drop,
}

/// What has become of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionResult {
    Done,
    /// Somebody has acted on it before; says who.
    DoneBefore(String),
    Refused(Refused),
    /// It cannot be done now.
    Waits(String),
}

/// Why a letter is not acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub why: String,
    /// It may have to be sent before the later letters of its aggregate.
    pub is_gap: bool,
}

/// A letter that is acted on.
pub(super) struct Entry {
    pub letter: Letter,
    pub payload: Bytes,
    /// `None`: it is not decided yet.
    pub result: Option<ActionResult>,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop => "drop",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Replay, Self::Drop].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Returns what was done to a letter by an action that is completed.
pub(super) fn done(action: &str) -> &'static str {
    if action == "drop" { "dropped" } else { "replayed" }
}

impl Refused {
    pub(super) fn gap(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_gap: true }
    }

    pub(super) fn no_gap(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_gap: false }
    }
}

impl Entry {
    pub(super) fn new(letter: Letter, payload: Bytes) -> Self {
        Self { letter, payload, result: None }
    }

    pub(super) fn number(&self) -> Number {
        self.letter.number
    }

    pub(super) fn is_event(&self) -> bool {
        self.letter.subject.starts_with("evt.")
    }

    pub(super) fn refuse(&mut self, refused: Refused) {
        self.result = Some(ActionResult::Refused(refused));
    }
}

/// Returns the entries that are not decided yet.
pub(super) fn open(entries: &mut [Entry]) -> impl Iterator<Item = &mut Entry> {
    entries.iter_mut().filter(|entry| entry.result.is_none())
}

/// Returns the numbers of the entries that are not decided yet.
pub(super) fn open_numbers(entries: &[Entry]) -> Vec<Number> {
    entries.iter().filter(|entry| entry.result.is_none()).map(Entry::number).collect()
}

impl DeadLetters {
    /// Does an action on letters, each once, and tells in the entries what has become of them.
    ///
    /// # Errors
    /// If NATS or Postgres fails; a repetition goes on with the rest.
    pub(super) async fn act(&self, entries: &mut [Entry], action: &Action<'_>) -> Result<()> {
        match action.kind {
            Kind::Replay => self.replay_all(entries, action).await,
            Kind::Drop => self.drop_all(entries, action).await,
        }
    }

    /// Does an action on one letter.
    ///
    /// # Errors
    /// If it was not done.
    pub(super) async fn act_on_one(&self, letter: &Letter, action: &Action<'_>) -> Result<()> {
        let payload = self.payload(letter.number).await?;
        let mut entries = [Entry::new(letter.clone(), payload)];
        let acted = self.act(&mut entries, action).await;
        let removed = self.remove_completed().await;
        acted?;
        let [entry] = entries;
        match entry.result {
            Some(ActionResult::Done) => removed,
            Some(ActionResult::DoneBefore(why) | ActionResult::Waits(why)) => bail!(why),
            Some(ActionResult::Refused(refused)) => bail!(refused.why),
            None => bail!("dead letter {} was not acted on", letter.number),
        }
    }
}
