/// Text that strangers sent, for a terminal: what would command it, or turn the direction of
/// writing, is escaped.
pub fn printable(text: &str) -> String {
    let commands = |c: char| {
        let turns = matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        c.is_control() || turns
    };
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            printable.extend(c.escape_unicode());
        } else {
            printable.push(c);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_commands_a_terminal() {
        assert_eq!(printable("Müsli, \"7\" €"), "Müsli, \"7\" €");
        let title = printable("\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}");
        assert_eq!(title, r"\u{1b}]0;owned\u{7}\u{d}\u{a}\u{9b}31m\u{202e}");
    }
}
