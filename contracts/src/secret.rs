use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use crate::Refusal;

/// A password, a password's hash, or a token of a session.
///
/// It can be neither printed nor serialised, and its memory is wiped; who needs the text says
/// [`Secret::expose`]. Refusals of it never quote it.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Longest secret, in bytes: enough for any passphrase, and a bound on what is hashed.
    pub const MAX_LEN: usize = 1024;

    /// # Errors
    /// `422 bad_secret` for anything but 1 to [`Self::MAX_LEN`] bytes.
    pub fn new(text: String) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            let message = format!("a password or token has 1 to {} bytes", Self::MAX_LEN);
            return Err(Refusal::new(422, "bad_secret", message));
        }
        Ok(Self(text.into()))
    }

    /// The text itself, for the one place that has to have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Lower-case hex SHA-256: what is kept of a token. Tokens hold so much randomness that this
    /// tells nothing about them; of a password it would.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.expose()))
    }
}

/// A password that somebody chooses. One that was chosen before may be shorter.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPassword(Secret);

impl NewPassword {
    /// Fewest characters. More are asked for by nobody: which they are is left to who chooses.
    pub const MIN_CHARS: usize = 8;

    /// # Errors
    /// `422 password_too_short` below [`Self::MIN_CHARS`] characters, `422 bad_secret` above
    /// [`Secret::MAX_LEN`] bytes.
    pub fn new(text: String) -> Result<Self, Refusal> {
        if text.chars().count() < Self::MIN_CHARS {
            let message = format!("a password has at least {} characters", Self::MIN_CHARS);
            return Err(Refusal::new(422, "password_too_short", message));
        }
        Secret::new(text).map(Self)
    }

    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

impl<'de> Deserialize<'de> for NewPassword {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Compares hashes: the time that it takes tells nothing about the texts.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.sha256() == other.sha256()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_neither_empty_nor_large_nor_shown() {
        let secret = |len| Secret::new("x".repeat(len));
        for bad in [0, 1025] {
            assert_eq!(secret(bad).unwrap_err().code, "bad_secret");
        }
        let secret = secret(1024).unwrap();
        assert!(!format!("{secret:?}").contains('x'));
        assert_eq!(secret, secret.clone());
        assert_ne!(secret, Secret::new("y".to_owned()).unwrap());
    }

    #[test]
    fn a_password_that_is_chosen_has_eight_characters_of_any_kind() {
        let code = |text: &str| NewPassword::new(text.to_owned()).map_err(|refusal| refusal.code);
        for short in ["", "1234567", "\u{1f372}\u{1f372}\u{1f372}\u{1f372}"] {
            assert_eq!(code(short), Err("password_too_short".into()));
        }
        for good in ["12345678", "        ", "\u{e9}t\u{e9}\u{e9}t\u{e9}t\u{e9}"] {
            assert_eq!(
                code(good).map(|password| password.secret().expose().to_owned()),
                Ok(good.into())
            );
        }
        assert_eq!(code(&"x".repeat(1025)), Err("bad_secret".into()));
    }

    #[test]
    fn what_is_kept_of_a_token_is_its_sha256() {
        let kept = Secret::new("abc".to_owned()).unwrap().sha256();
        assert_eq!(kept, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
