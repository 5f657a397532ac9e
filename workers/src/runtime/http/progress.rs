//! What a client of HTTP/2 has not taken yet, and since when.
//!
//! The system ends a connection whose other end takes nothing. A client of HTTP/2 may take all
//! that comes and yet allow no more of a response, which then stays in memory for as long as it
//! likes. So each piece of a response is known until it is written.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep};

use super::idle::RequestInFlight;

/// The pieces that a connection has in hand.
#[derive(Clone, Default)]
pub(super) struct Unwritten(Arc<Mutex<Vec<Weak<Mutex<Instant>>>>>);

impl Unwritten {
    /// Waits until nothing was taken of some piece for so long.
    pub(super) async fn stalls(&self, after: Duration) {
        while self.oldest().is_none_or(|moved| moved.elapsed() < after) {
            sleep(after / 4).await;
        }
    }

    /// Returns when something was taken of the piece that waits for the longest time.
    fn oldest(&self) -> Option<Instant> {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.retain(|piece| piece.strong_count() > 0);
        let moved = pieces.iter().filter_map(Weak::upgrade);
        moved.map(|moved| *moved.lock().unwrap_or_else(PoisonError::into_inner)).min()
    }

    fn add(&self, bytes: Bytes) -> Piece {
        let moved = Arc::new(Mutex::new(Instant::now()));
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.retain(|piece| piece.strong_count() > 0);
        pieces.push(Arc::downgrade(&moved));
        Piece { bytes, moved }
    }
}

/// A piece of a response, until it is written.
pub(super) struct Piece {
    bytes: Bytes,
    /// When something of it was taken last.
    moved: Arc<Mutex<Instant>>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.bytes.advance(count);
    }
}

/// The body of a response, whose pieces are known until they are written.
pub(super) struct ServedBody {
    body: Body,
    unwritten: Unwritten,
    _request: RequestInFlight,
}

impl ServedBody {
    pub(super) fn new(body: Body, unwritten: &Unwritten, request: RequestInFlight) -> Self {
        Self { body, unwritten: unwritten.clone(), _request: request }
    }
}

impl hyper::body::Body for ServedBody {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map_ok(|frame| frame.map_data(|bytes| self.unwritten.add(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
