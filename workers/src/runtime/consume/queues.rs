use std::time::{Duration, Instant};

use brigade_contracts::Token;

use super::{
    MAX_BATCH, MAX_WAITING, MAX_WAITING_OF_TENANT,
    shares::{OfTenant, Shares},
};
use crate::runtime::{Delivery, delivery::Origin};

/// From this delivery on a message is handled alone: those before it may have failed because of
/// it, or it because of them.
pub const ALONE_FROM: i64 = 3;
/// Pause after a dependency was found away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// Most messages in hand that are handled alone; more are given back. They hold no permit of their
/// source, so that what fails again and again takes no room from the rest.
const MAX_ALONE: usize = 256;
/// Most of them of one tenant.
const MAX_ALONE_OF_TENANT: usize = MAX_ALONE / 4;

/// Most messages in a batch while some overtake others: who comes next waits for what has begun.
const OVERTAKEN_BATCH: usize = 64;
/// So long after a message that overtook others the next one is expected.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// Messages in hand that wait for their batch, by source, and there by tenant.
pub(super) struct Queues {
    waiting: Vec<Shares<Delivery>>,
    /// Those that are handled one by one.
    alone: Shares<Delivery>,
    /// Whether the last batch was a message alone; they take turns with the others.
    was_alone: bool,
    /// Until when no stored message is taken, because a dependency is away. Requests go on: who
    /// sent them wants an answer, and be it that there is none.
    paused_until: Option<Instant>,
    /// The same for those that are handled alone: what keeps one of them keeps nobody else.
    alone_paused_until: Option<Instant>,
    /// When the last message came that overtook others.
    overtook: Option<Instant>,
}

/// Messages to be handled together.
pub(super) struct Batch {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) alone: bool,
}

/// Why a message is not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Too many of its source wait.
    Source,
    /// Too many of its tenant wait at its source.
    Tenant,
    /// Too many that are handled alone are in hand, or too many of its tenant.
    Alone,
    /// The worker ends.
    Drained,
}

impl OfTenant for Delivery {
    /// The second token of its subject. Messages whose subject has none share one queue.
    fn tenant(&self) -> &str {
        let tenant = self.subject().split('.').nth(1).unwrap_or_default();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if tenant.len() <= Token::MAX_LEN && tenant.bytes().all(is_token) { tenant } else { "" }
    }
}

impl Queues {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            waiting: (0..sources).map(|_| Shares::default()).collect(),
            alone: Shares::default(),
            was_alone: false,
            paused_until: None,
            alone_paused_until: None,
            overtook: None,
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The message, where there is no room for it.
    pub(super) fn push(&mut self, delivery: Delivery) -> Result<(), (Full, Box<Delivery>)> {
        if delivery.overtakes {
            self.overtook = Some(Instant::now());
        }
        let waiting = &mut self.waiting[delivery.source];
        if delivery.deliveries() >= ALONE_FROM {
            let of_tenant = self.alone.waiting_of(delivery.tenant());
            if self.alone.len() >= MAX_ALONE || of_tenant >= MAX_ALONE_OF_TENANT {
                return Err((Full::Alone, Box::new(delivery)));
            }
            self.alone.push_back(Delivery { permit: None, ..delivery });
        } else if waiting.len() >= MAX_WAITING {
            return Err((Full::Source, Box::new(delivery)));
        } else if waiting.waiting_of(delivery.tenant()) >= MAX_WAITING_OF_TENANT {
            return Err((Full::Tenant, Box::new(delivery)));
        } else {
            waiting.push_back(delivery);
        }
        Ok(())
    }

