//! What a command leaves in the security log.

use brigade_contracts::Address;
use serde_json::Value;

use super::UnitOfWork;
use crate::{
    changes::Event,
    security::{SecurityEntry, SecurityKind, value},
};

impl UnitOfWork<'_> {
    /// Adds a row to the security log. Of a command that is refused it stays only if it is kept.
    pub fn log(&mut self, kind: SecurityKind, subject: &Address, detail: Value) {
        let command = self.command;
        self.changes.security.push(SecurityEntry {
            at: self.now,
            kind,
            subject: subject.clone(),
            command: command.key(),
            actor: command.actor.clone(),
            via: command.via,
            source: command.source,
            detail,
        });
    }

    /// Adds the row that an event is worth, if it is.
    pub(super) fn log_event(&mut self, event: &Event) {
        let data = &event.payload.data;
        if let Some(kind) = SecurityKind::of(&event.kind, data) {
            self.log(kind, &event.address, value(data));
        }
    }
}
