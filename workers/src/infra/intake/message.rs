use brigade_contracts::{MAX_HEADER_BLOCK, MAX_PAYLOAD};
use bytes::Bytes;

/// The server writes what it adds as the last line, which is shorter.
const LAST_LINE: usize = 1024;
/// The number of bytes that are read of a header block that is too large: its message is refused
/// anyway.
const HEAD: usize = 1024;
/// A name that is longer than this is no header's.
const MAX_NAME: usize = 512;
/// Stands for a payload that is larger than any that is handled.
static TOO_LARGE: [u8; MAX_PAYLOAD + 1] = [b' '; MAX_PAYLOAD + 1];

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
    /// The beginning of a block that is too large.
    cut: Option<Bytes>,
    /// The status in the first line of the headers, or the reason why they cannot be read.
    status: Result<Option<u16>, &'static str>,
}

impl Message {
    #[must_use]
    pub fn new(subject: Bytes, reply: Option<Bytes>, block: Option<Bytes>, payload: Bytes) -> Self {
        let plain = subject.iter().all(|&byte| is_plain(byte));
        let escaped = (!plain).then(|| escape(&subject));
        let cut = block.as_deref().and_then(cut);
        let status = cut.as_deref().or(block.as_deref()).map_or(Ok(None), status);
        Self { subject, reply, block, payload, escaped, cut, status }
    }

    /// Lets go of what is too large to be handled, so that it takes no memory while it waits for
    /// its refusal. For requests: of what is stored, all may be wanted again.
    #[must_use]
    pub fn shed(self) -> Self {
        if self.cut.is_none() && self.payload.len() <= MAX_PAYLOAD {
            return self;
        }
        let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        let payload = match self.payload.len() {
            0..=MAX_PAYLOAD => copy(self.payload),
            _ => Bytes::from_static(&TOO_LARGE),
        };
        Self {
            subject: copy(self.subject),
            reply: self.reply.map(copy),
            block: self.cut.clone().or_else(|| self.block.map(copy)),
            payload,
            ..self
        }
    }

    /// Returns true if the headers are too large for all of them to be read.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The subject as text. Each byte that is no visible ASCII character, and each backslash, is
    /// written as `\x` and two digits, so the text holds no such byte, is never mistaken for
    /// another subject, and is no Token where the subject is none.
    #[must_use]
    pub fn subject(&self) -> &str {
        let plain = || std::str::from_utf8(&self.subject).unwrap_or_default();
        self.escaped.as_deref().unwrap_or_else(plain)
    }

    /// Returns true if [`Message::subject`] is the subject itself.
    #[must_use]
    pub fn has_plain_subject(&self) -> bool {
        self.escaped.is_none()
    }

    /// The status line of the server's own messages, such as `404`.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status.ok().flatten()
    }

    /// Checks that the headers are those of a sender and can be read.
    ///
    /// # Errors
    /// If they cannot be read, with the reason.
    pub fn readable(&self) -> Result<(), &'static str> {
        match self.status {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("the headers begin with a status, as only the server's do"),
            Err(why) => Err(why),
        }
    }

    /// All headers, name and value, in the order in which they stand there; none of a block that
    /// cannot be read, and not all of one that is [cut](Message::is_cut).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let block = self.cut.as_deref().or(self.block.as_deref());
        let block = block.filter(|_| self.status.is_ok());
        let text = block.and_then(|block| std::str::from_utf8(block).ok()).unwrap_or_default();
        lines(text)
    }
}

/// Returns all headers of a block, name and value, in the order in which they stand there, however
/// large it is: for what this project has written itself, such as dead letters.
///
/// # Errors
/// If they cannot be read, with the reason.
pub fn headers_of_block(
    block: &[u8],
) -> Result<impl Iterator<Item = (&str, &str)> + Clone, &'static str> {
    status(block)?;
    let text = std::str::from_utf8(block).map_err(|_| "a header is not UTF-8")?;
    Ok(lines(text))
}

/// Splits a block that can be read into names and values.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> + Clone {
    text.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim_matches([' ', '\t'])))
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

/// Returns what is read of a block that is too large: what has room at its beginning, the line with
/// the Command-Id wherever it stands, so that the refusal reaches its sender, and the last line;
/// `None` of any other block.
fn cut(block: &[u8]) -> Option<Bytes> {
    const END: &[u8] = b"\r\n\r\n";
    let head = block.get(..HEAD).filter(|_| block.len() > MAX_HEADER_BLOCK)?;
    let ends = |bytes: &[u8]| bytes.windows(2).rposition(|two| two == b"\r\n");
    let whole = ends(head).unwrap_or_default();
    // The line that does not fit is left out, unless it is none.
    let is_line = head.len() - whole < MAX_NAME || head[whole..].contains(&b':');
    let head = if is_line { &head[..whole] } else { head };
    // What does not end as a block does cannot be read, however long it is.
    let Some(rest) = block.strip_suffix(END) else { return Some(Bytes::copy_from_slice(head)) };
    let tail = &rest[head.len().max(rest.len().saturating_sub(LAST_LINE)).min(rest.len())..];
    let last = ends(tail).map_or(&[][..], |at| &tail[at..]);
    let between = &rest[head.len()..rest.len() - last.len()];
    let id = command_id_line(between).map_or([&[][..], &[]], |line| [b"\r\n", line]);
    Some([&[head], &id[..], &[last, END]].concat().concat().into())
}

