use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    MAX_BATCH,
    queues::{ALONE_FROM, Batch},
    shares::OfTenant,
};
use crate::runtime::{Delivery, delivery::Origin};

/// Most messages that are put aside; more are given back.
const MAX_ASIDE: usize = 1024;
/// Most of them of one tenant.
const MAX_ASIDE_OF_TENANT: usize = MAX_ASIDE / 4;
/// Pause between two tries of a message that is put aside.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// How long a request waits for what somebody else has locked. After that its sender is told to
/// repeat it, so that he knows.
pub const REQUEST_WAITS: Duration = Duration::from_millis(1200);

/// Messages that wait for something that somebody else has locked. They are tried beside the
/// batches, so nobody else waits for them, and none of their tries counts.
#[derive(Default)]
pub(super) struct Aside {
    held: VecDeque<Held>,
}

struct Held {
    delivery: Delivery,
    /// What it waits for.
    key: String,
    tried: Instant,
}

impl Held {
    fn is_alone(&self) -> bool {
        self.delivery.deliveries() >= ALONE_FROM
    }

    /// Whether it can be handled now: what it waits for is perhaps free, or its sender has waited
    /// long enough.
    fn is_due(&self, now: Instant, is_locked: impl Fn(&str) -> bool) -> bool {
        let age = now.duration_since(self.delivery.received);
        let late = self.delivery.origin == Origin::Request && age >= REQUEST_WAITS;
        now.duration_since(self.tried) >= PAUSE && (late || !is_locked(&self.key))
    }
}

impl Aside {
    /// Puts a message aside. It holds no permit of its source any more.
    ///
    /// # Errors
    /// The message, where too many are aside already, or too many of its tenant.
    pub(super) fn push(&mut self, delivery: Delivery, key: String) -> Result<(), Box<Delivery>> {
        let of_tenant = || self.iter().filter(|held| held.tenant() == delivery.tenant()).count();
        if self.held.len() >= MAX_ASIDE || of_tenant() >= MAX_ASIDE_OF_TENANT {
            return Err(Box::new(delivery));
        }
        let delivery = Delivery { permit: None, ..delivery };
        self.held.push_back(Held { delivery, key, tried: Instant::now() });
        Ok(())
    }

    /// Takes what can be handled now: all of it in one batch, except that a message that is handled
    /// alone is one.
    pub(super) fn next(&mut self, is_locked: impl Fn(&str) -> bool) -> Option<Batch> {
        let now = Instant::now();
        let mut deliveries = Vec::new();
        let mut others = VecDeque::with_capacity(self.held.len());
        let mut alone = None;
        for held in self.held.drain(..) {
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
        self.held = others;
        if !deliveries.is_empty() {
            return Some(Batch { deliveries, alone: false });
        }
        let held = self.held.remove(alone?)?;
        Some(Batch { deliveries: vec![held.delivery], alone: true })
    }

    /// Takes all of it.
    pub(super) fn take(&mut self) -> Vec<Delivery> {
        self.held.drain(..).map(|held| held.delivery).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.held.iter().map(|held| &held.delivery)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::queues::tests::{delivery, of},
        *,
    };

    fn put(aside: &mut Aside, deliveries: i64, key: &str) {
        assert!(aside.push(delivery(0, deliveries), key.to_owned()).is_ok());
    }

    /// As if all of it had been put aside, and received, so long ago.
    fn age(aside: &mut Aside, age: Duration) {
        for held in &mut aside.held {
            held.tried = Instant::now().checked_sub(age).unwrap();
            held.delivery.received = held.tried;
        }
    }

    #[test]
    fn what_is_locked_waits_and_keeps_nobody_else() {
        let mut aside = Aside::default();
        for (deliveries, key) in [(1, "locked"), (1, "free"), (4, "free"), (4, "locked"), (1, "x")]
        {
            put(&mut aside, deliveries, key);
        }
        let is_locked = |key: &str| key == "locked";
        assert!(aside.next(is_locked).is_none(), "each try is followed by a pause");
        age(&mut aside, PAUSE);
        let batch = aside.next(is_locked).unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (2, false));
        let batch = aside.next(is_locked).unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (1, true));
        assert_eq!(batch.deliveries[0].deliveries(), 4);
        assert!(aside.next(is_locked).is_none());
        assert_eq!(aside.len(), 2);
        assert!(aside.next(|_| false).is_some());
        assert_eq!(aside.take().len(), 1);
    }

    #[test]
    fn a_request_whose_sender_has_waited_long_enough_is_handed_out_to_be_answered() {
        let mut aside = Aside::default();
        for deliveries in [0, 1] {
            put(&mut aside, deliveries, "locked");
        }
        age(&mut aside, REQUEST_WAITS);
        let batch = aside.next(|_| true).unwrap();
        assert_eq!(batch.deliveries.len(), 1);
        assert_eq!(batch.deliveries[0].origin, Origin::Request);
        assert!(aside.next(|_| true).is_none());
    }

    #[test]
    fn what_has_no_room_is_handed_back() {
        let mut aside = Aside::default();
        for _ in 0..MAX_ASIDE_OF_TENANT {
            put(&mut aside, 1, "k");
        }
        assert!(aside.push(delivery(0, 1), "k".to_owned()).is_err());
        assert!(aside.push(of("t2", 0, 1), "k".to_owned()).is_ok());
        for n in aside.len()..MAX_ASIDE {
            assert!(aside.push(of(&n.to_string(), 0, 1), "k".to_owned()).is_ok());
        }
        assert!(aside.push(of("t3", 0, 1), "k".to_owned()).is_err());
    }
}
