//! The streams of an edge: their hubs, and their readers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

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

use super::{
    hub::{self, HEARTBEAT, HubContext, every},
    sse,
    topic::{JoinRequest, JoinedReader, Topic, TopicContext},
};
use crate::{
    infra::Context,
    workers::edge::{
        admission::{AdmissionControl, Occupant, UserAdmission, UserPermit},
        metrics::{EdgeMetrics, GaugeGuard, StreamEnd},
        query::{Queries, QueryReply, wakeups::WakeupSource},
        response_budget::ResponseBudget,
    },
};

/// The most readers of an edge. One takes some 30 KiB, its connection included.
pub const MAX_READERS: usize = 4_096;
/// The most readers of one user; more are refused as `too_many`.
const MAX_READERS_OF_USER: usize = 8;
/// The same of one who is staff: the screens of a restaurant may share a user.
const MAX_READERS_OF_STAFF: usize = 512;
/// Readers reconnect after this time, in milliseconds, each after another, so that those of an edge
/// that went away do not come to the next one all at once.
const RETRY: std::ops::Range<u64> = 200..1_200;

/// The hubs of an edge, and the bound on their readers.
pub struct LiveStreams {
    /// Keyed by the subjects that wake them.
    hubs: Mutex<HashMap<String, UnboundedSender<JoinRequest>>>,
    readers: UserAdmission,
    context: HubContext,
}

impl LiveStreams {
    /// Creates streams that end when edge drains, or [`LiveStreams::stop`] is cancelled.
    #[must_use]
    pub fn new(
        cx: &Context,
        queries: &Arc<Queries>,
        budget: &ResponseBudget,
        metrics: &Arc<EdgeMetrics>,
    ) -> Self {
        let topics = TopicContext { queries: queries.clone(), metrics: metrics.clone() };
        let context = HubContext {
            topics,
            wakeups: WakeupSource::new(&cx.nats),
            budget: budget.clone(),
            health: cx.health.clone(),
            stop: cx.drain.child_token(),
        };
        Self { hubs: Mutex::default(), readers: readers(), context }
    }

    /// Returns the token that ends all hubs and readers.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.context.stop
    }

    /// Opens a stream of events, from the position after `last_event_id` on. With each heartbeat
    /// `may_read` is evaluated again, and the stream ends if it is false.
    ///
    /// # Errors
    /// 404 if the subject of the topic does not exist; `503 unconfirmed`; `503 busy` if there are
    /// too many readers, or `429 too_many` if there are too many of the tenant or of the user, or
    /// the tenant's do not read.
    pub async fn open<F>(
        self: &Arc<Self>,
        reader: Occupant<'_>,
        topic: impl Topic,
        last_event_id: Option<String>,
        may_read: impl Fn() -> F + Send + 'static,
    ) -> Result<impl Stream<Item = Bytes> + Send + 'static, QueryReply>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let permit = self.readers.try_admit(reader)?;
        let (response, joined) = oneshot::channel();
        self.send_to_hub(topic, JoinRequest { last_event_id, response });
        // A hub that ended, with edge, or by a panic: the next one has room.
        let JoinedReader { catch_up, changes } = joined.await.map_err(|_| QueryReply::busy())??;
        let metrics = &self.context.topics.metrics;
        let reader = StreamReader {
            first: vec![catch_up, sse::retry(rand::random_range(RETRY))],
            changes,
            may_read,
            check: every(HEARTBEAT),
            ended: None,
            stop: self.context.stop.clone(),
            metrics: metrics.clone(),
            _counted: GaugeGuard::new(&metrics.stream_readers),
            _permit: permit,
        };
        Ok(unfold(reader, |mut reader| async move {
            let events = reader.next().await?;
            Some((events, reader))
        }))
    }

    /// Sends a reader to the hub of its topic, which is started if there is none.
    fn send_to_hub(self: &Arc<Self>, topic: impl Topic, join: JoinRequest) {
        let subject = topic.wake_subject();
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        let hub = hubs.entry(subject.clone()).or_insert_with(|| unbounded_channel().0);
        if let Err(unsent) = hub.send(join) {
            let (sender, joins) = unbounded_channel();
            let _first = sender.send(unsent.0);
            *hub = sender;
            let streams = self.clone();
            let retire = move |joins: &UnboundedReceiver<_>| streams.retire(&subject, joins);
            tokio::spawn(hub::run(self.context.clone(), topic, joins, retire));
        }
    }

    /// Removes a hub, unless somebody is joining it. Returns true if it is removed.
    fn retire(&self, subject: &str, joins: &UnboundedReceiver<JoinRequest>) -> bool {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        joins.is_empty() && hubs.remove(subject).is_some()
    }
}

