use serde_json::Value;

/// Text that strangers sent, for a terminal: what would command it, or turn the direction of
/// writing, is escaped.
pub fn printable(text: &str) -> String {
    escaped(text, |c| c.escape_unicode().to_string())
}

/// Returns JSON in one line, in which the same is escaped as JSON does.
pub fn printable_json(value: &Value) -> String {
    escaped(&value.to_string(), |c| format!("\\u{:04x}", u32::from(c)))
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let commands = |c: char| {
        let turns = matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        c.is_control() || turns
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            escaped += &escape(c);
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_commands_a_terminal() {
        assert_eq!(printable("Müsli, \"7\" €"), "Müsli, \"7\" €");
        let title = printable("\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}");
        assert_eq!(title, r"\u{1b}]0;owned\u{7}\u{d}\u{a}\u{9b}31m\u{202e}");
        let value = Value::from("Müsli\u{1b}\n\u{9b}31m\u{202e}");
        let json = printable_json(&value);
        assert_eq!(json, r#""Müsli\u001b\n\u009b31m\u202e""#);
        assert_eq!(serde_json::from_str::<Value>(&json).ok(), Some(value));
    }
}
