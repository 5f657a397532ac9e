use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Refusal;

/// One token of a subject or key: `[A-Za-z0-9_-]{1,64}`.
///
/// Ids, verbs, tenants and user names are Tokens, so nothing that a stranger sends can
/// add a level or a wildcard to a subject. Cloning is cheap (shared).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(Arc<str>);

impl Token {
    /// Longest token, in bytes.
    pub const MAX_LEN: usize = 64;

    /// # Errors
    /// `400 bad_token` for anything but 1 to 64 of `[A-Za-z0-9_-]`.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(allowed) {
            return Err(Refusal::new(
                400,
                "bad_token",
                "expected 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
            ));
        }
        Ok(Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::new(text)
    }
}

impl Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_alphabet_and_the_length() {
        let long = "a".repeat(64);
        for good in ["a", "T1", "a-b_c", long.as_str()] {
            assert_eq!(Token::new(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(65);
        for bad in ["", "a.b", "*", ">", "a b", "a\n", "ü", "a\0", too_long.as_str()] {
            assert_eq!(Token::new(bad).unwrap_err().code, "bad_token", "{bad:?}");
        }
    }
}
