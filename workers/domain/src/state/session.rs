use brigade_contracts::{MAX_NAME, Secret, Text, Timestamp, Token, user::ShownSession};
use serde::{Deserialize, Serialize};

/// Characters of a session's hash that name it: so many that no two of a user are the same, and too
/// few to be the hash.
const NAME_LEN: usize = 16;

/// A session as SQL keeps it. The hashes are lower-case hex SHA-256.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The hash of what all its refresh tokens have in common.
    pub hash: String,
    /// As its login named it.
    pub name: Option<Text<MAX_NAME>>,
    pub began_at: Timestamp,
    /// The Command-Id of the login that began it; `None` if a release before has begun it.
    pub begun_by: Option<Token>,
    /// The time of the last login or refresh.
    pub used_at: Timestamp,
    pub refresh_expires_at: Timestamp,
    /// The tokens that were issued last.
    #[serde(flatten)]
    pub issued: Issued,
    /// The tokens of the refreshes that raced the last one, which are as good.
    pub raced: Vec<Issued>,
    pub rotated: Option<Rotated>,
}

/// An access token and a refresh token that were issued together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    pub access_hash: String,
    pub access_expires_at: Timestamp,
    pub refresh_hash: String,
    /// The Command-Id of the `refresh`; `None` of a login.
    pub by: Option<Token>,
}

/// The refresh tokens before the present ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotated {
    /// The hash of the one that was used.
    pub hash: String,
    /// The hashes of those that had raced it.
    pub others: Vec<String>,
    /// The time of the use; `None` if a release before has rotated it.
    pub at: Option<Timestamp>,
}

impl Session {
    /// Returns what the session is called by outside: it tells no token.
    ///
    /// # Panics
    /// Never: hashes are hex.
    #[must_use]
    pub fn id(&self) -> Token {
        let name = self.hash.get(..NAME_LEN).unwrap_or(&self.hash);
        Token::new(name).expect("hex digits are a Token")
    }

    /// Returns all tokens that are good: those issued last, and those that raced them.
    pub fn live(&self) -> impl Iterator<Item = &Issued> {
        [&self.issued].into_iter().chain(&self.raced)
    }

    /// Returns until when this is an access token of the session; `None`: it is not, or not any
    /// more.
    #[must_use]
    pub fn valid_until(&self, access_token: &Secret, now: Timestamp) -> Option<Timestamp> {
        let hash = access_token.sha256();
        let issued = self.live().find(|issued| issued.access_hash == hash)?;
        Some(issued.access_expires_at).filter(|until| now < *until)
    }

    /// Returns the session as the list of sessions shows it.
    #[must_use]
    pub fn shown(&self) -> ShownSession {
        ShownSession {
            session: self.id(),
            name: self.name.clone(),
            began_at: self.began_at,
            used_at: self.used_at,
            expires_at: self.refresh_expires_at,
        }
    }
}
