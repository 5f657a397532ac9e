//! A hub: asks one question for all readers of a topic, and tells all of them what is new.
//!
//! Pushes only wake it; what it tells comes from the question alone, so a push that is lost, late
//! or wrong costs at most the second after which it asks anyway. One question is under way at a
//! time, and all that woke it meanwhile is answered by the next one. A reader is brought to the
//! moment of one answer and hears of everything from the next one on: so it misses nothing, and
//! is never told something older than what it has, since a question starts after the answers
//! before it were given. While Postgres is away a hub tells nothing but heartbeats.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::join_all};
use tokio::{
    sync::{broadcast, mpsc::UnboundedReceiver, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::{Edge, frame};
use crate::workers::edge::{reply::Reply, wait::Counted};

/// A push may be lost, so a hub also asks this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A hub asks no sooner than this after it last did: under load, several changes an answer.
const PACE: Duration = Duration::from_millis(10);
/// How often readers, and what is in between, hear that the connection is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// What a hub tells is kept for its slowest reader in pieces of at most [`PIECE`] bytes, at most
/// so many of them: 8 MiB. A reader that is further behind is cut off, and resumes.
const PIECES: usize = 256;
const PIECE: usize = 32 * 1024;

/// What readers are told about. It knows what they have been told.
pub trait Topic: Send + Sync + 'static {
    /// A push on this subject may mean that there is something new.
    fn wake(&self) -> String;

    /// Where readers are that were told everything; `None` before the first answer.
    fn position(&self) -> Option<String>;

    /// Whether what is new is so much that nobody shall be told of it at each push.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Asks what is new for those who were told everything before; `None`: nothing.
    ///
    /// # Errors
    /// Where that is not certain; nothing has happened then.
    fn advance(&mut self, edge: &Edge)
    -> impl Future<Output = Result<Option<Bytes>, Reply>> + Send;

    /// What brings a reader there that comes with this position, or with none.
    ///
    /// # Errors
    /// Where that is not certain, or there is no such thing.
    fn first(
        &self,
        edge: &Edge,
        last: Option<&str>,
    ) -> impl Future<Output = Result<Bytes, Reply>> + Send;
}

/// A reader that comes.
pub struct Join {
    /// The position that it has.
    pub last: Option<String>,
    pub answer: oneshot::Sender<Result<Joined, Reply>>,
}

/// What a reader is told first, and all that comes after it.
pub struct Joined {
    pub first: Bytes,
    pub rest: broadcast::Receiver<Bytes>,
}

/// Serves the readers of a topic until edge drains, or there are none.
pub async fn run<T: Topic>(edge: Arc<Edge>, mut topic: T, mut joins: UnboundedReceiver<Join>) {
    let subject = topic.wake();
    let Ok(mut wakes) = edge.cx.nats.client.subscribe(subject.clone()).await else { return };
    // Only what the server knows of can wake: from the first question on nothing is missed.
    edge.cx.nats.round_trip().await;
    let _counted = Counted::new(&edge.cx.metrics.stream_hubs);
    let duty = edge.cx.health.duty("streams");
    let (told, _) = broadcast::channel(PIECES);
    let (mut again, mut beat) = (every(ASK_AGAIN), every(HEARTBEAT));
    let mut joining = Vec::new();
    loop {
        duty.moved();
        tokio::select! {
            () = edge.streams.stop.cancelled() => return,
            _ = joins.recv_many(&mut joining, usize::MAX) => {}
            Some(_) = wakes.next(), if !topic.is_heavy() => {}
            _ = again.tick() => {}
            _ = beat.tick() => {
                tell(&told, topic.position().map(|position| frame::heartbeat(&position)));
                continue;
            }
        }
        // Whatever came until now is answered by the same question.
        joins.recv_many(&mut joining, usize::MAX).now_or_never();
        while let Some(Some(_)) = wakes.next().now_or_never() {}
        let began = Instant::now();
        ask(&edge, &mut topic, &told, std::mem::take(&mut joining)).await;
        if told.receiver_count() == 0 && edge.streams.retire(&subject, &joins) {
            return;
        }
        sleep_until(began + PACE).await;
    }
}

/// Ticks after each period, and not at once again for ticks that nobody had the time for.
pub fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Asks once, tells the readers that are there, and then lets those in that come.
async fn ask<T: Topic>(
    edge: &Edge,
    topic: &mut T,
    told: &broadcast::Sender<Bytes>,
    joining: Vec<Join>,
) {
    match topic.advance(edge).await {
        Ok(news) => {
            tell(told, news);
            admit(edge, topic, told, joining).await;
        }
        Err(reply) => {
            for join in joining {
                let _gone = join.answer.send(Err(reply.clone()));
            }
        }
    }
}

fn tell(told: &broadcast::Sender<Bytes>, frames: Option<Bytes>) {
    let mut frames = frames.unwrap_or_default();
    while !frames.is_empty() {
        // An error says that nobody is there to hear it.
        let _heard = told.send(frames.split_to(frames.len().min(PIECE)));
    }
}

/// Those with the same position are told the same.
async fn admit<T: Topic>(
    edge: &Edge,
    topic: &T,
    told: &broadcast::Sender<Bytes>,
    mut joining: Vec<Join>,
) {
    joining.sort_by(|a, b| a.last.cmp(&b.last));
    let groups = joining.chunk_by(|a, b| a.last == b.last);
    let firsts = groups.map(async |group| {
        let last = group.first().and_then(|join| join.last.as_deref());
        vec![topic.first(edge, last).await; group.len()]
    });
    let firsts = join_all(firsts).await.concat();
    for (join, first) in joining.into_iter().zip(firsts) {
        let _gone = join.answer.send(first.map(|first| Joined { first, rest: told.subscribe() }));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn what_is_kept_for_a_slow_reader_is_bounded_in_bytes() {
        let (told, mut reader) = broadcast::channel(PIECES);
        let mut slow = told.subscribe();
        // As large as the body of a list may be.
        let reset = Bytes::from(vec![b'x'; 900_000]);
        let mut sent = 0;
        while sent < PIECES * PIECE {
            tell(&told, Some(reset.clone()));
            let mut heard = 0;
            while let Ok(piece) = reader.try_recv() {
                assert!(piece.len() <= PIECE);
                heard += piece.len();
            }
            assert_eq!(heard, reset.len(), "nothing is lost on the way");
            sent += heard;
        }
        assert!(matches!(slow.try_recv(), Err(TryRecvError::Lagged(_))));
    }
}
