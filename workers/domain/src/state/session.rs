use brigade_contracts::{Timestamp, Token};

/// A session as SQL keeps it. The hashes are lower-case hex SHA-256.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// The hash of what all its refresh tokens have in common.
    pub hash: String,
    pub access_hash: String,
    pub access_expires_at: Timestamp,
    pub refresh_hash: String,
    pub refresh_expires_at: Timestamp,
    pub rotated: Option<Rotated>,
}

/// The refresh token before the present one.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotated {
    pub hash: String,
    /// The Command-Id of the `refresh` that it was used in.
    pub by: Token,
}
