use std::borrow::Cow;

/// The reason of a refusal: a status, a stable snake_case code and a sentence for people.
///
/// The statuses are those of HTTP; `docs/reference/errors.md` lists every code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {message}")]
pub struct Refusal {
    pub status: u16,
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// When waiting helps, how long, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

/// Marks a refusal that travels through serde, whose errors carry text only.
const MARK: char = '\u{1}';

impl Refusal {
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: code.into(), message: message.into(), retry_after_ms: None }
    }

    /// Passes this refusal through a serde error; [`Refusal::from_json`] finds it again.
    pub fn into_serde<E: serde::de::Error>(self) -> E {
        E::custom(format!("{MARK}{} {} {}", self.status, self.code, self.message))
    }

    /// Returns the refusal of a payload that does not decode. serde tells kinds of errors apart by
    /// their text only; the tests of `command` hold these prefixes.
    #[must_use]
    pub fn from_json(error: &serde_json::Error) -> Self {
        // It may quote what came in, and goes into outcomes, logs and headers.
        let shown = |c: char| if c.is_control() && c != MARK { ' ' } else { c };
        let text: String = error.to_string().chars().map(shown).take(500).collect();
        if let Some(own) = text.strip_prefix(MARK) {
            // serde_json adds a position, which helps with JSON that does not parse, but not with
            // a value that was read whole.
            let own = own.rsplit_once(" at line ").map_or(own, |(own, _position)| own);
            if let Some(refusal) = Self::unmark(own) {
                return refusal;
            }
        }
        let code = match () {
            () if text.starts_with("unknown field") => "unknown_field",
            () if text.starts_with("duplicate field") => "duplicate_key",
            () if text.starts_with("missing field") => "missing_field",
            () => "malformed",
        };
        Self::new(400, code, text.replace(MARK, " "))
    }

    fn unmark(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let status = words.next()?.parse().ok()?;
        let code = words.next()?.to_owned().into();
        let message = words.next()?.to_owned().into();
        Some(Self { status, code, message, retry_after_ms: None })
    }
}

#[cfg(test)]
mod tests {
    use crate::cart::Verb;

    #[test]
    fn a_refused_value_is_told_without_its_position_and_bad_json_with_it() {
        let refusal = |payload: &str| Verb::decode("set_item", payload.as_bytes()).unwrap_err();
        let refused = refusal(r#"{"item_id":"i","quantity":0}"#);
        assert_eq!((refused.status, &*refused.message), (422, "a quantity is 1 to 999"));
        let malformed = refusal(r#"{"item_id":"i","quantity":}"#);
        assert!(malformed.message.ends_with(" at line 1 column 27"), "{malformed:?}");
    }
}
