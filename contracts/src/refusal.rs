use std::borrow::Cow;

use serde::de::DeserializeOwned;

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

    /// Returns the refusal of a payload that does not decode as `T`, with the field that is wrong.
    ///
    /// The payload is decoded a second time for the field's name, so that one that is right costs
    /// nothing. JSON that does not parse has a position instead, and a field that is unknown or
    /// twice there is named by the message.
    pub(crate) fn of_payload<T: DeserializeOwned>(
        payload: &[u8],
        error: &serde_json::Error,
    ) -> Self {
        let refusal = Self::from_json(error);
        if !error.is_data() || ["unknown_field", "duplicate_key"].contains(&&*refusal.code) {
            return refusal;
        }
        let mut json = serde_json::Deserializer::from_slice(payload);
        let path = serde_path_to_error::deserialize::<_, T>(&mut json).err();
        let path = path.map(|error| error.path().to_string()).unwrap_or_default();
        // `.` is the payload itself.
        if path.is_empty() || path == "." {
            return refusal;
        }
        let path: String = path.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let message = without_position(&refusal.message);
        let message = format!("{path}: {message}").into();
        Self { message, ..refusal }
    }

    /// Returns the refusal of JSON that does not decode. serde tells kinds of errors apart by
    /// their text only; the tests of `command` hold these prefixes.
    #[must_use]
    pub fn from_json(error: &serde_json::Error) -> Self {
        // It may quote what came in, and goes into outcomes, logs and headers.
        let shown = |c: char| if c.is_control() && c != MARK { ' ' } else { c };
        let text: String = error.to_string().chars().map(shown).take(500).collect();
        if let Some(own) = text.strip_prefix(MARK) {
            // serde_json adds a position, which helps with JSON that does not parse, but not with
            // a value that was read whole.
            if let Some(refusal) = Self::unmark(without_position(own)) {
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

/// Returns the text of an error without where serde_json saw it.
fn without_position(text: &str) -> &str {
    text.rsplit_once(" at line ").map_or(text, |(text, _position)| text)
}

#[cfg(test)]
mod tests {
    use crate::cart::Verb;

    #[test]
    fn a_refused_value_is_told_without_its_position_and_bad_json_with_it() {
        let refusal = |payload: &str| Verb::decode("set_item", payload.as_bytes()).unwrap_err();
        let refused = refusal(r#"{"item_id":"i","quantity":0}"#);
        assert_eq!((refused.status, &*refused.message), (422, "quantity: a quantity is 1 to 999"));
        let malformed = refusal(r#"{"item_id":"i","quantity":}"#);
        assert!(malformed.message.ends_with(" at line 1 column 27"), "{malformed:?}");
    }

    #[test]
    fn a_refused_value_is_told_with_its_field() {
        let item = |field: &str, value: &str| {
            let fields = [
                ("item_id", "\"i\""),
                ("sku", "\"s\""),
                ("name", "\"Soup\""),
                ("unit_price", "500"),
                ("quantity", "1"),
            ];
            let fields = fields.map(|(name, usual)| {
                format!("\"{name}\":{}", if name == field { value } else { usual })
            });
            format!("{{{}}}", fields.join(","))
        };
        let cart = |field: &str, value: &str| {
            let payload = item(field, value);
            Verb::decode("add_item", payload.as_bytes()).unwrap_err().message
        };
        let long = format!("\"{}\"", "x".repeat(201));
        for (field, value, message) in [
            ("item_id", "\"a.b\"", "expected 1 to 64 characters of A-Z, a-z, 0-9, _ and -"),
            ("sku", "7", "invalid type: integer `7`, expected a string"),
            ("name", &*long, "at most 200 characters"),
            ("name", "\"a\\u0007\"", "a text cannot hold control characters"),
            ("unit_price", "-1", "an amount cannot be negative"),
            (
                "unit_price",
                "12.5",
                "invalid type: floating point `12.5`, expected money, a whole number of cents (the \
                 smallest unit of its currency)",
            ),
            ("quantity", "1000", "a quantity is 1 to 999"),
        ] {
            assert_eq!(cart(field, value), format!("{field}: {message}"));
        }
        let items = format!("{{\"currency\":\"EUR\",\"items\":[{}]}}", item("quantity", "0"));
        let items = items.replace("\"item_id\":\"i\",", "");
        let placed = crate::order::Verb::decode("place", items.as_bytes()).unwrap_err().message;
        assert_eq!(placed, "items[0].quantity: a quantity is 1 to 999");
        let missing = items.replace("\"sku\":\"s\",", "").replace(":0}", ":1}");
        let missing = crate::order::Verb::decode("place", missing.as_bytes()).unwrap_err();
        assert_eq!(missing.code, "missing_field");
        assert_eq!(missing.message, "items[0]: missing field `sku`");
    }
}
