//! Streams: what is new in a list or a view, as server-sent events.
//!
//! **Terms.** A *topic* is what a stream is about: the active orders of a tenant ([`list`]) or an
//! aggregate ([`view`]). While it has readers it has one *hub* in each edge ([`hub`]), which asks
//! for all of them and tells all of them the same bytes ([`frame`]).
//!
//! **Guarantee.** A reader that comes is told nothing older than an outcome that was sent before
//! it came; then every change, and never an older row after a newer one. One that was cut off, by
//! whatever, and comes again with the last `id` that it got, to any edge, misses nothing.
//!
//! **Bounds.** So many readers as [`MAX_READERS`], a quarter of them of one tenant; what is kept
//! for a slow one is bounded by the hub, and one that takes nothing at all loses its connection.
//! Whether a reader may still read is asked with each heartbeat; while that is not certain it goes
//! on. A drain ends all streams at once: readers come again, to another edge.

mod frame;
mod hub;
mod list;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use brigade_contracts::Token;
use bytes::Bytes;
use futures::{Stream, stream::unfold};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::Interval,
};
use tokio_util::sync::CancellationToken;

use self::hub::{HEARTBEAT, Join, Joined, every};
pub use self::{hub::Topic, list::ActiveOrders, view::View};
use super::{
    Edge,
    places::{Place, Places},
    reply::Reply,
    wait::Counted,
};

/// Most readers of an edge. One takes some 30 KiB, its connection included.
const MAX_READERS: usize = 4_096;
/// Readers come again after this time, in milliseconds, each after another, so that those of an
/// edge that went away do not come to the next one all at once.
const RETRY: std::ops::Range<u64> = 200..1_200;

/// The hubs, and who may be there.
pub struct Streams {
    /// By the subject that wakes them.
    hubs: Mutex<HashMap<String, UnboundedSender<Join>>>,
    places: Places,
    /// Ends all of them.
    stop: CancellationToken,
}

impl Streams {
    /// They end when `drain` is cancelled, or [`Streams::stop`] is.
    #[must_use]
    pub fn new(drain: &CancellationToken) -> Self {
        let places = Places::new(MAX_READERS);
        Self { hubs: Mutex::default(), places, stop: drain.child_token() }
    }

    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Hands a reader to the hub of its topic, which is started where there is none.
    fn hand(&self, edge: &Arc<Edge>, topic: impl Topic, join: Join) {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        let hub = hubs.entry(topic.wake()).or_insert_with(|| unbounded_channel().0);
        if let Err(unsent) = hub.send(join) {
            let (sender, joins) = unbounded_channel();
            let _first = sender.send(unsent.0);
            *hub = sender;
            tokio::spawn(hub::run(edge.clone(), topic, joins));
        }
    }

    /// Takes a hub out, unless somebody has come to it.
    fn retire(&self, subject: &str, joins: &UnboundedReceiver<Join>) -> bool {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        joins.is_empty() && hubs.remove(subject).is_some()
    }
}

/// What a reader is told, from its position on; `last` is that of `Last-Event-ID`. `may_read`
/// tells, with each heartbeat, whether it still may.
///
/// # Errors
/// 404, `503 unconfirmed`, `503 busy` where there are too many readers, or `429 too_many` where
/// there are too many of the tenant.
pub async fn read<F>(
    edge: &Arc<Edge>,
    tenant: &Token,
    topic: impl Topic,
    last: Option<String>,
    may_read: impl Fn() -> F + Send + 'static,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, Reply>
where
    F: Future<Output = bool> + Send + 'static,
{
    let place = edge.streams.places.take(tenant.as_str())?;
    let (answer, answered) = oneshot::channel();
    edge.streams.hand(edge, topic, Join { last, answer });
    // A hub that ended, with edge, or by a panic: the next one has room.
    let Joined { first, rest } = answered.await.map_err(|_| Reply::busy())??;
    let reader = Reader {
        first: vec![first, frame::retry(rand::random_range(RETRY))],
        rest,
        may_read,
        check: every(HEARTBEAT),
        ended: None,
        _counted: Counted::new(&edge.cx.metrics.stream_readers),
        edge: edge.clone(),
        _place: place,
    };
    Ok(unfold(reader, |mut reader| async move {
        let frames = reader.next().await?;
        Some((frames, reader))
    }))
}

struct Reader<M> {
    /// The last one is the next.
    first: Vec<Bytes>,
    rest: Receiver<Bytes>,
    may_read: M,
    check: Interval,
    /// Why edge ended it.
    ended: Option<&'static str>,
    _counted: Counted,
    edge: Arc<Edge>,
    _place: Place,
}

impl<M, F> Reader<M>
where
    M: Fn() -> F,
    F: Future<Output = bool>,
{
    /// `None`: its stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.pop() {
            return Some(first);
        }
        let why = loop {
            tokio::select! {
                () = self.edge.streams.stop.cancelled() => break "drained",
                _ = self.check.tick() => if !(self.may_read)().await {
                    break "refused";
                },
                told = self.rest.recv() => match told {
                    Ok(frames) => return Some(frames),
                    Err(RecvError::Lagged(_)) => break "slow",
                    // The hub panicked, or is no more because edge is not.
                    Err(RecvError::Closed) => break "drained",
                },
            }
        };
        self.ended = Some(why);
        None
    }
}

impl<M> Drop for Reader<M> {
    fn drop(&mut self) {
        // One that left by itself had taken everything.
        let stalled = (!self.rest.is_empty()).then_some("stalled");
        if let Some(why) = self.ended.or(stalled) {
            self.edge.cx.metrics.stream_ends.with_label_values(&[why]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_08_the_readers_of_one_tenant_leave_room_for_those_of_others() {
        let streams = Streams::new(&CancellationToken::new());
        let take = |tenant: &str| streams.places.take(tenant).map_err(|reply| reply.status);
        let screens: Result<Vec<_>, _> = (0..MAX_READERS / 4).map(|_| take("t1")).collect();
        assert!(screens.is_ok());
        assert_eq!(take("t1").err(), Some(429));
        assert!(take("t2").is_ok());
        drop(screens);
        assert!(take("t1").is_ok());
    }
}
