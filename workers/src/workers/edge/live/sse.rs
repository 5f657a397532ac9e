//! Server-sent events as they go over the wire (WHATWG HTML, 9.2). They are written here and not
//! by the web framework, since all readers of a topic share the same bytes.

use std::fmt::Write;

use bytes::Bytes;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseEventKind {
    /// Everything, or the first page of it, for a reader that has nothing.
    Snapshot,
    /// A further page of the snapshot or the reset before it.
    More,
    /// One row, or one view.
    Change,
    /// Everything, or the first page of it, for a reader whose position no changes lead on from.
    Reset,
}

impl SseEventKind {
    /// Returns the word in the field `event`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::More => "more",
            Self::Change => "change",
            Self::Reset => "reset",
        }
    }
}

/// Events that are sent together.
#[derive(Default)]
pub struct SseEvents(String);

impl SseEvents {
    /// Appends an event. `id` is the position after it; `json` has no line break, as serde_json
    /// writes it.
    pub fn push(&mut self, kind: SseEventKind, id: &str, json: &str) {
        self.0.reserve(json.len() + id.len() + 32);
        // A String takes everything.
        let _taken = write!(self.0, "event: {}\nid: {id}\ndata: {json}\n\n", kind.as_str());
    }

    /// Returns the bytes of all of them.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

/// Returns one event. Its body is JSON, hence UTF-8.
#[must_use]
pub fn event(kind: SseEventKind, id: &str, json: &[u8]) -> Bytes {
    let mut events = SseEvents::default();
    events.push(kind, id, &String::from_utf8_lossy(json));
    events.into_bytes()
}

/// Returns a comment, so that proxies and readers see that the connection is alive. The `id` makes
/// no event, but moves the reader on: one that gets no change for long keeps a usable position.
#[must_use]
pub fn heartbeat(id: &str) -> Bytes {
    format!(":\nid: {id}\n\n").into()
}

/// Returns the field that says after how many milliseconds a reader shall reconnect.
#[must_use]
pub fn retry(millis: u64) -> Bytes {
    format!("retry: {millis}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_the_standard_says() {
        let mut events = SseEvents::default();
        events.push(SseEventKind::Change, "a", "{\"n\":1}");
        events.push(SseEventKind::Change, "b", "{\"n\":2}");
        let expected = "event: change\nid: a\ndata: {\"n\":1}\n\n\
                        event: change\nid: b\ndata: {\"n\":2}\n\n";
        assert_eq!(events.into_bytes(), expected);
        assert_eq!(event(SseEventKind::Reset, "7", b"{}"), "event: reset\nid: 7\ndata: {}\n\n");
        assert_eq!(
            event(SseEventKind::Snapshot, "7", b"{}"),
            "event: snapshot\nid: 7\ndata: {}\n\n"
        );
        assert_eq!(heartbeat("7"), ":\nid: 7\n\n");
        assert_eq!(retry(1000), "retry: 1000\n\n");
    }
}
