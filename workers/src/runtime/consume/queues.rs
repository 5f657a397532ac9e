use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use brigade_contracts::Token;

use super::{
    fair_queue::{FairQueue, HasTenant},
    room::Room,
};
use crate::runtime::{Delivery, delivery::Origin};

/// From this delivery on a message is handled alone: the messages in its batch may have failed
/// because of it, or it because of them. Deliveries that this process gave back do not count.
pub(super) const ALONE_FROM: i64 = 3;
/// Most requests that may wait; more are refused as `busy`.
const MAX_WAITING: usize = 10_000;
/// Most of them of one tenant; more are refused as `too_many`.
const MAX_WAITING_OF_TENANT: usize = MAX_WAITING / 4;
/// Pause after a dependency was found away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// Most messages in hand that are handled alone; more are given back. They hold no permit of their
/// source, so that messages that fail again and again take no room from the rest.
const MAX_ALONE: usize = 256;
/// Most of them of one tenant.
const MAX_ALONE_OF_TENANT: usize = MAX_ALONE / 4;

/// From so many messages of a tenant that wait at one source on, a batch is full of them: the other
/// tenants get batches of their own.
const FLOOD: usize = 32;
/// Others count as served for this long after a batch that had messages of theirs.
const SERVED: Duration = Duration::from_secs(2);

/// Messages in hand that wait for their batch, by source, and there by tenant.
pub(super) struct Queues {
    waiting: Vec<FairQueue<Delivery>>,
    /// Messages that are handled one by one.
    alone: FairQueue<Delivery>,
    /// The last batch was a message alone; they take turns with the others.
    was_alone: bool,
    /// No stored message is taken until then, because a dependency is away. Requests go on: their
    /// senders want a response, even if it says that nothing was decided.
    paused_until: Option<Instant>,
    /// The same for messages that are handled alone: one of them that waits makes no other wait.
    alone_paused_until: Option<Instant>,
    /// The tenants that somebody else's lock holds up: whatever they send may wait for it.
    held_up: HashSet<Box<str>>,
    /// When a batch last had messages of several tenants or of others than the floods, and how many.
    served: Option<(Instant, usize)>,
}

/// Messages to be handled together.
pub(super) struct QueuedBatch {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) alone: bool,
    /// It was taken while a tenant's flood fills batches: the other tenants may have batches beside
    /// it.
    pub(super) beside_flood: bool,
}

/// The reason why a message is not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueFull {
    /// Too many of its source wait.
    Source,
    /// Too many of its tenant wait at its source.
    Tenant,
    /// Too many that are handled alone are in hand, or too many of its tenant.
    Alone,
    /// The worker ends.
    Drained,
}

impl Delivery {
    /// Returns whether it is handled alone.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.tried_deliveries() >= ALONE_FROM
    }
}

impl HasTenant for Delivery {
    /// Returns the second token of its subject. Messages without a token there share one queue.
    fn tenant(&self) -> &str {
        let tenant = self.subject().split('.').nth(1).unwrap_or_default();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if tenant.len() <= Token::MAX_LEN && tenant.bytes().all(is_token) { tenant } else { "" }
    }
}

