//! The list of a user's sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MAX_NAME, Text, Timestamp, Token};

/// Most sessions of a user. With one more, the one that was unused for longest ends.
pub const MAX_SESSIONS: usize = 16;

/// The answer to `q.<tenant>.user.<id>.sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sessions {
    pub user: Token,
    /// The sessions that can be refreshed, the one that was used last first.
    pub sessions: Vec<ShownSession>,
}

/// A session without its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct ShownSession {
    /// The name that `end_session` takes.
    pub session: Token,
    /// As the login named it.
    pub name: Option<Text<MAX_NAME>>,
    pub began_at: Timestamp,
    /// The last login or refresh.
    pub used_at: Timestamp,
    /// It ends at this time, unless it is refreshed before.
    pub expires_at: Timestamp,
}
