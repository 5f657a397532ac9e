use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::fair_queue::HasTenant;
use crate::runtime::Delivery;

/// A consumer has a backlog while more messages than this wait at the server. Fewer are in hand a
/// moment later.
pub const BACKLOG: u64 = 1000;
/// The number of last deliveries whose tenants are remembered.
const RECENT: usize = 1000;

/// A durable consumer, and its backlog as far as its deliveries to this process tell.
#[derive(Debug)]
pub struct Lane {
    pub(super) stream: &'static str,
    /// The name of the consumer.
    pub durable: &'static str,
    /// The lane whose backlog is overtaken here. Such a consumer exists only at times; the duty
    /// "overtaking" of command-handler makes and deletes it. A message that cannot be done here is
    /// left to the consumer that always exists.
    overtakes: Option<Arc<Lane>>,
    /// The number of messages that waited at the server when it last delivered one.
    pending: watch::Sender<u64>,
    /// The tenants of the last messages that were delivered during a backlog.
    recent: Mutex<VecDeque<Box<str>>>,
    /// The tenants of the last messages that were redelivered.
    redelivered: Mutex<VecDeque<Box<str>>>,
}

impl Lane {
    /// Returns the lane of a consumer that always exists.
    pub(super) fn new(stream: &'static str, durable: &'static str) -> Self {
        Self {
            stream,
            durable,
            overtakes: None,
            pending: watch::Sender::default(),
            recent: Mutex::default(),
            redelivered: Mutex::default(),
        }
    }

    /// Returns the lane of a consumer that always exists, and after it lanes each of which
    /// overtakes the one before it.
    #[must_use]
    pub fn chain(
        stream: &'static str,
        durable: &'static str,
        overtaking: &[&'static str],
    ) -> Vec<Arc<Self>> {
        let mut lanes = vec![Arc::new(Self::new(stream, durable))];
        for durable in overtaking {
            let overtakes = lanes.last().cloned();
            lanes.push(Arc::new(Self { overtakes, ..Self::new(stream, durable) }));
        }
        lanes
    }

    pub(super) fn overtakes(&self) -> Option<&Arc<Self>> {
        self.overtakes.as_ref()
    }

    /// Waits until the consumer is known to have a backlog.
    pub async fn backlogged(&self) {
        let mut pending = self.pending.subscribe();
        // The sender is not dropped before this ends.
        drop(pending.wait_for(|pending| *pending > BACKLOG).await);
    }

    /// Returns whether the consumer is known to have a backlog.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        *self.pending.borrow() > BACKLOG
    }

    /// Learns from deliveries, given in their order.
    pub(super) fn observe(&self, deliveries: &[Delivery]) {
        let Some(last) = deliveries.last() else { return };
        let redelivered = deliveries.iter().filter(|delivery| delivery.deliveries() > 1);
        remember(&mut lock(&self.redelivered), redelivered);
        let mut recent = lock(&self.recent);
        remember(&mut recent, deliveries.iter().filter(|delivery| delivery.pending > BACKLOG));
        if last.pending <= BACKLOG {
            // The next backlog is caused by others, perhaps.
            recent.clear();
        }
        drop(recent);
        self.set(last.pending);
    }

    /// Records that the server delivers nothing now.
    pub(super) fn set_idle(&self) {
        self.set(0);
    }

    fn set(&self, pending: u64) {
        self.pending.send_if_modified(|known| std::mem::replace(known, pending) != pending);
    }

    /// Returns the tenants of the last messages that were delivered during a backlog.
    #[must_use]
    pub fn recent(&self) -> Vec<Box<str>> {
        lock(&self.recent).iter().cloned().collect()
    }

    /// Returns the tenants of the last messages that were redelivered.
    #[must_use]
    pub fn redelivered(&self) -> Vec<Box<str>> {
        lock(&self.redelivered).iter().cloned().collect()
    }
}

fn remember<'a>(tenants: &mut VecDeque<Box<str>>, deliveries: impl Iterator<Item = &'a Delivery>) {
    for delivery in deliveries {
        if tenants.len() >= RECENT {
            tenants.pop_front();
        }
        tenants.push_back(delivery.tenant().into());
    }
}

fn lock(tenants: &Mutex<VecDeque<Box<str>>>) -> MutexGuard<'_, VecDeque<Box<str>>> {
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::{super::queues::tests::delivery, *};

    fn deliver(lane: &Lane, count: usize, pending: u64) {
        let delivered: Vec<_> =
            (0..count).map(|_| Delivery { pending, ..delivery(0, 1) }).collect();
        lane.observe(&delivered);
    }

    #[test]
    fn a_backlog_is_known_by_what_is_delivered_and_forgotten_with_its_end() {
        let lane = Lane::new("S", "d");
        deliver(&lane, 5, BACKLOG);
        assert!(!lane.is_backlogged() && lane.backlogged().now_or_never().is_none());
        assert!(lane.recent().is_empty(), "a sender without a backlog causes none");
        deliver(&lane, 2 * RECENT, BACKLOG + 1);
        assert!(lane.is_backlogged() && lane.backlogged().now_or_never().is_some());
        assert_eq!((lane.recent().len(), &*lane.recent()[0]), (RECENT, "t1"));
        deliver(&lane, 1, 3);
        assert!(!lane.is_backlogged() && lane.recent().is_empty());
        deliver(&lane, 1, BACKLOG + 1);
        lane.set_idle();
        assert!(!lane.is_backlogged());
        assert_eq!(lane.recent().len(), 1, "too many may be in hand");
        assert_eq!(lane.redelivered().len(), 0);
        lane.observe(&[delivery(0, 1), delivery(0, 2)]);
        assert_eq!(lane.redelivered().len(), 1, "with or without a backlog");
    }

    #[test]
    fn each_lane_overtakes_the_one_before_it() {
        let lanes = Lane::chain("S", "d", &["d-1", "d-2"]);
        let names: Vec<_> = lanes.iter().map(|lane| lane.durable).collect();
        let overtaken = lanes.iter().filter_map(|lane| Some(lane.overtakes()?.durable));
        assert_eq!(names, ["d", "d-1", "d-2"]);
        assert_eq!(overtaken.collect::<Vec<_>>(), ["d", "d-1"]);
    }
}
