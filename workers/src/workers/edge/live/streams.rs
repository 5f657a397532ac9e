//! The streams of an edge: their hubs, and their readers.

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

use super::{
    hub::{self, HEARTBEAT, HubContext, every},
    sse,
    topic::{JoinRequest, JoinedReader, Topic, TopicContext},
};
use crate::{
    infra::Context,
    workers::edge::{
        admission::{AdmissionControl, AdmissionPermit},
        metrics::{EdgeMetrics, GaugeGuard, StreamEnd},
        query::{Queries, QueryReply, wakeups::WakeupSource},
        response_budget::ResponseBudget,
    },
};

/// The most readers of an edge. One takes some 30 KiB, its connection included.
pub const MAX_READERS: usize = 4_096;
/// Readers reconnect after this time, in milliseconds, each after another, so that those of an edge
/// that went away do not come to the next one all at once.
const RETRY: std::ops::Range<u64> = 200..1_200;

/// The hubs of an edge, and the bound on their readers.
pub struct LiveStreams {
    /// Keyed by the subjects that wake them.
    hubs: Mutex<HashMap<String, UnboundedSender<JoinRequest>>>,
    readers: AdmissionControl,
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
        let readers = AdmissionControl::new(MAX_READERS);
        Self { hubs: Mutex::default(), readers, context }
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
    /// too many readers, or `429 too_many` if there are too many of the tenant or they do not read.
    pub async fn open<F>(
        self: &Arc<Self>,
        tenant: &Token,
        topic: impl Topic,
        last_event_id: Option<String>,
        may_read: impl Fn() -> F + Send + 'static,
    ) -> Result<impl Stream<Item = Bytes> + Send + 'static, QueryReply>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let permit = self.readers.try_admit(tenant.as_str())?;
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
    _permit: AdmissionPermit,
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

    #[test]
    fn s5_08_the_readers_of_one_tenant_leave_room_for_those_of_others() {
        let readers = AdmissionControl::new(MAX_READERS);
        let screens: Result<Vec<_>, _> =
            (0..MAX_READERS / 4).map(|_| readers.try_admit("t1")).collect();
        assert!(screens.is_ok());
        assert_eq!(readers.try_admit("t1").err(), Some(AdmissionError::ShareExceeded));
        assert!(readers.try_admit("t2").is_ok());
        drop(screens);
        assert!(readers.try_admit("t1").is_ok());
    }
}
