//! Server-sent events as they go over the wire (WHATWG HTML, 9.2).

use std::fmt::Write;

use bytes::Bytes;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything, to whoever has nothing.
    Snapshot,
    /// One row, or one view.
    Change,
    /// Everything, to whoever has something that no changes lead on from.
    Reset,
}

impl Kind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Change => "change",
            Self::Reset => "reset",
        }
    }
}

/// Events that are sent together.
#[derive(Default)]
pub struct Frames(String);

impl Frames {
    /// Appends an event. `id`: where its reader goes on from; `json`: without a line break, as
    /// serde_json writes it.
    pub fn event(&mut self, kind: Kind, id: &str, json: &str) {
        self.0.reserve(json.len() + id.len() + 32);
        // A String takes everything.
        let _taken = write!(self.0, "event: {}\nid: {id}\ndata: {json}\n\n", kind.as_str());
    }

    #[must_use]
    pub fn bytes(self) -> Bytes {
        self.0.into()
    }
}

/// One event. Its body is JSON, hence UTF-8.
#[must_use]
pub fn event(kind: Kind, id: &str, json: &[u8]) -> Bytes {
    let mut frames = Frames::default();
    frames.event(kind, id, &String::from_utf8_lossy(json));
    frames.bytes()
}

/// A comment, so that proxies and readers see that the connection is alive. The `id` makes no
/// event, and moves the reader on: one that hears of no change for long keeps a position of use.
#[must_use]
pub fn heartbeat(id: &str) -> Bytes {
    format!(":\nid: {id}\n\n").into()
}

/// How long the reader shall wait before it comes again.
#[must_use]
pub fn retry(millis: u64) -> Bytes {
    format!("retry: {millis}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_the_standard_says() {
        let mut frames = Frames::default();
        frames.event(Kind::Change, "a", "{\"n\":1}");
        frames.event(Kind::Change, "b", "{\"n\":2}");
        let expected = "event: change\nid: a\ndata: {\"n\":1}\n\n\
                        event: change\nid: b\ndata: {\"n\":2}\n\n";
        assert_eq!(frames.bytes(), expected);
        assert_eq!(event(Kind::Reset, "7", b"{}"), "event: reset\nid: 7\ndata: {}\n\n");
        assert_eq!(event(Kind::Snapshot, "7", b"{}"), "event: snapshot\nid: 7\ndata: {}\n\n");
        assert_eq!(heartbeat("7"), ":\nid: 7\n\n");
        assert_eq!(retry(1000), "retry: 1000\n\n");
    }
}
