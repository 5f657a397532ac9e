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
/// The tenants that have no messages in a main batch do not wait longer for it: something that it
/// needs may be locked.
const LONG: Duration = Duration::from_millis(100);
/// Most batches of a kind whose acknowledgements the server has not confirmed; no other begins
/// beside them. Their messages are bounded by the permits of their sources.
const MAX_ACKNOWLEDGED: usize = 32;

/// The kind of a batch at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    Main,
    /// Its tenants do not wait for the flood that a main batch is full of.
    Express,
    /// Its messages were held. Nobody waits for it.
    Beside,
}

/// A batch at work, or one that was and whose acknowledgements are on their way. Its messages stay
/// known to the loop, for the signs of life.
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

    fn tenants(&self) -> impl Iterator<Item = &str> {
        self.deliveries.iter().map(Delivery::tenant)
    }
}

/// All messages that are received and not yet acknowledged: queued, held, at work, or done and not
/// confirmed.
pub(super) struct InHand {
    pub(super) queues: Queues,
    pub(super) held: HeldMessages,
    pub(super) running: Vec<RunningBatch>,
    /// Batches whose work is done and whose acknowledgements are not confirmed.
    pub(super) acknowledged: Vec<RunningBatch>,
}

impl InHand {
    pub(super) fn new(sources: usize, at_once: usize) -> Self {
        Self {
            queues: Queues::new(sources),
            held: HeldMessages::default(),
            running: Vec::with_capacity(at_once + 1),
            acknowledged: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.running.is_empty() && self.acknowledged.is_empty()
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
        let batches = self.running.iter().chain(&self.acknowledged);
        self.iter_waiting().chain(batches.flat_map(|batch| batch.deliveries.iter()))
    }

    /// Returns the messages that are handled alone just now.
    pub(super) fn iter_alone(&self) -> impl Iterator<Item = &Delivery> {
        let alone = self.running.iter().filter(|batch| batch.alone);
        alone.flat_map(|batch| batch.deliveries.iter())
    }

    fn running_of(&self, kind: BatchKind) -> impl Iterator<Item = &RunningBatch> {
        self.running.iter().filter(move |batch| batch.kind == kind)
    }

    fn acknowledged_of(&self, kind: BatchKind) -> impl Iterator<Item = &RunningBatch> {
        self.acknowledged.iter().filter(move |batch| batch.kind == kind)
    }

    /// Returns whether the acknowledgements of too many batches of this kind are not confirmed.
    fn is_behind(&self, kind: BatchKind) -> bool {
        self.acknowledged_of(kind).count() >= MAX_ACKNOWLEDGED
    }

    /// Returns whether another batch of this kind may begin.
    pub(super) fn has_room(&self, kind: BatchKind, at_once: usize) -> bool {
        let is_full = self.running_of(kind).count() >= at_once;
        let waits = self.running_of(kind).any(RunningBatch::is_small)
            || kind == BatchKind::Main && self.fills_up();
        !(is_full || waits || self.is_behind(kind))
    }

    /// Returns whether the next main batch fills up while a small one is acknowledged: only tenants
    /// of that one wait, so no other waits for it.
    fn fills_up(&self) -> bool {
        let mut small = self.acknowledged_of(BatchKind::Main).filter(|batch| batch.is_small());
        small.any(|batch| {
            let tenants: HashSet<&str> = batch.tenants().collect();
            !self.queues.has_any(|tenant| !tenants.contains(tenant))
        })
    }

    /// Returns whether the other tenants may have batches beside the main ones.
    fn may_be_express(&self) -> bool {
        let may = |batch: &RunningBatch| batch.beside_flood || batch.since.elapsed() >= LONG;
        self.running_of(BatchKind::Main).any(may) || self.is_behind(BatchKind::Main)
    }

    /// Returns the time at which other tenants stop waiting for a main batch, if any wait for one.
    pub(super) fn express_at(&self) -> Option<Instant> {
        if self.queues.len() == 0 || self.may_be_express() {
            return None;
        }
        self.running_of(BatchKind::Main).map(|batch| batch.since + LONG).min()
    }

    /// Takes the next batch of this kind, if there is work for it: of tenants that have no messages
    /// in a batch of the other kind.
    pub(super) fn next(&mut self, kind: BatchKind) -> Option<QueuedBatch> {
        if kind == BatchKind::Express && !self.may_be_express() {
            return None;
        }
        let Self { queues, running, held, .. } = self;
        queues.set_held_up(held.tenants());
        let other = match kind {
            BatchKind::Main => BatchKind::Express,
            BatchKind::Express => BatchKind::Main,
            BatchKind::Beside => return None,
        };
        let others = running.iter().filter(|batch| batch.kind == other);
        let theirs: HashSet<&str> = others.flat_map(RunningBatch::tenants).collect();
        let is_held = |tenant: &str| theirs.contains(tenant);
        match kind {
            BatchKind::Main => queues.next(is_held),
            _ => queues.next_express(is_held),
        }
    }

    /// Returns whether held messages may be tried: there are some, and none are being tried.
    pub(super) fn may_try_held(&self) -> bool {
        self.held.len() > 0
            && self.running_of(BatchKind::Beside).next().is_none()
            && !self.is_behind(BatchKind::Beside)
    }

    /// Returns whether all batches that are not acknowledged have begun within this time.
    pub(super) fn all_younger_than(&self, limit: Duration) -> bool {
        let mut batches = self.running.iter().chain(&self.acknowledged);
        batches.all(|batch| batch.since.elapsed() < limit)
    }

    /// Takes off a batch whose work has ended.
    pub(super) fn end(&mut self, task: task::Id) -> Option<RunningBatch> {
        let at = self.running.iter().position(|batch| batch.task == task)?;
        Some(self.running.swap_remove(at))
    }

    /// Forgets a batch whose acknowledgements are confirmed.
    pub(super) fn confirmed(&mut self, task: task::Id) {
        self.acknowledged.retain(|batch| batch.task != task);
    }
}

#[cfg(test)]
mod tests;