    /// The next batch: one message alone, or up to [`MAX_BATCH`] in equal shares from all sources
    /// that have work, and of each in equal shares from all tenants.
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
            let deliveries = self.alone.pop().into_iter().collect();
            return Some(Batch { deliveries, alone: true });
        }
        if ready.is_empty() {
            return None;
        }
        self.was_alone = false;
        let is_overtaken = self.overtook.is_some_and(|at| now.duration_since(at) < OVERTAKEN);
        let most = if is_overtaken { OVERTAKEN_BATCH } else { MAX_BATCH };
        let mut deliveries = Vec::new();
        for (at, &source) in ready.iter().enumerate() {
            // What one source leaves of its share goes to the ones after it.
            let share = (most - deliveries.len()).div_ceil(ready.len() - at);
            let queue = &mut self.waiting[source];
            deliveries.extend((0..share).map_while(|_| queue.pop()));
        }
        // And what the last ones left goes to the first.
        for &source in &ready {
            let queue = &mut self.waiting[source];
            let room = most - deliveries.len();
            deliveries.extend((0..room).map_while(|_| queue.pop()));
        }
        Some(Batch { deliveries, alone: false })
    }

    /// A dependency was away: the messages stay in hand, in front, and nothing is taken for a
    /// while. One that was handled alone goes to the end of those, and only they wait.
    pub(super) fn keep(&mut self, deliveries: Vec<Delivery>, alone: bool) {
        if deliveries.is_empty() {
            return;
        }
        let until = Some(Instant::now() + AWAY_PAUSE);
        if alone {
            self.alone_paused_until = until;
            return self.separate(deliveries);
        }
        self.paused_until = until;
        for delivery in deliveries.into_iter().rev() {
            let alone = delivery.deliveries() >= ALONE_FROM;
            let queue = if alone { &mut self.alone } else { &mut self.waiting[delivery.source] };
            queue.push_front(delivery);
        }
    }

    /// A batch panicked: each of its messages gets a try of its own.
    pub(super) fn separate(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.alone.push_back(delivery);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().flat_map(Shares::iter).chain(self.alone.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().map(Shares::len).sum::<usize>() + self.alone.len()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::infra::intake::Message;

    /// One of `t1`; without deliveries it is a request.
    pub(in super::super) fn delivery(source: usize, deliveries: i64) -> Delivery {
        of("t1", source, deliveries)
    }

    pub(in super::super) fn of(tenant: &str, source: usize, deliveries: i64) -> Delivery {
        let subject = format!("req.{tenant}.cart.c1.join");
        let message = Message::new(subject.into(), None, None, bytes::Bytes::new());
        let stored = Origin::Stored { stream: "S".into(), sequence: 1, deliveries, stored_at: 0 };
        let origin = if deliveries == 0 { Origin::Request } else { stored };
        Delivery { origin, ..Delivery::request(message, source) }
    }

    fn filled(counts: &[usize]) -> Queues {
        let mut queues = Queues::new(counts.len());
        for (source, count) in counts.iter().enumerate() {
            fill(&mut queues, "t1", source, *count);
        }
        queues
    }

    fn fill(queues: &mut Queues, tenant: &str, source: usize, count: usize) {
        for _ in 0..count {
            assert!(queues.push(of(tenant, source, 1)).is_ok());
        }
    }

    fn count(deliveries: &[Delivery], tenant: &str) -> usize {
        deliveries.iter().filter(|delivery| delivery.tenant() == tenant).count()
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
    fn batches_are_small_while_some_overtake_others() {
        let mut queues = filled(&[1000, 0]);
        assert!(queues.push(Delivery { overtakes: true, ..of("t2", 1, 1) }).is_ok());
        assert_eq!(shares(&mut queues), [OVERTAKEN_BATCH - 1, 1]);
        assert_eq!(shares(&mut queues), [OVERTAKEN_BATCH, 0]);
        queues.overtook = Instant::now().checked_sub(OVERTAKEN);
        assert_eq!(shares(&mut queues), [MAX_BATCH, 0]);
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
    fn a_tenant_and_a_source_that_are_full_hand_the_message_back() {
        let mut queues = Queues::new(1);
        let tenants = MAX_WAITING / MAX_WAITING_OF_TENANT;
        for tenant in 0..tenants {
            let tenant = format!("t{tenant}");
            fill(&mut queues, &tenant, 0, MAX_WAITING_OF_TENANT);
            let why =
                if tenant == format!("t{}", tenants - 1) { Full::Source } else { Full::Tenant };
            assert_eq!(queues.push(of(&tenant, 0, 0)).unwrap_err().0, why);
        }
        assert_eq!(queues.push(of("another", 0, 0)).unwrap_err().0, Full::Source);
        assert!(queues.next().is_some());
        assert!(queues.push(of("another", 0, 0)).is_ok());
    }

    #[test]
    fn s5_08_the_few_messages_of_one_tenant_are_in_the_next_batch_whatever_another_sends() {
        let mut queues = Queues::new(2);
        for source in 0..2 {
            fill(&mut queues, "flood", source, MAX_WAITING_OF_TENANT);
            fill(&mut queues, "other", source, 5);
        }
        let batch = queues.next().unwrap().deliveries;
        assert_eq!((batch.len(), count(&batch, "other")), (MAX_BATCH, 10));
        // Its messages alone take turns with those of others too.
        for _ in 0..20 {
            assert!(queues.push(of("flood", 0, 3)).is_ok());
        }
        assert!(queues.push(of("other", 0, 3)).is_ok());
        let alone: Vec<_> = std::iter::from_fn(|| queues.next()).filter(|b| b.alone).collect();
        let at = alone.iter().position(|batch| count(&batch.deliveries, "other") == 1);
        assert_eq!((alone.len(), at), (21, Some(1)));
    }

    #[test]
    fn what_is_handled_alone_takes_no_room_from_the_rest() {
        let mut queues = Queues::new(1);
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        let permit = permits.clone().try_acquire_owned().unwrap();
        let held = Delivery { permit: Some(permit.into()), ..delivery(0, ALONE_FROM) };
        assert!(queues.push(held).is_ok());
        assert_eq!(permits.available_permits(), 1);
        for _ in 1..MAX_ALONE_OF_TENANT {
            assert!(queues.push(delivery(0, ALONE_FROM)).is_ok());
        }
        assert_eq!(queues.push(delivery(0, ALONE_FROM)).unwrap_err().0, Full::Alone);
        assert!(queues.push(delivery(0, 1)).is_ok());
        for n in MAX_ALONE_OF_TENANT..MAX_ALONE {
            assert!(queues.push(of(&format!("o{n}"), 0, ALONE_FROM)).is_ok());
        }
        assert_eq!(queues.push(of("t2", 0, ALONE_FROM)).unwrap_err().0, Full::Alone);
    }

    #[test]
    fn a_subject_without_a_tenant_shares_a_queue_with_others_like_it() {
        for (tenant, told) in [("t1", "t1"), ("", ""), ("a b", ""), ("ä", ""), ("*", "")] {
            assert_eq!(of(tenant, 0, 0).tenant(), told);
        }
        assert_eq!(of(&"x".repeat(Token::MAX_LEN + 1), 0, 0).tenant(), "");
    }
}
