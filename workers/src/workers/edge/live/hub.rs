//! A hub: runs the query of a topic for all its readers, and sends all of them what is new.
//!
//! Pushes only wake it; what it sends comes from the query alone, so a push that is lost, late or
//! wrong costs at most the second after which it queries anyway. One query is under way at a time,
//! and all that woke the hub meanwhile is covered by the next one. A reader is brought to the
//! moment of one answer and gets everything from the next one on: so it misses nothing, and never
//! gets something older than what it has, since a query starts after the answers before it were
//! given. While Postgres is unavailable a hub sends nothing but heartbeats.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use tokio::{
    sync::{broadcast, mpsc::UnboundedReceiver},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    sse,
    topic::{JoinRequest, JoinedReader, Topic, TopicContext},
};
use crate::{
    infra::Health,
    workers::edge::{
        metrics::GaugeGuard,
        query::{QueryReply, wakeups::WakeupSource},
        response_budget::ResponseBudget,
    },
};

/// A push may be lost, so a hub also queries this often.
const REFRESH: Duration = Duration::from_secs(1);
/// The shortest time between two queries: under load, an answer has several changes.
const PACE: Duration = Duration::from_millis(10);
/// The interval at which readers, and proxies in between, see that the connection is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Events are kept for the slowest reader in at most so many pieces of at most [`PIECE_BYTES`]:
/// 8 MiB. A reader that is further behind is cut off, and resumes.
const MAX_PIECES: usize = 256;
const PIECE_BYTES: usize = 32 * 1024;

/// The surroundings of all hubs.
#[derive(Clone)]
pub struct HubContext {
    pub topics: TopicContext,
    pub wakeups: WakeupSource,
    pub budget: ResponseBudget,
    pub health: Health,
    /// Ends all hubs and readers.
    pub stop: CancellationToken,
}

/// Serves the readers of a topic until all hubs are stopped, the tenant is not served any more, or
/// there are no readers and `retire` says that none is joining.
pub async fn run<T: Topic>(
    context: HubContext,
    mut topic: T,
    mut joins: UnboundedReceiver<JoinRequest>,
    retire: impl Fn(&UnboundedReceiver<JoinRequest>) -> bool,
) {
    let Ok(mut wakeups) = context.wakeups.subscribe(topic.wake_subject()).await else { return };
    let _counted = GaugeGuard::new(&context.topics.metrics.stream_hubs);
    let duty = context.health.duty("streams");
    let (changes, _) = broadcast::channel(MAX_PIECES);
    let (mut refresh, mut heartbeat) = (every(REFRESH), every(HEARTBEAT));
    let mut joining = Vec::new();
    loop {
        duty.moved();
        tokio::select! {
            () = context.stop.cancelled() => return,
            _ = joins.recv_many(&mut joining, usize::MAX) => {}
            Some(()) = wakeups.next(), if !topic.is_heavy() => {}
            _ = refresh.tick() => {}
            _ = heartbeat.tick() => {
                let events = topic.position().map(|position| sse::heartbeat(&position));
                broadcast_events(&changes, events);
                continue;
            }
        }
        // Whatever came until now is covered by the same query.
        joins.recv_many(&mut joining, usize::MAX).now_or_never();
        wakeups.discard_pending();
        let began = Instant::now();
        let joining = std::mem::take(&mut joining);
        if let Err(refusal) = context.topics.queries.tenants.admit(topic.tenant()).await {
            refuse(joining, &refusal.into());
            // Nobody joins a hub that has ended: the next reader starts another one.
            retire(&joins);
            return;
        }
        refresh_readers(&context, &mut topic, &changes, joining).await;
        if changes.receiver_count() == 0 && retire(&joins) {
            return;
        }
        sleep_until(began + PACE).await;
    }
}

/// Ticks after each period, and skips ticks that nobody had the time for.
pub fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Queries once, sends the changes to the readers that are there, and then admits those that join.
async fn refresh_readers<T: Topic>(
    context: &HubContext,
    topic: &mut T,
    changes: &broadcast::Sender<Bytes>,
    joining: Vec<JoinRequest>,
) {
    match topic.advance(&context.topics).await {
        Ok(events) => {
            broadcast_events(changes, events);
            admit(context, topic, changes, joining).await;
        }
        Err(reply) => refuse(joining, &reply),
    }
}

fn refuse(joining: Vec<JoinRequest>, reply: &QueryReply) {
    for join in joining {
        let _gone = join.response.send(Err(reply.clone()));
    }
}

fn broadcast_events(changes: &broadcast::Sender<Bytes>, events: Option<Bytes>) {
    let mut events = events.unwrap_or_default();
    while !events.is_empty() {
        // An error says that there are no readers.
        let _received = changes.send(events.split_to(events.len().min(PIECE_BYTES)));
    }
}

/// Admits readers. Those with the same position share the same bytes, which are charged once.
async fn admit<T: Topic>(
    context: &HubContext,
    topic: &T,
    changes: &broadcast::Sender<Bytes>,
    mut joining: Vec<JoinRequest>,
) {
    joining.sort_by(|a, b| a.last_event_id.cmp(&b.last_event_id));
    let groups = joining.chunk_by(|a, b| a.last_event_id == b.last_event_id);
    let results = groups.map(async |group| {
        let last_event_id = group.first().and_then(|join| join.last_event_id.as_deref());
        let events = topic.catch_up(&context.topics, last_event_id).await;
        let charged = events.and_then(|events| {
            let charged = context.budget.charge(topic.tenant().as_str(), events);
            charged.map_err(QueryReply::from)
        });
        vec![charged; group.len()]
    });
    let results = join_all(results).await.concat();
    for (join, result) in joining.into_iter().zip(results) {
        let joined = result.map(|catch_up| JoinedReader { catch_up, changes: changes.subscribe() });
        let _gone = join.response.send(joined);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn what_is_kept_for_a_slow_reader_is_bounded_in_bytes() {
        let (sender, mut reader) = broadcast::channel(MAX_PIECES);
        let mut slow = sender.subscribe();
        // As large as the body of a list may be.
        let reset = Bytes::from(vec![b'x'; 900_000]);
        let mut sent = 0;
        while sent < MAX_PIECES * PIECE_BYTES {
            broadcast_events(&sender, Some(reset.clone()));
            let mut received = 0;
            while let Ok(piece) = reader.try_recv() {
                assert!(piece.len() <= PIECE_BYTES);
                received += piece.len();
            }
            assert_eq!(received, reset.len(), "nothing is lost on the way");
            sent += received;
        }
        assert!(matches!(slow.try_recv(), Err(TryRecvError::Lagged(_))));
    }
}
