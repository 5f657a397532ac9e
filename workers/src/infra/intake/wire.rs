//! Framing of what a server sends. Only the server itself can break it: what a sender chose
//! (subject, reply, headers, payload) is cut out as bytes and never looked into.

use bytes::{Buf, Bytes, BytesMut};

use super::Message;

/// Longest line before a payload; the longest is an INFO that names the servers of a cluster.
const MAX_LINE: usize = 256 * 1024;
/// Longest message: the most that a server can be configured to take.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// One operation of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Message {
        /// The subscription's number, which the client gave it.
        sid: u64,
        message: Message,
    },
    /// The server's description of itself, as JSON.
    Info(Bytes),
    Ping,
    Pong,
    Ok,
    /// An error that the server reports.
    Err(String),
}

/// The server broke the protocol: nothing after this can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server broke the protocol: {0}")]
pub struct Broken(&'static str);

/// Cuts the next operation off the front of `buffer`; `None` where it has not come whole.
///
/// # Errors
/// If these bytes can be no operation, whatever follows.
pub fn next(buffer: &mut BytesMut) -> Result<Option<Op>, Broken> {
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        return if buffer.len() > MAX_LINE { Err(Broken("an endless line")) } else { Ok(None) };
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(Broken("a line without its end"))?;
    let (name, rest) = match line.iter().position(|byte| matches!(byte, b' ' | b'\t')) {
        Some(at) => (&line[..at], at + 1..line.len()),
        None => (line, line.len()..line.len()),
    };
    let op = match name {
        b"MSG" => return message(buffer, end, rest, false),
        b"HMSG" => return message(buffer, end, rest, true),
        b"PING" => Op::Ping,
        b"PONG" => Op::Pong,
        b"+OK" => Op::Ok,
        b"-ERR" => {
            let text = String::from_utf8_lossy(&line[rest]);
            Op::Err(text.trim().trim_matches('\'').to_owned())
        }
        b"INFO" => Op::Info(Bytes::copy_from_slice(&line[rest])),
        _ => return Err(Broken("an unknown operation")),
    };
    buffer.advance(end + 1);
    Ok(Some(op))
}

/// `<subject> <sid> [reply] [header bytes] <total bytes>`, then headers and payload.
fn message(
    buffer: &mut BytesMut,
    end: usize,
    arguments: std::ops::Range<usize>,
    with_headers: bool,
) -> Result<Option<Op>, Broken> {
    let start = arguments.start;
    // Subject and reply hold neither a space nor a line break, whatever else is in them.
    let mut words = [0..0, 0..0, 0..0, 0..0, 0..0];
    let mut count = 0;
    let mut at = start;
    for word in buffer[arguments].split(|byte| *byte == b' ') {
        if !word.is_empty() {
            *words.get_mut(count).ok_or(Broken("too many arguments"))? = at..at + word.len();
            count += 1;
        }
        at += word.len() + 1;
    }
    let lengths = if with_headers { 2 } else { 1 };
    let reply = match count.checked_sub(lengths) {
        Some(2) => None,
        Some(3) => Some(words[2].clone()),
        _ => return Err(Broken("too few or too many arguments")),
    };
    let number = |word: usize| {
        let digits = std::str::from_utf8(&buffer[words[word].clone()]).ok();
        digits.and_then(|digits| digits.parse::<usize>().ok()).ok_or(Broken("no number"))
    };
    let sid = number(1)? as u64;
    let total = number(count - 1)?;
    let headers = if with_headers { number(count - 2)? } else { 0 };
    if headers > total || total > MAX_MESSAGE {
        return Err(Broken("lengths that cannot be"));
    }
    let frame = end + 1 + total + 2;
    if buffer.len() < frame {
        buffer.reserve(frame - buffer.len());
        return Ok(None);
    }
    let frame = buffer.split_to(frame).freeze();
    if !frame.ends_with(b"\r\n") {
        return Err(Broken("a payload of another length"));
    }
    let body = end + 1;
    let message = Message::new(
        frame.slice(words[0].clone()),
        reply.map(|reply| frame.slice(reply)),
        with_headers.then(|| frame.slice(body..body + headers)),
        frame.slice(body + headers..body + total),
    );
    Ok(Some(Op::Message { sid, message }))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Returns the operations in bytes that arrive in these pieces, and the error at their end.
    fn read(pieces: &[&[u8]]) -> (Vec<Op>, Option<Broken>) {
        let (mut buffer, mut ops) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match next(&mut buffer) {
                    Ok(Some(op)) => ops.push(op),
                    Ok(None) => break,
                    Err(broken) => return (ops, Some(broken)),
                }
            }
        }
        (ops, None)
    }

    fn frame(sid: u64, message: &Message) -> Vec<u8> {
        let reply = message.reply.as_ref().map(|reply| [&reply[..], b" "].concat());
        let headers = message.block.as_deref();
        let total = headers.unwrap_or_default().len() + message.payload.len();
        let sizes = match headers {
            Some(headers) => format!("{} {total}\r\n", headers.len()),
            None => format!("{total}\r\n"),
        };
        let name: &[u8] = if headers.is_some() { b"HMSG " } else { b"MSG " };
        [
            name,
            &message.subject,
            format!(" {sid} ").as_bytes(),
            &reply.unwrap_or_default(),
            sizes.as_bytes(),
            headers.unwrap_or_default(),
            &message.payload,
            b"\r\n",
        ]
        .concat()
    }

    /// Anything that nats-server takes for a subject.
    fn subject() -> impl Strategy<Value = Vec<u8>> {
        let fits = |byte: &u8| !b" \t\r\n".contains(byte);
        vec(any::<u8>().prop_filter("no separator", fits), 1..40)
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..200)
    }

    fn op() -> impl Strategy<Value = (u64, Message)> {
        let reply = proptest::option::of(subject());
        let headers = proptest::option::of(bytes());
        (any::<u32>(), subject(), reply, headers, bytes()).prop_map(
            |(sid, subject, reply, headers, payload)| {
                let message = Message::new(
                    subject.into(),
                    reply.map(Into::into),
                    headers.map(Into::into),
                    payload.into(),
                );
                (u64::from(sid), message)
            },
        )
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            sent in vec(op(), 1..5),
            cuts in vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let all: Vec<u8> = sent.iter().flat_map(|(sid, message)| frame(*sid, message)).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &all[cut[0]..cut[1]]).collect();
            let sent: Vec<_> =
                sent.into_iter().map(|(sid, message)| Op::Message { sid, message }).collect();
            prop_assert_eq!(read(&pieces), (sent, None));
        }

        #[test]
        fn any_bytes_are_borne(pieces in vec(bytes(), 0..6)) {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            let _read = read(&pieces);
        }

        #[test]
        fn any_bytes_after_the_name_of_an_operation_are_borne(
            name in proptest::sample::select(vec!["MSG ", "HMSG ", "INFO ", "-ERR ", "PONG", "+OK"]),
            line in "[ -~\\t]{0,60}",
            rest in bytes(),
        ) {
            let _read = read(&[name.as_bytes(), line.as_bytes(), b"\r\n", &rest]);
        }
    }

    #[test]
    fn each_operation_is_told_from_the_others() {
        let (ops, broken) = read(&[
            b"INFO {\"port\":4222} \r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n",
            b"MSG a.\xff 7 0\r\n\r\n",
        ]);
        assert_eq!(broken, None);
        let message = Message::new(b"a.\xff".as_slice().into(), None, None, Bytes::new());
        let expected = [
            Op::Info(Bytes::from_static(b"{\"port\":4222} ")),
            Op::Ping,
            Op::Pong,
            Op::Ok,
            Op::Err("Stale Connection".to_owned()),
            Op::Message { sid: 7, message },
        ];
        assert_eq!(ops, expected);
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_told_so() {
        for bad in [
            b"HELLO\r\n".as_slice(),
            b"PING\n",
            b"MSG a 1\r\n",
            b"MSG a one 0\r\n\r\n",
            b"MSG a 1 -1\r\n\r\n",
            b"MSG a 1 b c 0\r\n\r\n",
            b"MSG a 1 99999999999\r\n",
            b"MSG a 1 18446744073709551615\r\n",
            b"HMSG a 1 5 4\r\nabcd\r\n",
            b"MSG a 1 2\r\nabcdef",
        ] {
            assert!(read(&[bad]).1.is_some(), "{}", bad.escape_ascii());
        }
        assert!(read(&[&vec![b'a'; MAX_LINE + 1]]).1.is_some());
    }
}