/// Returns the first line of a part of a header block that carries a Command-Id.
fn command_id_line(part: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"command-id:";
    let is_id = |line: &&[u8]| {
        line.len() < MAX_NAME
            && line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    };
    let mut lines = part.split(|&byte| byte == b'\n');
    lines.find(is_id).map(|line| line.strip_suffix(b"\r").unwrap_or(line))
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
    fn the_command_id_of_a_block_that_is_too_large_is_read_wherever_it_stands() {
        let large = format!("X-Large: {}", "x".repeat(2 * MAX_HEADER_BLOCK));
        let many = vec!["a:"; MAX_HEADER_BLOCK].join("\r\n");
        for large in [large, many] {
            for lines in [
                format!("Command-Id: k1\r\n{large}\r\nLast: l"),
                format!("{large}\r\ncommand-id: k1\r\nLast: l"),
                format!("{large}\r\nCommand-Id: k1"),
            ] {
                let message = with(format!("NATS/1.0\r\n{lines}\r\n\r\n").as_bytes());
                assert!(message.is_cut() && message.readable().is_ok());
                let ids = message.headers().filter(|(n, _)| n.eq_ignore_ascii_case("command-id"));
                assert_eq!(ids.map(|(_, id)| id).collect::<Vec<_>>(), ["k1"]);
            }
        }
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
    fn a_block_that_is_larger_than_any_of_a_sender_is_read_whole() {
        let long = "x".repeat(7 * MAX_HEADER_BLOCK);
        let block = format!("NATS/1.0\r\nA: b\r\nLong: {long}\r\nA: c\r\n\r\n");
        let read: Vec<_> = headers_of_block(block.as_bytes()).expect("readable").collect();
        assert_eq!(read, [("A", "b"), ("Long", long.as_str()), ("A", "c")]);
        assert!(headers_of_block(b"NATS/1.0\r\nA b\r\n\r\n").is_err());
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
    fn of_a_large_block_only_the_beginning_and_the_last_line_are_read() {
        let block = |lines: &[u8]| [b"NATS/1.0\r\nA: b", lines, b"\r\nLast: x\r\n\r\n"].concat();
        let lines = with(&block(&b"\r\na:".repeat(250_000)));
        assert_eq!((lines.readable(), lines.is_cut()), (Ok(()), true));
        assert!(lines.headers().count() <= HEAD / 4, "{}", lines.headers().count());
        assert_eq!(lines.headers().next(), Some(("A", "b")));
        assert_eq!(lines.headers().last(), Some(("Last", "x")));
        let value = with(&block(format!("\r\nX: {}", "\u{fc}".repeat(30_000)).as_bytes()));
        assert_eq!((value.readable(), pairs(&value)), (Ok(()), vec![("A", "b"), ("Last", "x")]));
        // Where a line is cut between its name and its colon, it is left out as well.
        for at in 0..40 {
            let before = format!("\r\nB: {}", "x".repeat(HEAD - 40 + at));
            let more = "\r\nName: b".repeat(MAX_HEADER_BLOCK);
            let message = with(&block(format!("{before}{more}").as_bytes()));
            assert_eq!((message.readable(), message.is_cut()), (Ok(()), true), "{at}");
        }
        for bad in [b"\r\nno colon".as_slice(), &[b"\r\nX", &b"x".repeat(60_000)[..]].concat()] {
            let message = with(&block(&[bad, &b"\r\na:".repeat(MAX_HEADER_BLOCK)].concat()));
            assert!(message.readable().is_err() && message.is_cut());
        }
        let no_end = with(&b"NATS/1.0\r\na: b".repeat(MAX_HEADER_BLOCK));
        assert!(no_end.readable().is_err() && no_end.is_cut());
        let small = with(&block(&b"x".repeat(MAX_HEADER_BLOCK / 2)));
        assert!(!small.is_cut());
    }

    #[test]
    fn what_is_too_large_to_be_handled_takes_no_memory() {
        let block = [b"NATS/1.0\r\n".as_slice(), &b"a: b\r\n".repeat(10_000), b"\r\n"].concat();
        let large = vec![b'x'; MAX_PAYLOAD + 9];
        let message = Message::new("s".into(), Some("r".into()), Some(block.into()), large.into());
        let shed = message.clone().shed();
        assert_eq!(pairs(&shed), pairs(&message));
        assert!(shed.is_cut() && shed.payload.len() == MAX_PAYLOAD + 1);
        assert!(shed.block.as_ref().is_some_and(|block| block.len() <= HEAD + LAST_LINE));
        assert_eq!((&shed.subject, &shed.reply), (&message.subject, &message.reply));
        let most = vec![b'x'; MAX_PAYLOAD];
        let fits = Message::new("s".into(), None, None, most.into());
        assert_eq!(fits.clone().shed(), fits);
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
