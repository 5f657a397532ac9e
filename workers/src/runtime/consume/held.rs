use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{fair_queue::HasTenant, limits::MAX_BATCH, queues::QueuedBatch};
use crate::runtime::{Delivery, delivery::Origin};

/// Most held messages; more are given back.
const MAX_HELD: usize = 1024;
/// Most held messages of one tenant.
const MAX_HELD_OF_TENANT: usize = MAX_HELD / 4;
/// Pause between two tries of a held message.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Longest time that a request waits for what somebody else has locked. After that the response
/// asks its sender to repeat it.
pub const REQUEST_WAITS: Duration = Duration::from_millis(1200);

/// Messages that wait for something that somebody else has locked. They are tried beside the
/// batches, so nobody else waits for them, and none of their tries counts.
#[derive(Default)]
pub(super) struct HeldMessages {
    messages: VecDeque<HeldMessage>,
}

struct HeldMessage {
    delivery: Delivery,
    /// The name of the thing that it waits for.
    name: String,
    tried: Instant,
}

impl HeldMessage {
    fn is_alone(&self) -> bool {
        self.delivery.is_alone()
    }

    /// Returns whether it can be handled now: the thing is perhaps free, or the sender has waited
    /// long enough.
    fn is_due(&self, now: Instant, is_locked: impl Fn(&str) -> bool) -> bool {
        let age = now.duration_since(self.delivery.received);
        let late = self.delivery.origin == Origin::Request && age >= REQUEST_WAITS;
        now.duration_since(self.tried) >= PAUSE && (late || !is_locked(&self.name))
    }
}

impl HeldMessages {
    /// Holds a message. It has no permit of its source any more.
    ///
    /// # Errors
    /// The message, if too many are held already, or too many of its tenant.
    pub(super) fn push(&mut self, delivery: Delivery, name: String) -> Result<(), Box<Delivery>> {
        let of_tenant = || self.iter().filter(|held| held.tenant() == delivery.tenant()).count();
        if self.messages.len() >= MAX_HELD || of_tenant() >= MAX_HELD_OF_TENANT {
            return Err(Box::new(delivery));
        }
        let delivery = Delivery { permit: None, ..delivery };
        self.messages.push_back(HeldMessage { delivery, name, tried: Instant::now() });
        Ok(())
    }

    /// Takes the messages that can be handled now: all in one batch, except that a message that is
    /// handled alone is a batch by itself.
    pub(super) fn next(&mut self, is_locked: impl Fn(&str) -> bool) -> Option<QueuedBatch> {
        let now = Instant::now();
        let mut deliveries = Vec::new();
        let mut others = VecDeque::with_capacity(self.messages.len());
        let mut alone = None;
        for held in self.messages.drain(..) {
            let is_due = held.is_due(now, &is_locked);
            if is_due && !held.is_alone() && deliveries.len() < MAX_BATCH {
                deliveries.push(held.delivery);
                continue;
            }
            if is_due && held.is_alone() {
                alone.get_or_insert(others.len());
            }
            others.push_back(held);
        }
        self.messages = others;
        if !deliveries.is_empty() {
            return Some(QueuedBatch { deliveries, alone: false, beside_flood: false });
        }
        let held = self.messages.remove(alone?)?;
        Some(QueuedBatch { deliveries: vec![held.delivery], alone: true, beside_flood: false })
    }

    /// Takes all messages.
    pub(super) fn take(&mut self) -> Vec<Delivery> {
        self.messages.drain(..).map(|held| held.delivery).collect()
    }

    /// Returns the tenants whose messages are held.
    pub(super) fn tenants(&self) -> HashSet<Box<str>> {
        let mut tenants = HashSet::new();
        for tenant in self.iter().map(Delivery::tenant) {
            if !tenants.contains(tenant) {
                tenants.insert(tenant.into());
            }
        }
        tenants
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.messages.iter().map(|held| &held.delivery)
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::queues::tests::{delivery, of},
        *,
    };

    fn put(held: &mut HeldMessages, deliveries: i64, name: &str) {
        assert!(held.push(delivery(0, deliveries), name.to_owned()).is_ok());
    }

    /// Makes all messages as old as if they had been held, and received, so long ago.
    fn age(held: &mut HeldMessages, age: Duration) {
        for held in &mut held.messages {
            held.tried = Instant::now().checked_sub(age).unwrap();
            held.delivery.received = held.tried;
        }
    }

    #[test]
    fn what_is_locked_waits_and_keeps_nobody_else() {
        let mut held = HeldMessages::default();
        for (deliveries, name) in [(1, "locked"), (1, "free"), (4, "free"), (4, "locked"), (1, "x")]
        {
            put(&mut held, deliveries, name);
        }
        let is_locked = |name: &str| name == "locked";
        assert!(held.next(is_locked).is_none(), "each try is followed by a pause");
        age(&mut held, PAUSE);
        let batch = held.next(is_locked).unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (2, false));
        let batch = held.next(is_locked).unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (1, true));
        assert_eq!(batch.deliveries[0].deliveries(), 4);
        assert!(held.next(is_locked).is_none());
        assert_eq!(held.len(), 2);
        assert!(held.next(|_| false).is_some());
        assert_eq!(held.take().len(), 1);
    }

    #[test]
    fn a_request_whose_sender_has_waited_long_enough_is_handed_out_to_be_answered() {
        let mut held = HeldMessages::default();
        for deliveries in [0, 1] {
            put(&mut held, deliveries, "locked");
        }
        age(&mut held, REQUEST_WAITS);
        let batch = held.next(|_| true).unwrap();
        assert_eq!(batch.deliveries.len(), 1);
        assert_eq!(batch.deliveries[0].origin, Origin::Request);
        assert!(held.next(|_| true).is_none());
    }

    #[test]
    fn what_has_no_room_is_handed_back() {
        let mut held = HeldMessages::default();
        for _ in 0..MAX_HELD_OF_TENANT {
            put(&mut held, 1, "k");
        }
        assert!(held.push(delivery(0, 1), "k".to_owned()).is_err());
        assert!(held.push(of("t2", 0, 1), "k".to_owned()).is_ok());
        for n in held.len()..MAX_HELD {
            assert!(held.push(of(&n.to_string(), 0, 1), "k".to_owned()).is_ok());
        }
        assert!(held.push(of("t3", 0, 1), "k".to_owned()).is_err());
    }
}
