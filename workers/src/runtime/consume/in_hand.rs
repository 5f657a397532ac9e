use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task;

use super::{
    fair_queue::HasTenant,
    held::HeldMessages,
    limits::HEARTBEAT,
    queues::{QueuedBatch, Queues},
};
use crate::runtime::Delivery;

/// A batch of fewer messages is small: most of its cost is the cost of being a batch.
const SMALL: usize = 32;

/// The kind of a batch at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    Main,
    /// Its tenants do not wait for the flood that a main batch is full of.
    Express,
    /// Its messages were held. Nobody waits for it.
    Beside,
}

/// A batch at work. Its messages stay known to the loop, for the signs of life.
pub(super) struct RunningBatch {
    pub(super) task: task::Id,
    pub(super) kind: BatchKind,
    pub(super) alone: bool,
    pub(super) beside_flood: bool,
    pub(super) deliveries: Arc<Vec<Delivery>>,
    pub(super) since: Instant,
}

impl RunningBatch {
    /// Returns whether no other batch of its kind is begun beside it. One that takes long is held
    /// up, and holds up nobody.
    fn is_small(&self) -> bool {
        self.deliveries.len() < SMALL && self.since.elapsed() < HEARTBEAT
    }
}

/// All messages that are received and not yet acknowledged: queued, held or at work.
pub(super) struct InHand {
    pub(super) queues: Queues,
    pub(super) held: HeldMessages,
    pub(super) running: Vec<RunningBatch>,
}

impl InHand {
    pub(super) fn new(sources: usize, at_once: usize) -> Self {
        Self {
            queues: Queues::new(sources),
            held: HeldMessages::default(),
            running: Vec::with_capacity(at_once + 1),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.running.is_empty()
    }

    /// Returns the number of messages that no batch has taken.
    pub(super) fn waiting(&self) -> usize {
        self.queues.len() + self.held.len()
    }

    pub(super) fn iter_waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.queues.iter().chain(self.held.iter())
    }

    /// Returns all messages in hand.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        let running = self.running.iter().flat_map(|batch| batch.deliveries.iter());
        self.iter_waiting().chain(running)
    }

    /// Returns the messages that are handled alone just now.
    pub(super) fn iter_alone(&self) -> impl Iterator<Item = &Delivery> {
        let alone = self.running.iter().filter(|batch| batch.alone);
        alone.flat_map(|batch| batch.deliveries.iter())
    }

    fn running_of(&self, kind: BatchKind) -> impl Iterator<Item = &RunningBatch> {
        self.running.iter().filter(move |batch| batch.kind == kind)
    }

    /// Returns whether another batch of this kind may begin.
    pub(super) fn has_room(&self, kind: BatchKind, at_once: usize) -> bool {
        self.running_of(kind).count() < at_once
            && !self.running_of(kind).any(RunningBatch::is_small)
    }

    /// Takes the next batch of this kind, if there is work for it: of tenants that have no messages
    /// in a batch of the other kind.
    pub(super) fn next(&mut self, kind: BatchKind) -> Option<QueuedBatch> {
        let Self { queues, running, .. } = self;
        let other = match kind {
            BatchKind::Main => BatchKind::Express,
            BatchKind::Express => BatchKind::Main,
            BatchKind::Beside => return None,
        };
        let others = || running.iter().filter(|batch| batch.kind == other);
        if kind == BatchKind::Express && !others().any(|batch| batch.beside_flood) {
            return None;
        }
        let messages = others().flat_map(|batch| batch.deliveries.iter());
        let held: HashSet<&str> = messages.map(Delivery::tenant).collect();
        let is_held = |tenant: &str| held.contains(tenant);
        match kind {
            BatchKind::Main => queues.next(is_held),
            _ => queues.next_express(is_held),
        }
    }

    /// Returns whether held messages may be tried: there are some, and none are being tried.
    pub(super) fn may_try_held(&self) -> bool {
        self.held.len() > 0 && self.running_of(BatchKind::Beside).next().is_none()
    }

    /// Returns whether all batches at work have begun within this time.
    pub(super) fn all_younger_than(&self, limit: Duration) -> bool {
        self.running.iter().all(|batch| batch.since.elapsed() < limit)
    }

    /// Forgets a batch that has ended. Returns whether it was a message alone.
    pub(super) fn end(&mut self, task: task::Id) -> bool {
        let at = self.running.iter().position(|batch| batch.task == task);
        at.is_some_and(|at| self.running.swap_remove(at).alone)
    }
}
