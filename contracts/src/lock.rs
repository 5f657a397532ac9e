//! The lock of an owner over all its carts: how KV mirrors it and how queries tell of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, Token, payment::Method};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockState {
    Held,
    Released,
}

impl LockState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
        }
    }
}

/// A value of the bucket `cart_locks`: `<tenant>.<owner>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The version of the lock row, +1 with each change.
    pub version: u64,
    pub at: Timestamp,
    pub state: LockState,
    pub cart: Token,
    /// The fencing number; no credential.
    pub token: i64,
    pub method: Method,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
    /// The reason of the release.
    pub reason: Option<String>,
}

/// The answer to `q.<tenant>.lock.<owner>` while the lock is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    pub cart: Token,
    pub method: Method,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
}

/// The payload of a lock's timer, and so of `due.lock.<tenant>.<cart>.<token>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    pub owner: Token,
}

/// An action on a lock.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LockAction")]
pub enum Action {
    Acquired,
    Bound,
    Extended,
    Released,
    Expired,
    /// A `lock` or an `initiate` was refused.
    Refused,
}

impl Action {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Bound => "bound",
            Self::Extended => "extended",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// An entry of the history of an owner's locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LockEntry")]
pub struct HistoryEntry {
    pub cart_id: Token,
    /// The token of the lock. Of a refusal, that of the lock it met, if there was one.
    pub token: Option<i64>,
    pub action: Action,
    pub method: Option<Method>,
    pub reason: Option<String>,
    pub actor: Option<Token>,
    pub at: Timestamp,
}

/// The answer to `q.<tenant>.lock_history.<owner>`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    pub entries: Vec<HistoryEntry>,
    /// Goes into the next query's `Before`; null: there are no older ones.
    pub before: Option<String>,
}
