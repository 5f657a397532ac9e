use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{MAX_BATCH, MAX_WAITING};
use crate::runtime::{Delivery, delivery::Origin};

/// From this delivery on a message is handled alone: those before it may have failed because of
/// it, or it because of them.
pub const ALONE_FROM: i64 = 3;
/// Pause after a dependency was found away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// Messages in hand that wait for their batch, by source.
pub(super) struct Queues {
    waiting: Vec<VecDeque<Delivery>>,
    /// Those that are handled one by one.
    alone: VecDeque<Delivery>,
    /// Whether the last batch was a message alone; they take turns with the others.
    was_alone: bool,
    /// Until when no stored message is taken, because a dependency is away. Requests go on: who
    /// sent them wants an answer, and be it that there is none.
    paused_until: Option<Instant>,
    /// The same for those that are handled alone: what keeps one of them keeps nobody else.
    alone_paused_until: Option<Instant>,
}

/// Messages to be handled together.
pub(super) struct Batch {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) alone: bool,
}

impl Queues {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            waiting: (0..sources).map(|_| VecDeque::new()).collect(),
            alone: VecDeque::new(),
            was_alone: false,
            paused_until: None,
            alone_paused_until: None,
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The message, where too many of its source wait.
    pub(super) fn push(&mut self, delivery: Delivery) -> Result<(), Box<Delivery>> {
        if delivery.deliveries() >= ALONE_FROM {
            self.alone.push_back(delivery);
        } else if self.waiting[delivery.source].len() < MAX_WAITING {
            self.waiting[delivery.source].push_back(delivery);
        } else {
            return Err(Box::new(delivery));
        }
        Ok(())
    }

    /// The next batch: one message alone, or up to [`MAX_BATCH`] in equal shares from all sources
    /// that have work.
    pub(super) fn next(&mut self) -> Option<Batch> {
        let now = Instant::now();
        let paused = self.paused_until.is_some_and(|until| until > now);
        let may = |delivery: &Delivery| !paused || delivery.origin == Origin::Request;
        let ready: Vec<usize> = (0..self.waiting.len())
            .filter(|&source| self.waiting[source].front().is_some_and(may))
            .collect();
        let waits = self.alone_paused_until.is_some_and(|until| until > now);
        let alone = !waits && self.alone.front().is_some_and(may);
        if alone && (ready.is_empty() || !self.was_alone) {
            self.was_alone = true;
            let deliveries = self.alone.pop_front().into_iter().collect();
            return Some(Batch { deliveries, alone: true });
        }
        if ready.is_empty() {
            return None;
        }
        self.was_alone = false;
        let mut deliveries = Vec::new();
        for (at, &source) in ready.iter().enumerate() {
            // What one source leaves of its share goes to the ones after it.
            let share = (MAX_BATCH - deliveries.len()).div_ceil(ready.len() - at);
            let queue = &mut self.waiting[source];
            deliveries.extend(queue.drain(..share.min(queue.len())));
        }
        // And what the last ones left goes to the first.
        for &source in &ready {
            let queue = &mut self.waiting[source];
            let room = (MAX_BATCH - deliveries.len()).min(queue.len());
            deliveries.extend(queue.drain(..room));
        }
        Some(Batch { deliveries, alone: false })
    }

    /// A dependency was away: the messages stay in hand, in front, and nothing is taken for a
    /// while. One that was handled alone goes to the end of those, and only they wait.
    pub(super) fn keep(&mut self, deliveries: Vec<Delivery>, alone: bool) {
        let until = Some(Instant::now() + AWAY_PAUSE);
        if alone {
            self.alone_paused_until = until;
            self.alone.extend(deliveries);
            return;
        }
        self.paused_until = until;
        for delivery in deliveries.into_iter().rev() {
            if delivery.deliveries() >= ALONE_FROM {
                self.alone.push_front(delivery);
            } else {
                self.waiting[delivery.source].push_front(delivery);
            }
        }
    }

    /// A batch panicked: each of its messages gets a try of its own.
    pub(super) fn separate(&mut self, deliveries: Vec<Delivery>) {
        self.alone.extend(deliveries);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().flatten().chain(&self.alone)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum::<usize>() + self.alone.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::intake::Message;

    fn delivery(source: usize, deliveries: i64) -> Delivery {
        let message = Message::new("s".into(), None, None, bytes::Bytes::new());
        let stored = Origin::Stored { stream: "S".into(), sequence: 1, deliveries, stored_at: 0 };
        let origin = if deliveries == 0 { Origin::Request } else { stored };
        Delivery { origin, ..Delivery::request(message, source) }
    }

    fn filled(counts: &[usize]) -> Queues {
        let mut queues = Queues::new(counts.len());
        for (source, count) in counts.iter().enumerate() {
            for _ in 0..*count {
                assert!(queues.push(delivery(source, 1)).is_ok());
            }
        }
        queues
    }

    fn shares(queues: &mut Queues) -> Vec<usize> {
        let batch = queues.next().unwrap().deliveries;
        (0..queues.waiting.len()).map(|s| batch.iter().filter(|d| d.source == s).count()).collect()
    }

    #[test]
    fn sources_share_a_batch_and_leave_no_room_unused() {
        assert_eq!(shares(&mut filled(&[1000, 1000])), [128, 128]);
        assert_eq!(shares(&mut filled(&[1000, 10])), [246, 10]);
        assert_eq!(shares(&mut filled(&[10, 1000])), [10, 246]);
        assert_eq!(shares(&mut filled(&[3, 0])), [3, 0]);
        assert_eq!(shares(&mut filled(&[1000, 0, 1000])), [128, 0, 128]);
    }

    #[test]
    fn a_message_from_its_third_delivery_on_is_alone_and_takes_turns() {
        let mut queues = filled(&[300]);
        for _ in 0..2 {
            assert!(queues.push(delivery(0, 3)).is_ok());
        }
        let mut sizes = Vec::new();
        while let Some(batch) = queues.next() {
            sizes.push((batch.deliveries.len(), batch.alone));
        }
        assert_eq!(sizes, [(1, true), (256, false), (1, true), (44, false)]);
    }

    #[test]
    fn while_a_dependency_is_away_only_requests_are_taken() {
        let mut queues = Queues::new(2);
        queues.keep(vec![delivery(0, 1), delivery(0, 4)], false);
        assert!(queues.next().is_none());
        assert!(queues.push(delivery(1, 0)).is_ok());
        assert_eq!(queues.next().unwrap().deliveries[0].source, 1);
        assert!(queues.next().is_none());
        assert_eq!(queues.len(), 2);
    }

    #[test]
    fn a_message_that_is_kept_alone_keeps_nobody_else() {
        let mut queues = filled(&[2]);
        queues.keep(vec![delivery(0, 4)], true);
        let batch = queues.next().unwrap();
        assert_eq!((batch.deliveries.len(), batch.alone), (2, false));
        assert!(queues.next().is_none(), "it waits");
    }

    #[test]
    fn a_source_that_is_full_hands_the_message_back() {
        let mut queues = filled(&[MAX_WAITING]);
        assert!(queues.push(delivery(0, 0)).is_err());
    }
}
