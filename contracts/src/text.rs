use serde::{Deserialize, Deserializer, Serialize};

use crate::Refusal;

/// A text for people of at most `MAX` characters; longer is `422 too_large`.
///
/// It holds no control characters: neither those of C0 and C1, line breaks among them, nor those
/// that change the direction of writing. A terminal or a log would obey them instead of showing
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// # Errors
    /// `422 too_large` beyond `MAX` characters, `422 bad_text` with a control character in it.
    pub fn new(text: String) -> Result<Self, Refusal> {
        if text.chars().count() > MAX {
            return Err(Refusal::new(422, "too_large", format!("at most {MAX} characters")));
        }
        if text.chars().any(|c| c.is_control() || is_bidi_control(c)) {
            return Err(Refusal::new(422, "bad_text", "a text cannot hold control characters"));
        }
        Ok(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Unicode's property `Bidi_Control`.
fn is_bidi_control(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
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
    }

    #[test]
    fn holds_no_control_characters() {
        let bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}";
        for bad in "\0\t\n\r\u{1b}\u{7f}\u{80}\u{85}\u{9f}".chars().chain(bidi.chars()) {
            assert_eq!(Text::<3>::new(format!("a{bad}")).unwrap_err().code, "bad_text", "{bad:?}");
        }
        // Spaces, joiners and what is merely unusual are text.
        for good in ["a b", "\u{a0}", "\u{200d}", "\u{2028}", "👩‍🍳", "שלום"] {
            assert!(Text::<9>::new(good.into()).is_ok(), "{good:?}");
        }
    }
}
