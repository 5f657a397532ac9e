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
    /// The field or the header that is wrong, if it is one: `items[0].quantity`.
    pub param: Option<Cow<'static, str>>,
}

/// Marks a refusal that travels through serde, whose errors carry text only.
const MARK: char = '\u{1}';

impl Refusal {
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { status, code, message, retry_after_ms: None, param: None }
    }

    /// Names the field or the header that is wrong.
    #[must_use]
    pub fn of_param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// Passes this refusal through a serde error; [`Refusal::from_json`] finds it again.
    pub fn into_serde<E: serde::de::Error>(self) -> E {
        E::custom(format!("{MARK}{} {} {}", self.status, self.code, self.message))
    }

    /// Returns the refusal of a payload that does not decode as `T`, with the field that is wrong.
    ///
    /// The payload is decoded a second time for the field's name, so that one that is right costs
    /// nothing. JSON that does not parse has a position instead, and a field that is missing,
    /// unknown or twice there is named by the message.
    pub fn of_payload<T: DeserializeOwned>(payload: &[u8], error: &serde_json::Error) -> Self {
        let refusal = Self::from_json(error);
        if !error.is_data() {
            return refusal;
        }
        let mut json = serde_json::Deserializer::from_slice(payload);
        let path = serde_path_to_error::deserialize::<_, T>(&mut json).err();
        let path = path.map(|error| error.path().to_string()).unwrap_or_default();
        // `.` is the payload itself.
        let path = if path == "." { String::new() } else { path };
        let path: String =
            path.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        let param = match refusal.named_field() {
            Some(field) if path.is_empty() => field.to_owned(),
            Some(field) if path != field && !path.ends_with(&format!(".{field}")) => {
                format!("{path}.{field}")
            }
            _ => path.clone(),
        };
        let is_named = ["unknown_field", "duplicate_key"].contains(&&*refusal.code);
        let message = match path.is_empty() || is_named {
            true => refusal.message.clone(),
            false => format!("{path}: {}", without_position(&refusal.message)).into(),
        };
        let param = (!param.is_empty()).then(|| param.into());
        Self { message, param, ..refusal }
    }

    /// Returns the field that serde names, between backticks.
    fn named_field(&self) -> Option<&str> {
        let is_named = ["missing_field", "unknown_field", "duplicate_key"].contains(&&*self.code);
        self.message.split('`').nth(1).filter(|_| is_named)
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
        Some(Self { status, code, message, retry_after_ms: None, param: None })
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
    fn the_field_that_is_wrong_is_named_by_itself() {
        let param = |payload: &str| {
            let refusal = Verb::decode("set_item", payload.as_bytes()).unwrap_err();
            refusal.param.map(std::borrow::Cow::into_owned)
        };
        for (payload, field) in [
            (r#"{"item_id":"i","quantity":0}"#, Some("quantity")),
            (r#"{"item_id":"a.b","quantity":1}"#, Some("item_id")),
            (r#"{"item_id":"i"}"#, Some("quantity")),
            (r#"{"item_id":"i","quantity":1,"colour":"red"}"#, Some("colour")),
            (r#"{"item_id":"i","item_id":"i","quantity":1}"#, Some("item_id")),
            (r#"{"item_id":"i","quantity":}"#, None),
            ("[]", None),
        ] {
            assert_eq!(param(payload).as_deref(), field, "{payload}");
        }
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
        assert_eq!(missing.param.as_deref(), Some("items[0].sku"));
        assert_eq!(missing.message, "items[0]: missing field `sku`");
    }
}
