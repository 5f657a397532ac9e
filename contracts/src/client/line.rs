//! The line of commands that wait to be sent, and what became of them. No I/O.
//!
//! On one aggregate they are sent in the order in which they were added, each after the outcome of
//! the one before. Aggregates do not wait for each other. A refusal does not stop the later ones,
//! as if somebody had sent them by hand, unless one was added as [`Line::add_if_done`]: it is
//! skipped, never sent, when the one before it on its aggregate was refused, skipped or failed.

mod saved;

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use self::saved::{Saved, SavedLine};
use super::{Send, pauses::Pauses};
use crate::{Address, Outcome, Token, subject};

/// The reason why a command is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// As many as fit are undecided.
    #[error("the line is full")]
    Full,
    /// Commands in the line may be kept on a disk, where no password or token belongs.
    #[error("a verb that carries a secret does not wait")]
    Secret,
    /// Nobody could take what was kept of it for a command.
    #[error("a verb of another kind of aggregate than the address")]
    OtherAggregate,
    /// One of this Command-Id is in the line.
    #[error("this Command-Id is in the line")]
    Repeated,
}

/// The state of a command in the line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    /// Not decided as far as is known, sent or not.
    Pending,
    Done(Outcome),
    Refused(Outcome),
    /// Never sent: the one before it on its aggregate was not done.
    Skipped,
    /// Not sent any more, and without an outcome of its own: why.
    Failed(String),
}

/// A command in the line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct QueuedCommand {
    pub send: Send,
    /// Only to be sent if the one before it on its aggregate is done.
    pub if_done: bool,
    pub standing: CommandState,
}

impl QueuedCommand {
    fn is_pending(&self) -> bool {
        matches!(self.standing, CommandState::Pending)
    }

    fn is_lost(&self) -> bool {
        matches!(
            self.standing,
            CommandState::Refused(_) | CommandState::Skipped | CommandState::Failed(_)
        )
    }
}

/// At most `capacity` commands, oldest first. What is decided stays to be looked at until its place
/// is needed. It can be kept and read again: a program that restarts goes on under the same
/// Command-Ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "SavedLine")]
pub struct Line {
    capacity: usize,
    entries: VecDeque<QueuedCommand>,
    unreadable: Vec<Value>,
}

impl Line {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: VecDeque::new(), unreadable: Vec::new() }
    }

    #[must_use]
    pub fn entries(&self) -> &VecDeque<QueuedCommand> {
        &self.entries
    }

    /// Hands back what was kept and cannot be read as an entry, such as one of a newer program, as
    /// it was kept; of one that holds a secret, without its payload. What depends on it is skipped.
    pub fn take_unreadable(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.unreadable)
    }

    /// The entry of a Command-Id.
    #[must_use]
    pub fn get(&self, command_id: &Token) -> Option<&QueuedCommand> {
        self.entries.iter().find(|entry| entry.send.command_id == *command_id)
    }

    #[must_use]
    pub fn pending(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_pending()).count()
    }

    /// Takes a command, to be sent whatever becomes of those before it.
    ///
    /// # Errors
    /// If it is not taken.
    pub fn add(&mut self, send: Send) -> Result<(), QueueError> {
        self.take(send, false)
    }

    /// Takes a command, to be sent only if the one before it on its aggregate is done, as far as
    /// that one is still in the line.
    ///
    /// # Errors
    /// If it is not taken.
    pub fn add_if_done(&mut self, send: Send) -> Result<(), QueueError> {
        self.take(send, true)
    }

    fn take(&mut self, send: Send, if_done: bool) -> Result<(), QueueError> {
        let (verb, _) = send.body.encode();
        if subject::is_secret(send.body.aggregate().as_str(), verb) {
            return Err(QueueError::Secret);
        }
        if send.body.aggregate() != send.address.aggregate {
            return Err(QueueError::OtherAggregate);
        }
        if self.get(&send.command_id).is_some() {
            return Err(QueueError::Repeated);
        }
        // Before there is room: that may cost the very entry which this one depends on.
        let same = |entry: &&QueuedCommand| entry.send.address == send.address;
        let lost =
            if_done && self.entries.iter().rev().find(same).is_some_and(QueuedCommand::is_lost);
        if self.entries.len() >= self.capacity {
            let decided = self.entries.iter().position(|entry| !entry.is_pending());
            self.entries.remove(decided.ok_or(QueueError::Full)?);
        }
        let standing = if lost { CommandState::Skipped } else { CommandState::Pending };
        self.entries.push_back(QueuedCommand { send, if_done, standing });
        Ok(())
    }

    /// Returns the commands that may be sent now, at most so many: of each aggregate that is
    /// neither busy nor paused the first one, those that failed behind the others.
    pub(super) fn ready(
        &self,
        busy: &HashSet<Address>,
        pauses: &Pauses,
        now: Instant,
        at_most: usize,
    ) -> Vec<Send> {
        let mut met = busy.clone();
        let pending = self.entries.iter().filter(|entry| entry.is_pending());
        let sends = pending.map(|entry| &entry.send);
        let first = sends.filter(|send| met.insert(send.address.clone()));
        let mut first: Vec<_> = first.filter(|send| !pauses.rests(&send.address, now)).collect();
        first.sort_by_key(|send| pauses.failures(&send.address));
        first.into_iter().take(at_most).cloned().collect()
    }

    /// Notes the final outcome of a command.
    pub fn decide(&mut self, command_id: &Token, outcome: Outcome) {
        let done = (200..300).contains(&outcome.status);
        let standing =
            if done { CommandState::Done(outcome) } else { CommandState::Refused(outcome) };
        self.end(command_id, standing);
    }

    /// Notes that there will be no outcome of a command.
    pub(super) fn fail(&mut self, command_id: &Token, why: String) {
        self.end(command_id, CommandState::Failed(why));
    }

    fn end(&mut self, command_id: &Token, standing: CommandState) {
        let entry = self.entries.iter_mut().find(|entry| entry.send.command_id == *command_id);
        if let Some(entry) = entry.filter(|entry| entry.is_pending()) {
            entry.standing = standing;
        }
        self.skip();
    }

    fn skip(&mut self) {
        let mut lost: HashMap<Address, bool> = HashMap::new();
        for entry in &mut self.entries {
            let lost = lost.entry(entry.send.address.clone()).or_default();
            if *lost && entry.if_done && entry.is_pending() {
                entry.standing = CommandState::Skipped;
            }
            *lost = entry.is_lost();
        }
    }
}

#[cfg(test)]
mod tests;