impl Queues {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            waiting: (0..sources).map(|_| FairQueue::default()).collect(),
            alone: FairQueue::default(),
            was_alone: false,
            paused_until: None,
            alone_paused_until: None,
            held_up: HashSet::new(),
            served: None,
        }
    }

    /// Sets the tenants that are held up: their messages are handled like floods, so that no other
    /// tenant is in a batch that waits for a lock.
    pub(super) fn set_held_up(&mut self, tenants: HashSet<Box<str>>) {
        self.held_up = tenants;
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The message, if there is no room for it.
    pub(super) fn push(&mut self, delivery: Delivery) -> Result<(), (QueueFull, Box<Delivery>)> {
        let waiting = &mut self.waiting[delivery.source];
        if delivery.is_alone() {
            let of_tenant = self.alone.waiting_of(delivery.tenant());
            if self.alone.len() >= MAX_ALONE || of_tenant >= MAX_ALONE_OF_TENANT {
                return Err((QueueFull::Alone, Box::new(delivery)));
            }
            self.alone.push_back(Delivery { permit: None, ..delivery });
        } else if waiting.len() >= MAX_WAITING {
            return Err((QueueFull::Source, Box::new(delivery)));
        } else if waiting.waiting_of(delivery.tenant()) >= MAX_WAITING_OF_TENANT {
            return Err((QueueFull::Tenant, Box::new(delivery)));
        } else {
            waiting.push_back(delivery);
        }
        Ok(())
    }

    /// Takes the next batch: one message alone, or as many as a batch takes in equal shares from
    /// all sources that have work, and of each in equal shares from all tenants. If there are
    /// floods, only from these: the other tenants are left to [`Queues::next_express`].
    ///
    /// Tenants that have messages in an express batch (`is_held`) are left out, so that the messages
    /// of a tenant are handled in the order in which they came.
    pub(super) fn next(&mut self, is_held: impl Fn(&str) -> bool) -> Option<QueuedBatch> {
        let now = Instant::now();
        let floods = self.floods(&is_held, now);
        let beside_flood = !floods.is_empty();
        let may = |tenant: &str| (!beside_flood || floods.contains(tenant)) && !is_held(tenant);
        let waits = self.alone_paused_until.is_some_and(|until| until > now);
        let may_be_alone = |next: &Delivery| self.may_begin(next, now) && !is_held(next.tenant());
        let alone = !waits && self.alone.front().is_some_and(may_be_alone);
        if alone && (!self.was_alone || self.ready(&may, now).is_empty()) {
            self.was_alone = true;
            let deliveries = self.alone.pop().into_iter().collect();
            return Some(QueuedBatch { deliveries, alone: true, beside_flood });
        }
        let others = self.others(&floods, now).filter(|_| beside_flood);
        let deliveries = self.take(Room::of_batch(others), &may, now)?;
        self.was_alone = false;
        if !beside_flood && deliveries.iter().any(|next| next.tenant() != deliveries[0].tenant()) {
            self.served = Some((now, deliveries.len()));
        }
        Some(QueuedBatch { deliveries, alone: false, beside_flood })
    }

    /// Takes the next batch of the tenants that have no flood and no messages in another batch:
    /// while a flood is at work they do not wait for it.
    pub(super) fn next_express(&mut self, is_held: impl Fn(&str) -> bool) -> Option<QueuedBatch> {
        let now = Instant::now();
        let floods = self.floods(&|_| false, now);
        let may = |tenant: &str| !is_held(tenant) && !floods.contains(tenant);
        let deliveries = self.take(Room::of_batch(None), &may, now)?;
        self.served = Some((now, deliveries.len()));
        Some(QueuedBatch { deliveries, alone: false, beside_flood: true })
    }

    /// Returns how many messages of other tenants than the floods were in their last batch; `None` if
    /// that is long ago and none wait.
    fn others(&self, floods: &HashSet<Arc<str>>, now: Instant) -> Option<usize> {
        let is_recent = |(at, _): &(Instant, usize)| now.duration_since(*at) < SERVED;
        let served = self.served.filter(is_recent).map(|(_, messages)| messages);
        served.or_else(|| self.has_any(|tenant| !floods.contains(tenant)).then_some(0))
    }

    /// Returns whether messages of such a tenant wait for a batch.
    pub(super) fn has_any(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.waiting.iter().any(|queue| queue.front_of(&is_such).is_some())
    }

    /// Returns the tenants whose messages fill a batch by themselves, or hold one up, and may be
    /// taken now.
    fn floods(&self, is_held: &impl Fn(&str) -> bool, now: Instant) -> HashSet<Arc<str>> {
        // All messages of a source are stored, or none.
        let may_begin = |queue: &&FairQueue<Delivery>| {
            queue.front().is_some_and(|next| self.may_begin(next, now))
        };
        let floods = self.waiting.iter().filter(may_begin);
        let is_flood = |queue: &FairQueue<Delivery>, tenant: &str| {
            queue.waiting_of(tenant) >= FLOOD || self.held_up.contains(tenant)
        };
        let floods = floods
            .flat_map(|queue| queue.with_at_least(1).filter(move |tenant| is_flood(queue, tenant)));
        floods.filter(|tenant| !is_held(tenant)).cloned().collect()
    }

    fn may_begin(&self, delivery: &Delivery, now: Instant) -> bool {
        let paused = self.paused_until.is_some_and(|until| until > now);
        !paused || delivery.origin == Origin::Request
    }

    /// Returns the sources with messages of tenants that may be served.
    fn ready(&self, may: &impl Fn(&str) -> bool, now: Instant) -> Vec<usize> {
        let is_ready = |source: &usize| {
            let next = self.waiting[*source].front_of(may);
            next.is_some_and(|next| self.may_begin(next, now))
        };
        (0..self.waiting.len()).filter(is_ready).collect()
    }

    fn take(
        &mut self,
        mut room: Room,
        may: &impl Fn(&str) -> bool,
        now: Instant,
    ) -> Option<Vec<Delivery>> {
        let ready = self.ready(may, now);
        let mut deliveries = Vec::new();
        for (at, &source) in ready.iter().enumerate() {
            // The unused rest of a share goes to the sources after it.
            let share = room.share(ready.len() - at);
            let mut left = share;
            deliveries.extend(self.waiting[source].take(|next| left.take(next), may));
            room.take_share(share, left);
        }
        // The unused rest of the last ones goes to the first.
        for &source in &ready {
            deliveries.extend(self.waiting[source].take(|next| room.take(next), may));
        }
        Some(deliveries).filter(|deliveries| !deliveries.is_empty())
    }

    /// Keeps messages that a dependency was away for: they stay in front, and nothing is taken for
    /// a while. A message that was handled alone goes to the end of those, and only they wait.
    pub(super) fn keep(&mut self, deliveries: Vec<Delivery>, alone: bool) {
        if deliveries.is_empty() {
            return;
        }
        let until = Some(Instant::now() + AWAY_PAUSE);
        if alone {
            self.alone_paused_until = until;
            for delivery in deliveries {
                self.push_alone(delivery);
            }
            return;
        }
        self.paused_until = until;
        for delivery in deliveries.into_iter().rev() {
            let alone = delivery.is_alone();
            let queue = if alone { &mut self.alone } else { &mut self.waiting[delivery.source] };
            queue.push_front(delivery);
        }
    }

    /// Queues a message to be handled alone, whether there is room or not.
    pub(super) fn push_alone(&mut self, delivery: Delivery) {
        self.alone.push_back(delivery);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().flat_map(FairQueue::iter).chain(self.alone.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().map(FairQueue::len).sum::<usize>() + self.alone.len()
    }
}

#[cfg(test)]
pub(super) mod tests;
