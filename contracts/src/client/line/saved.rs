//! The saved form of a line.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CommandState, Line, QueuedCommand};
use crate::{
    Address, Aggregate, Body, EraVersion, Refusal, Timestamp, Token,
    client::Send,
    subject::{self, RawCommandSubject},
};

/// A line as it was kept. One entry that cannot be read does not cost the others.
#[derive(Deserialize)]
pub(super) struct SavedLine {
    capacity: usize,
    entries: Vec<Value>,
    #[serde(default)]
    unreadable: Vec<Value>,
}

impl From<SavedLine> for Line {
    fn from(SavedLine { capacity, entries, unreadable }: SavedLine) -> Self {
        let mut line = Self { unreadable, ..Self::new(capacity) };
        // Of each aggregate: whether the entry before cannot be read, and was not done.
        let mut lost: HashMap<String, bool> = HashMap::new();
        for mut kept in entries {
            let raw = kept["subject"].as_str().and_then(subject::parse_command);
            let lost = lost.entry(raw.map(aggregate_of).unwrap_or_default()).or_default();
            match QueuedCommand::deserialize(&kept) {
                Ok(mut entry) => {
                    if *lost && entry.if_done && entry.is_pending() {
                        entry.standing = CommandState::Skipped;
                    }
                    *lost = entry.is_lost();
                    line.entries.push_back(entry);
                }
                Err(_) => {
                    *lost = kept["standing"].get("done").is_none();
                    if raw.is_some_and(|raw| subject::carries_secret(&raw)) {
                        kept["payload"] = Value::Null;
                    }
                    line.unreadable.push(kept);
                }
            }
        }
        line
    }
}

fn aggregate_of(raw: RawCommandSubject<'_>) -> String {
    format!("{}.{}.{}", raw.tenant, raw.aggregate, raw.id)
}

/// An entry as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    /// With the door, as it is sent.
    subject: String,
    payload: Value,
    command_id: Token,
    deadline: Option<Timestamp>,
    expected_version: Option<EraVersion>,
    actor: Option<Token>,
    traceparent: Option<String>,
    if_done: bool,
    standing: CommandState,
}

impl From<QueuedCommand> for Saved {
    fn from(QueuedCommand { send, if_done, standing }: QueuedCommand) -> Self {
        let (subject, payload) = send.encode();
        Self {
            subject,
            payload: serde_json::from_slice(&payload).unwrap_or_default(),
            command_id: send.command_id,
            deadline: send.deadline,
            expected_version: send.expected_version,
            actor: send.actor,
            traceparent: send.traceparent,
            if_done,
            standing,
        }
    }
}

impl TryFrom<Saved> for QueuedCommand {
    type Error = Refusal;

    fn try_from(saved: Saved) -> Result<Self, Refusal> {
        let refused = || Refusal::new(400, "bad_subject", "not a command that may wait");
        let raw = subject::parse_command(&saved.subject).ok_or_else(refused)?;
        if subject::carries_secret(&raw) {
            return Err(refused());
        }
        let aggregate = Aggregate::parse(raw.aggregate).ok_or_else(refused)?;
        let payload = serde_json::to_vec(&saved.payload).map_err(|_| refused())?;
        let send = Send {
            address: Address::new(raw.tenant, aggregate, raw.id)?,
            body: Body::decode(aggregate, raw.verb, &payload)?,
            command_id: saved.command_id,
            door: raw.door,
            deadline: saved.deadline,
            expected_version: saved.expected_version,
            actor: saved.actor,
            traceparent: saved.traceparent,
        };
        Ok(Self { send, if_done: saved.if_done, standing: saved.standing })
    }
}
