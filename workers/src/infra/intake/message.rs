use bytes::Bytes;

/// A message as it came, with whatever bytes its sender chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Holds neither a space nor a line break; all else is possible.
    pub subject: Bytes,
    pub reply: Option<Bytes>,
    /// The header block, from `NATS/1.0` to the empty line, if it is one.
    pub block: Option<Bytes>,
    pub payload: Bytes,
    /// The subject as text, where it is not plain text by itself.
    escaped: Option<Box<str>>,
    /// What the first line of the headers says, or why they cannot be read.
    status: Result<Option<u16>, &'static str>,
}

impl Message {
    #[must_use]
    pub fn new(subject: Bytes, reply: Option<Bytes>, block: Option<Bytes>, payload: Bytes) -> Self {
        let plain = subject.iter().all(|&byte| is_plain(byte));
        let escaped = (!plain).then(|| escape(&subject));
        let status = block.as_deref().map_or(Ok(None), status);
        Self { subject, reply, block, payload, escaped, status }
    }

    /// The subject as text. Each byte that is no visible ASCII character, and each backslash, is
    /// written as `\x` and two digits, so the text holds no such byte, is never mistaken for
    /// another subject, and is no Token where the subject is none.
    #[must_use]
    pub fn subject(&self) -> &str {
        let plain = || std::str::from_utf8(&self.subject).unwrap_or_default();
        self.escaped.as_deref().unwrap_or_else(plain)
    }

    /// Whether [`Message::subject`] is the subject itself.
    #[must_use]
    pub fn has_plain_subject(&self) -> bool {
        self.escaped.is_none()
    }

    /// The status line of the server's own messages, such as `404`.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status.ok().flatten()
    }

    /// Tells whether a sender wrote headers that can be read.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn readable(&self) -> Result<(), &'static str> {
        match self.status {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("the headers begin with a status, as only the server's do"),
            Err(why) => Err(why),
        }
    }

    /// All headers, name and value, in the order in which they stand there; none of a block that
    /// cannot be read.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let block = self.block.as_deref().filter(|_| self.status.is_ok());
        let text = block.and_then(|block| std::str::from_utf8(block).ok()).unwrap_or_default();
        text.split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim_matches([' ', '\t'])))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'\\'
}

/// Bytes as text: plain ones as they are, all others as `\x` and two digits.
fn escape(bytes: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(bytes.len() + 3);
    for &byte in bytes {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.into()
}

/// Reads a header block once, so that it can be gone through without a doubt afterwards. What
/// passes here also passes any client library: names of visible ASCII, values without line breaks.
fn status(block: &[u8]) -> Result<Option<u16>, &'static str> {
    let text = std::str::from_utf8(block).map_err(|_| "a header is not UTF-8")?;
    let text = text.strip_prefix("NATS/1.0").ok_or("the headers do not begin with NATS/1.0")?;
    let text = text.strip_suffix("\r\n\r\n").ok_or("the headers do not end with an empty line")?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header has no colon")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a header's name is empty or not made of visible ASCII characters");
        }
        if value.contains(['\r', '\n']) {
            return Err("a line break stands within a header");
        }
    }
    if first.trim().is_empty() {
        return Ok(None);
    }
    let digits = first.strip_prefix(' ').and_then(|first| first.get(..3));
    let status = digits.and_then(|digits| digits.parse().ok());
    status.map(Some).ok_or("the first line of the headers is not NATS/1.0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(block: &[u8]) -> Message {
        Message::new("s".into(), None, Some(Bytes::copy_from_slice(block)), Bytes::new())
    }

    fn pairs(message: &Message) -> Vec<(&str, &str)> {
        message.headers().collect()
    }

    #[test]
    fn headers_are_read_in_their_order_with_their_repetitions() {
        let message = with(b"NATS/1.0\r\nA: b\r\na:c:d\r\nEmpty:\r\nA:  \xc3\xbc\t\r\n\r\n");
        assert_eq!(message.readable(), Ok(()));
        assert_eq!(pairs(&message), [("A", "b"), ("a", "c:d"), ("Empty", ""), ("A", "\u{fc}")]);
        for none in [with(b"NATS/1.0\r\n\r\n"), Message::new("s".into(), None, None, "".into())] {
            assert_eq!((none.readable(), pairs(&none)), (Ok(()), vec![]));
        }
    }

    #[test]
    fn a_status_is_the_servers_alone() {
        let message = with(b"NATS/1.0 503\r\n\r\n");
        assert_eq!(message.status(), Some(503));
        assert!(message.readable().is_err());
        let message = with(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n");
        assert_eq!(message.status(), Some(100));
        assert_eq!(pairs(&message), [("Nats-Last-Consumer", "1")]);
    }

    #[test]
    fn what_cannot_be_read_has_no_headers() {
        for bad in [
            b"".as_slice(),
            b"NATS/1.0",
            b"NATS/1.0\r\n",
            b"NATS/2.0\r\nA: b\r\n\r\n",
            b"A: b\r\n\r\n",
            b"NATS/1.0 xyz\r\n\r\n",
            b"NATS/1.0 5\r\n\r\n",
            b"NATS/1.0503\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\n",
            b"NATS/1.0\r\nA: b",
            b"NATS/1.0\r\nA b\r\n\r\n",
            b"NATS/1.0\r\n: b\r\n\r\n",
            b"NATS/1.0\r\nA : b\r\n\r\n",
            b"NATS/1.0\r\n A: b\r\n\r\n",
            b"NATS/1.0\r\nA: b\rc\r\n\r\n",
            b"NATS/1.0\r\nA: b\nC: d\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\n c\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\n\r\nC: d\r\n\r\n",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
            b"NATS/1.0\r\n\xc3\xbc: b\r\n\r\n",
        ] {
            let message = with(bad);
            assert!(message.readable().is_err(), "{}", bad.escape_ascii());
            assert_eq!((message.status(), pairs(&message)), (None, vec![]));
        }
    }

    #[test]
    fn a_subject_that_is_not_plain_is_escaped_without_a_doubt() {
        let text = |subject: &[u8]| {
            let subject = Bytes::copy_from_slice(subject);
            Message::new(subject, None, None, Bytes::new()).subject().to_owned()
        };
        assert_eq!(text(b"cmd.t1.cart.c1.open"), "cmd.t1.cart.c1.open");
        assert_eq!(text(b"cmd.t1.cart.\xff.open"), "cmd.t1.cart.\\xff.open");
        assert_eq!(text(b"cmd.t1.cart.\\xff.open"), "cmd.t1.cart.\\x5cxff.open");
        assert_eq!(text(b"a.\0.\x1b"), "a.\\x00.\\x1b");
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(subject: Vec<u8>, block: Vec<u8>) {
            let message =
                Message::new(subject.into(), None, Some(block.into()), Bytes::new());
            prop_assert!(message.subject().bytes().all(|byte| byte.is_ascii_graphic()));
            let _read = (message.readable(), message.headers().count());
        }

        /// Whatever is called readable can be given to the client library.
        #[test]
        fn what_is_readable_can_be_written_again(lines in "([!-~]{0,3}[:é\r\n \0]{0,2}){0,12}") {
            let message = with(format!("NATS/1.0\r\n{lines}\r\n\r\n").as_bytes());
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in message.headers() {
                headers.append(name, value);
            }
        }
    }
}
