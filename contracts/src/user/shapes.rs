//! The values of the bucket `user_state`, and the bodies of answers about users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Email, MAX_NAME, Outcome, Secret, Text, Timestamp, Token};

/// The role of a user who was given no other.
pub const ROLE_BY_DEFAULT: &str = "customer";
/// The role of those who look after the users of a restaurant, and its money.
pub const MANAGER: &str = "manager";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "UserStatus")]
pub enum Status {
    Active,
    /// Suspended by a manager: nobody logs in, and no session is left.
    Suspended,
    /// Nothing is known of the person any more. It stays so.
    Erased,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Erased => "erased",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    Registered,
    Active,
    Cancelled,
}

/// A subscription as it is kept, and as `validate` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscription {
    pub subscription_id: Token,
    pub plan: Option<Text<MAX_NAME>>,
    pub status: SubscriptionStatus,
    pub until: Option<Timestamp>,
}

/// The part `auth`: `<tenant>.<user>.auth`. Hashes and times are those of the session that was used
/// last, and null without one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    pub version: u64,
    pub at: Timestamp,
    pub user: Token,
    pub profile_id: Token,
    pub email: Email,
    pub status: Status,
    /// Lower-case hex SHA-256 of the token.
    pub access_hash: Option<String>,
    pub access_expires_at: Option<Timestamp>,
    pub refresh_hash: Option<String>,
    pub refresh_expires_at: Option<Timestamp>,
    pub last_login_at: Option<Timestamp>,
}

impl Auth {
    /// As outcomes and the query `state` tell it.
    #[must_use]
    pub fn shown(&self) -> ShownAuth {
        let Self { version, at, user, profile_id, email, status, .. } = self.clone();
        ShownAuth {
            version,
            at,
            user,
            profile_id,
            email: Some(email),
            status,
            access_expires_at: self.access_expires_at,
            refresh_expires_at: self.refresh_expires_at,
            last_login_at: self.last_login_at,
        }
    }
}

/// The part `auth` without its hashes. Outcomes, which are stored, have no email either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UserAuth")]
pub struct ShownAuth {
    pub version: u64,
    pub at: Timestamp,
    pub user: Token,
    pub profile_id: Token,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    pub status: Status,
    pub access_expires_at: Option<Timestamp>,
    pub refresh_expires_at: Option<Timestamp>,
    pub last_login_at: Option<Timestamp>,
}

/// The part `subscription`: `<tenant>.<user>.subscription`. All null where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UserSubscription")]
pub struct SubscriptionPart {
    pub version: u64,
    pub at: Timestamp,
    pub subscription_id: Option<Token>,
    pub plan: Option<Text<MAX_NAME>>,
    pub status: Option<SubscriptionStatus>,
    pub until: Option<Timestamp>,
}

impl SubscriptionPart {
    #[must_use]
    pub fn new(version: u64, at: Timestamp, subscription: Option<&Subscription>) -> Self {
        Self {
            version,
            at,
            subscription_id: subscription.map(|s| s.subscription_id.clone()),
            plan: subscription.and_then(|s| s.plan.clone()),
            status: subscription.map(|s| s.status),
            until: subscription.and_then(|s| s.until),
        }
    }

    /// The subscription itself, if there is one.
    #[must_use]
    pub fn subscription(&self) -> Option<Subscription> {
        Some(Subscription {
            subscription_id: self.subscription_id.clone()?,
            plan: self.plan.clone(),
            status: self.status?,
            until: self.until,
        })
    }
}

/// The part `roles`: `<tenant>.<user>.roles`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UserRoles")]
pub struct Roles {
    pub version: u64,
    pub at: Timestamp,
    pub roles: Vec<Token>,
}

/// The answer to `q.<tenant>.user.<id>.state`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserState {
    pub version: u64,
    pub auth: ShownAuth,
    pub subscription: SubscriptionPart,
    pub roles: Roles,
}

/// The answer to `q.<tenant>.user.<id>.validate` for the token of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Valid {
    pub user: Token,
    pub profile_id: Token,
    pub roles: Vec<Token>,
    pub subscription: Option<Subscription>,
    /// The expiry of the access token.
    pub expires_at: Timestamp,
    /// The session of the access token, as `end_session` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Token>,
}

/// The tokens that `login` and `refresh` give to their sender, and to nobody else.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Tokens {
    pub access_token: Secret,
    pub refresh_token: Secret,
    /// The expiry of the access token.
    pub expires_at: Timestamp,
    pub refresh_expires_at: Timestamp,
}

impl Tokens {
    /// The answer to the sender, see [`Outcome::telling`].
    #[must_use]
    pub fn answer(&self, outcome: &Outcome) -> String {
        outcome.telling([
            ("access_token", json!(self.access_token.expose())),
            ("refresh_token", json!(self.refresh_token.expose())),
            ("expires_at", json!(self.expires_at)),
            ("refresh_expires_at", json!(self.refresh_expires_at)),
        ])
    }
}
