use async_nats::HeaderMap;
use brigade::{
    infra::intake::Message,
    testing::decoders::{Op, next_op},
};
use bytes::{Bytes, BytesMut};

use super::line;

/// The first byte says where the rest is cut: both pieces give what the whole gives.
pub fn operations(bytes: &[u8]) {
    let Some((&cut, sent)) = bytes.split_first() else { return };
    let (first, second) = sent.split_at(usize::from(cut).min(sent.len()));
    assert_eq!(read(&[sent]), read(&[first, second]));
}

/// Returns the operations, and whether the protocol was broken after them.
fn read(pieces: &[&[u8]]) -> (Vec<Op>, bool) {
    let mut buffer = BytesMut::new();
    let mut operations = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match next_op(&mut buffer) {
                Ok(Some(operation)) => operations.push(operation),
                Ok(None) => break,
                Err(_) => return (operations, true),
            }
        }
    }
    (operations, false)
}

/// The first line is the subject, the second the reply; what follows up to an empty line is the
/// header block, the rest the payload.
pub fn message(bytes: &[u8]) {
    let message = read_message(bytes);
    assert!(message.subject().bytes().all(|byte| byte.is_ascii_graphic()));
    if message.readable().is_ok() {
        // Whatever is called readable can be given to the client library.
        let mut headers = HeaderMap::new();
        message.headers().for_each(|(name, value)| headers.append(name, value));
    }
    let (subject, readable) = (message.subject().to_owned(), message.readable());
    let shed = message.shed();
    assert_eq!((shed.subject(), shed.readable()), (subject.as_str(), readable));
}

pub fn read_message(bytes: &[u8]) -> Message {
    let (subject, rest) = line(bytes);
    let (reply, rest) = line(rest);
    let end = rest.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4);
    let (block, payload) = end.map_or((None, rest), |end| (Some(&rest[..end]), &rest[end..]));
    let copy = Bytes::copy_from_slice;
    let reply = (!reply.is_empty()).then(|| copy(reply));
    Message::new(copy(subject), reply, block.map(copy), copy(payload))
}