struct StreamReader<M> {
    /// Sent before the changes, the last one first.
    first: Vec<Bytes>,
    changes: Receiver<Bytes>,
    may_read: M,
    check: Interval,
    /// The reason why edge ended it.
    ended: Option<StreamEnd>,
    stop: CancellationToken,
    metrics: Arc<EdgeMetrics>,
    _counted: GaugeGuard,
    _permit: UserPermit,
}

fn readers() -> UserAdmission {
    let tenants = AdmissionControl::new(MAX_READERS);
    UserAdmission::within(&tenants, MAX_READERS_OF_USER, MAX_READERS_OF_STAFF)
}

impl<M, F> StreamReader<M>
where
    M: Fn() -> F,
    F: Future<Output = bool>,
{
    /// Waits for events; `None` once the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.pop() {
            return Some(first);
        }
        let end = loop {
            tokio::select! {
                () = self.stop.cancelled() => break StreamEnd::Drained,
                _ = self.check.tick() => if !(self.may_read)().await {
                    break StreamEnd::Refused;
                },
                events = self.changes.recv() => match events {
                    Ok(events) => return Some(events),
                    Err(RecvError::Lagged(_)) => break StreamEnd::Slow,
                    // The hub panicked, or has ended with edge or because of its tenant.
                    Err(RecvError::Closed) => {
                        let is_refused = !self.stop.is_cancelled() && !(self.may_read)().await;
                        break if is_refused { StreamEnd::Refused } else { StreamEnd::Drained };
                    }
                },
            }
        };
        self.ended = Some(end);
        None
    }
}

impl<M> Drop for StreamReader<M> {
    fn drop(&mut self) {
        // A reader that left by itself had taken everything.
        let stalled = (!self.changes.is_empty()).then_some(StreamEnd::Stalled);
        if let Some(end) = self.ended.or(stalled) {
            self.metrics.stream_ends.with_label_values(&[end.as_str()]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::edge::admission::AdmissionError;

    fn trusted(tenant: &str) -> Occupant<'_> {
        Occupant { tenant, user: None, is_staff: true }
    }

    #[test]
    fn s5_08_the_readers_of_one_tenant_leave_room_for_those_of_others() {
        let readers = readers();
        let screens: Result<Vec<_>, _> =
            (0..MAX_READERS / 4).map(|_| readers.try_admit(trusted("t1"))).collect();
        assert!(screens.is_ok());
        let refused = readers.try_admit(trusted("t1")).err();
        assert_eq!(refused, Some(AdmissionError::ShareExceeded));
        assert!(readers.try_admit(trusted("t2")).is_ok());
        drop(screens);
        assert!(readers.try_admit(trusted("t1")).is_ok());
    }

    #[test]
    fn s7_11_the_streams_of_guests_leave_room_for_staffs() {
        let readers = readers();
        let mut held = Vec::new();
        // One of them tries as often as there are places, then as many as there are.
        for n in 0..2 * MAX_READERS {
            let user = format!("u{}", n.saturating_sub(MAX_READERS));
            let guest = Occupant { tenant: "t1", user: Some(&user), is_staff: false };
            held.extend(readers.try_admit(guest).ok());
            assert!(n >= MAX_READERS || held.len() <= MAX_READERS_OF_USER, "{n}");
        }
        assert_eq!(held.len(), MAX_READERS / 4 * 3 / 4);
        let staff = Occupant { tenant: "t1", user: Some("sam"), is_staff: true };
        assert!(readers.try_admit(staff).is_ok());
        assert!(readers.try_admit(trusted("t2")).is_ok());
    }
}
