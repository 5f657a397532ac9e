//! The security log: what a decision leaves for whoever looks for misuse, whether it was done or
//! refused. A row holds no secret; an email may stand in it, since no row is kept for long.

use std::net::IpAddr;

use brigade_contracts::{
    Address, CommandKey, Timestamp, Token, Via,
    event::{PAYMENT_REFUND_REQUESTED, PAYMENT_REFUNDED, TABLE_STATUS_CHANGED},
};
use serde_json::Value;

use crate::{changes::Event, unit_of_work::UnitOfWork};

/// What the security log knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityKind {
    /// A login with a wrong id, email or password.
    LoginFailed,
    /// A login that was refused for the failures before it.
    LoginThrottled,
    /// A refresh token that was rotated away was used, which has ended the session.
    RefreshTokenReused,
    RolesChanged,
    /// Money is owed back.
    RefundRequested,
    /// Money went back.
    RefundDone,
    /// A table was made available although something was unpaid.
    TableForced,
    /// An operator has changed which tenants there are.
    TenantChanged,
}

impl SecurityKind {
    pub const ALL: [Self; 8] = [
        Self::LoginFailed,
        Self::LoginThrottled,
        Self::RefreshTokenReused,
        Self::RolesChanged,
        Self::RefundRequested,
        Self::RefundDone,
        Self::TableForced,
        Self::TenantChanged,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginFailed => "login_failed",
            Self::LoginThrottled => "login_throttled",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::RolesChanged => "roles_changed",
            Self::RefundRequested => "refund_requested",
            Self::RefundDone => "refund_done",
            Self::TableForced => "table_forced",
            Self::TenantChanged => "tenant_changed",
        }
    }

    /// Returns the kind that an event is of, by itself.
    fn of(event: &Event) -> Option<Self> {
        if event.kind == PAYMENT_REFUND_REQUESTED {
            Some(Self::RefundRequested)
        } else if event.kind == PAYMENT_REFUNDED {
            Some(Self::RefundDone)
        } else if event.kind == TABLE_STATUS_CHANGED && data(event)["forced"] == true {
            Some(Self::TableForced)
        } else {
            None
        }
    }
}

/// A row of the security log.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityEntry {
    pub at: Timestamp,
    pub kind: SecurityKind,
    /// Whom or what it is about.
    pub subject: Address,
    pub command: CommandKey,
    pub actor: Option<Token>,
    pub via: Via,
    /// The sender's address, if it is known.
    pub source: Option<IpAddr>,
    pub detail: Value,
}

fn data(event: &Event) -> Value {
    serde_json::from_str(event.payload.data.get()).unwrap_or_default()
}

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
    pub fn log_event(&mut self, event: &Event) {
        if let Some(kind) = SecurityKind::of(event) {
            self.log(kind, &event.address, data(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_stands_in_the_reference() {
        let reference = include_str!("../../../docs/reference/operations.md");
        for kind in SecurityKind::ALL {
            let row = format!("\n| `{}` |", kind.as_str());
            assert!(reference.contains(&row), "{} is missing", kind.as_str());
        }
    }
}
