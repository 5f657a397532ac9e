use moka::{policy::EvictionPolicy, sync::Cache};

use crate::runtime::{Delivery, delivery::Origin};

/// Messages that are remembered; about 100 bytes each.
const REMEMBERED: u64 = 100_000;

/// Counts how many times this process gave messages back that had not failed: there was no room for
/// them, or somebody else's lock held them up. The server counts such deliveries too, and without
/// this a backlog behind a lock would be handled one by one after it. A process that dies forgets
/// it, so a message that kills is handled alone.
pub(super) struct GivenBack(Cache<MessageKey, i64>);

/// The source, for each consumer counts its own deliveries; the sequence; and when it was stored,
/// since a stream that is made again counts from 1 again.
type MessageKey = (usize, u64, i128);

impl Default for GivenBack {
    fn default() -> Self {
        let policy = EvictionPolicy::lru();
        Self(Cache::builder().max_capacity(REMEMBERED).eviction_policy(policy).build())
    }
}

impl GivenBack {
    /// Records that a message is given back.
    pub(super) fn add(&self, delivery: &Delivery) {
        if let Some(key) = key(delivery) {
            self.0.insert(key, delivery.given_back + 1);
        }
    }

    /// Returns a message that was delivered, with how many times it was given back before.
    pub(super) fn counted(&self, delivery: Delivery) -> Delivery {
        let first = delivery.deliveries() <= 1;
        let given_back = key(&delivery).filter(|_| !first).and_then(|key| self.0.get(&key));
        Delivery { given_back: given_back.unwrap_or(0), ..delivery }
    }
}

fn key(delivery: &Delivery) -> Option<MessageKey> {
    match delivery.origin {
        Origin::Stored { sequence, stored_at, .. } => Some((delivery.source, sequence, stored_at)),
        Origin::Request => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::queues::{
            ALONE_FROM, Queues,
            tests::{delivery, numbered},
        },
        *,
    };

    #[test]
    fn what_was_only_given_back_is_handled_in_a_batch() {
        let (given_back, mut queues) = (GivenBack::default(), Queues::new(1));
        for number in 1..=100 {
            for deliveries in 1..9 {
                given_back.add(&given_back.counted(numbered(number, deliveries)));
            }
            let again = given_back.counted(numbered(number, 9));
            assert_eq!((again.deliveries(), again.tried_deliveries()), (9, 1));
            assert!(queues.push(again).is_ok());
        }
        let batch = queues.next(|_| false).unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (100, false));
        // One of them fails again and again from now on.
        for (failed, is_alone) in [(1, false), (2, true)] {
            assert!(queues.push(given_back.counted(numbered(7, 9 + failed))).is_ok());
            assert_eq!(queues.next(|_| false).unwrap().alone, is_alone, "{failed}");
        }
    }

    #[test]
    fn what_another_process_gave_back_may_have_failed() {
        let given_back = GivenBack::default();
        given_back.add(&numbered(1, 2));
        let others = [numbered(2, ALONE_FROM), Delivery { source: 1, ..numbered(1, ALONE_FROM) }];
        for other in others {
            assert_eq!(given_back.counted(other).tried_deliveries(), ALONE_FROM);
        }
        // A message of a stream that was made again, delivered for the first time.
        assert_eq!(given_back.counted(numbered(1, 1)).tried_deliveries(), 1);
        let request = delivery(0, 0);
        given_back.add(&request);
        assert_eq!(given_back.counted(request).given_back, 0);
    }
}
