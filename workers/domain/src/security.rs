//! The security log: what a decision leaves for whoever looks for misuse, whether it was done or
//! refused. A row holds no secret; an email may stand in it, since no row is kept for long.

use std::net::IpAddr;

use brigade_contracts::{
    Address, CommandKey, Timestamp, Token, Via,
    event::{
        EventKind, PAYMENT_REFUND_REQUESTED, PAYMENT_REFUND_SETTLED, PAYMENT_REFUNDED,
        TABLE_STATUS_CHANGED,
    },
};
use serde_json::{Value, value::RawValue};

/// The kind of a row of the security log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityKind {
    /// A login with a wrong id, email or password.
    LoginFailed,
    /// A login that was refused for the failures before it.
    LoginThrottled,
    /// A refresh token that was rotated away was used, which has ended the session.
    RefreshTokenReused,
    /// A password was changed with the one before, or chosen by a token.
    PasswordChanged,
    PasswordResetRequested,
    EmailChanged,
    UserSuspended,
    UserResumed,
    UserErased,
    RolesChanged,
    /// Money is owed back.
    RefundRequested,
    /// Money went back.
    RefundDone,
    /// A person says that money which was owed has gone back by another way.
    RefundSettled,
    /// A person says what became of a payment whose result was unknown.
    PaymentSettled,
    /// A table was made available although something was unpaid.
    TableForced,
    /// An operator has changed which tenants there are.
    TenantChanged,
}

impl SecurityKind {
    pub const ALL: [Self; 16] = [
        Self::LoginFailed,
        Self::LoginThrottled,
        Self::RefreshTokenReused,
        Self::PasswordChanged,
        Self::PasswordResetRequested,
        Self::EmailChanged,
        Self::UserSuspended,
        Self::UserResumed,
        Self::UserErased,
        Self::RolesChanged,
        Self::RefundRequested,
        Self::RefundDone,
        Self::RefundSettled,
        Self::PaymentSettled,
        Self::TableForced,
        Self::TenantChanged,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginFailed => "login_failed",
            Self::LoginThrottled => "login_throttled",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::PasswordChanged => "password_changed",
            Self::PasswordResetRequested => "password_reset_requested",
            Self::EmailChanged => "email_changed",
            Self::UserSuspended => "user_suspended",
            Self::UserResumed => "user_resumed",
            Self::UserErased => "user_erased",
            Self::RolesChanged => "roles_changed",
            Self::RefundRequested => "refund_requested",
            Self::RefundDone => "refund_done",
            Self::RefundSettled => "refund_settled",
            Self::PaymentSettled => "payment_settled",
            Self::TableForced => "table_forced",
            Self::TenantChanged => "tenant_changed",
        }
    }

    /// Returns the kind that an event is of by itself, given its data as JSON.
    pub(crate) fn of(event: &EventKind, data: &RawValue) -> Option<Self> {
        if *event == PAYMENT_REFUND_REQUESTED {
            Some(Self::RefundRequested)
        } else if *event == PAYMENT_REFUNDED {
            Some(Self::RefundDone)
        } else if *event == PAYMENT_REFUND_SETTLED {
            Some(Self::RefundSettled)
        } else if *event == TABLE_STATUS_CHANGED && value(data)["forced"] == true {
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

/// Reads data that was written as JSON.
pub(crate) fn value(data: &RawValue) -> Value {
    serde_json::from_str(data.get()).expect("what is written as JSON can be read")
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
