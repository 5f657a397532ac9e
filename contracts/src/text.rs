use serde::{Deserialize, Deserializer, Serialize};

use crate::Refusal;

/// A text for people of at most `MAX` characters; longer is `422 too_large`.
///
/// NUL is refused too: Postgres can store it neither in text nor in jsonb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// # Errors
    /// `422 too_large` beyond `MAX` characters, `422 bad_text` with a NUL in it.
    pub fn new(text: String) -> Result<Self, Refusal> {
        if text.chars().count() > MAX {
            return Err(Refusal::new(422, "too_large", format!("at most {MAX} characters")));
        }
        if text.contains('\0') {
            return Err(Refusal::new(422, "bad_text", "a text cannot hold the character NUL"));
        }
        Ok(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_characters_not_bytes() {
        assert!(Text::<3>::new("äöü".into()).is_ok());
        assert_eq!(Text::<3>::new("abcd".into()).unwrap_err().code, "too_large");
        assert_eq!(Text::<3>::new("a\0".into()).unwrap_err().code, "bad_text");
    }
}
