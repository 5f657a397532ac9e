//! What a handler has left unread of the body of a request.
//!
//! A request that is refused before its body is read, as for a rate, leaves its body on the
//! connection, where the next request would begin. What comes of it at once is read and thrown
//! away, so that the connection goes on; else the response says that it does not.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, http::header::EXPECT};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::timeout;

/// The time in which the rest of a body has to come. A client sends it right behind the head.
const WITHIN: Duration = Duration::from_millis(250);
/// The most bytes that are read to be thrown away: the largest body that anything here takes.
const MOST: u64 = 64 * 1024;

/// The body of a request, also while a handler has it.
pub(super) struct RequestBody {
    shared: Arc<Mutex<SharedState>>,
    /// The client sends the body only if it is asked for.
    waits: bool,
}

struct SharedState {
    body: Body,
    is_read: bool,
}

/// The same body, as the handler gets it.
struct Shared(Arc<Mutex<SharedState>>);

impl RequestBody {
    /// Shares the body of a request with its handler.
    pub(super) fn share(request: Request) -> (Self, Request) {
        let waits = request.headers().contains_key(EXPECT);
        let (head, body) = request.into_parts();
        let shared = Arc::new(Mutex::new(SharedState { body, is_read: false }));
        let body = Body::new(Shared(shared.clone()));
        (Self { shared, waits }, Request::from_parts(head, body))
    }

    /// Reads what the handler has left. Returns whether the body is read to its end.
    pub(super) async fn finish(self) -> bool {
        let left = {
            let state = lock(&self.shared);
            if state.is_read || state.body.is_end_stream() {
                return true;
            }
            state.body.size_hint().lower()
        };
        if self.waits || left > MOST {
            return false;
        }
        timeout(WITHIN, self.skip()).await.unwrap_or(false)
    }

    async fn skip(&self) -> bool {
        let mut read = 0;
        while read <= MOST {
            match poll_fn(|cx| poll(&self.shared, cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    }
}

fn lock(shared: &Mutex<SharedState>) -> MutexGuard<'_, SharedState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn poll(
    shared: &Mutex<SharedState>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
    let mut state = lock(shared);
    let polled = Pin::new(&mut state.body).poll_frame(cx);
    state.is_read |= matches!(polled, Poll::Ready(None));
    polled
}

impl hyper::body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        poll(&self.0, cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}
