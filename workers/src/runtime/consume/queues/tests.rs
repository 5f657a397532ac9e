use super::{
    super::room::{MAX_BATCH_BYTES, MAX_FLOOD_BATCH},
    *,
};
use crate::{infra::intake::Message, runtime::consume::limits::MAX_BATCH};

/// Returns a message of `t1`; without deliveries it is a request.
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

/// Returns a message of the stream by its sequence.
pub(in super::super) fn numbered(sequence: u64, deliveries: i64) -> Delivery {
    let origin = Origin::Stored { stream: "S".into(), sequence, deliveries, stored_at: 0 };
    Delivery { origin, ..delivery(0, deliveries) }
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

fn next(queues: &mut Queues) -> Option<QueuedBatch> {
    queues.next(|_| false)
}

fn shares(queues: &mut Queues) -> Vec<usize> {
    let batch = next(queues).unwrap().deliveries;
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
fn a_batch_is_bounded_in_bytes_and_takes_any_single_message() {
    let long = |source, bytes: usize| {
        let subject = "req.t1.cart.c1.join".into();
        let message = Message::new(subject, None, None, vec![b' '; bytes].into());
        Delivery::request(message, source)
    };
    let mut queues = Queues::new(2);
    for source in [0, 1, 0, 1, 0] {
        assert!(queues.push(long(source, MAX_BATCH_BYTES / 4)).is_ok());
    }
    assert!(queues.push(long(0, 2 * MAX_BATCH_BYTES)).is_ok());
    assert_eq!(shares(&mut queues), [2, 2]);
    assert_eq!(shares(&mut queues), [2, 0]);
    assert!(next(&mut queues).is_none());
}

#[test]
fn a_message_from_its_third_delivery_on_is_alone_and_takes_turns() {
    let mut queues = filled(&[300]);
    for _ in 0..2 {
        assert!(queues.push(delivery(0, 3)).is_ok());
    }
    let mut sizes = Vec::new();
    while let Some(batch) = next(&mut queues) {
        sizes.push((batch.deliveries.len(), batch.alone));
    }
    assert_eq!(sizes, [(1, true), (256, false), (1, true), (44, false)]);
}

#[test]
fn while_a_dependency_is_away_only_requests_are_taken() {
    let mut queues = Queues::new(2);
    queues.keep(vec![delivery(0, 1), delivery(0, 4)], false);
    assert!(next(&mut queues).is_none());
    assert!(queues.push(delivery(1, 0)).is_ok());
    assert_eq!(next(&mut queues).unwrap().deliveries[0].source, 1);
    assert!(next(&mut queues).is_none());
    assert_eq!(queues.len(), 2);
}

#[test]
fn a_message_that_is_kept_alone_keeps_nobody_else() {
    let mut queues = filled(&[2]);
    queues.keep(vec![delivery(0, 4)], true);
    let batch = next(&mut queues).unwrap();
    assert_eq!((batch.deliveries.len(), batch.alone), (2, false));
    assert!(next(&mut queues).is_none(), "it waits");
}

#[test]
fn a_tenant_and_a_source_that_are_full_hand_the_message_back() {
    let mut queues = Queues::new(1);
    let tenants = MAX_WAITING / MAX_WAITING_OF_TENANT;
    for tenant in 0..tenants {
        let tenant = format!("t{tenant}");
        fill(&mut queues, &tenant, 0, MAX_WAITING_OF_TENANT);
        let why = if tenant == format!("t{}", tenants - 1) {
            QueueFull::Source
        } else {
            QueueFull::Tenant
        };
        assert_eq!(queues.push(of(&tenant, 0, 0)).unwrap_err().0, why);
    }
    assert_eq!(queues.push(of("another", 0, 0)).unwrap_err().0, QueueFull::Source);
    assert!(next(&mut queues).is_some());
    assert!(queues.push(of("another", 0, 0)).is_ok());
}

#[test]
fn s5_08_the_few_messages_of_one_tenant_have_a_batch_of_their_own_whatever_another_sends() {
    let mut queues = Queues::new(2);
    for source in 0..2 {
        fill(&mut queues, "flood", source, MAX_WAITING_OF_TENANT);
        fill(&mut queues, "other", source, 5);
    }
    let batch = next(&mut queues).unwrap();
    assert_eq!((count(&batch.deliveries, "flood"), batch.beside_flood), (MAX_FLOOD_BATCH, true));
    let express = queues.next_express(|tenant| tenant == "flood").unwrap();
    assert_eq!((express.deliveries.len(), count(&express.deliveries, "other")), (10, 10));
    // A flood is never in an express batch, whoever it is of.
    fill(&mut queues, "other", 0, FLOOD);
    fill(&mut queues, "third", 0, 1);
    let express = queues.next_express(|tenant| tenant == "flood").unwrap();
    assert_eq!((express.deliveries.len(), count(&express.deliveries, "third")), (1, 1));
    // Its messages alone take turns with those of others too.
    let mut queues = Queues::new(1);
    for _ in 0..20 {
        assert!(queues.push(of("flood", 0, 3)).is_ok());
    }
    assert!(queues.push(of("other", 0, 3)).is_ok());
    let alone: Vec<_> = std::iter::from_fn(|| next(&mut queues)).filter(|b| b.alone).collect();
    let at = alone.iter().position(|batch| count(&batch.deliveries, "other") == 1);
    assert_eq!((alone.len(), at), (21, Some(1)));
}

#[test]
fn s5_08_a_floods_batch_is_small_while_others_are_served_and_whole_when_none_are() {
    let mut queues = Queues::new(1);
    fill(&mut queues, "flood", 0, MAX_WAITING_OF_TENANT);
    let flood = |queues: &mut Queues| {
        let batch = next(queues).unwrap();
        assert_eq!(
            (count(&batch.deliveries, "flood"), batch.beside_flood),
            (batch.deliveries.len(), true)
        );
        batch.deliveries.len()
    };
    let express = |queues: &mut Queues| {
        queues.next_express(|tenant| tenant == "flood").unwrap().deliveries.len()
    };
    assert_eq!(flood(&mut queues), MAX_BATCH);
    // One that waits, and one that was served a moment ago.
    fill(&mut queues, "other", 0, 1);
    assert_eq!(flood(&mut queues), MAX_FLOOD_BATCH);
    assert_eq!((express(&mut queues), flood(&mut queues)), (1, MAX_FLOOD_BATCH));
    // Many others do not wait for few of the flood.
    for tenant in 0..4 {
        fill(&mut queues, &format!("t{tenant}"), 0, FLOOD - 7);
    }
    assert_eq!((express(&mut queues), flood(&mut queues)), (100, 100));
    let (at, messages) = queues.served.unwrap();
    queues.served = Some((at.checked_sub(SERVED).unwrap(), messages));
    assert_eq!(flood(&mut queues), MAX_BATCH);
    // Two floods are no others to each other.
    fill(&mut queues, "second", 0, MAX_BATCH);
    let both = next(&mut queues).unwrap().deliveries;
    assert_eq!((count(&both, "flood"), count(&both, "second")), (128, 128));
}

#[test]
fn s5_05_a_tenant_whom_a_lock_holds_up_shares_no_batch_with_others() {
    let mut queues = Queues::new(1);
    for tenant in ["held-up", "other"] {
        fill(&mut queues, tenant, 0, 1);
    }
    queues.set_held_up(["held-up".into(), "gone".into()].into());
    let batch = next(&mut queues).unwrap();
    assert_eq!((batch.deliveries.len(), count(&batch.deliveries, "held-up")), (1, 1));
    assert!(batch.beside_flood, "the other need not wait for it");
    let batch = next(&mut queues).unwrap();
    assert_eq!((count(&batch.deliveries, "other"), batch.beside_flood), (1, false));
}

#[test]
fn a_tenant_with_messages_in_a_batch_of_the_other_kind_waits_and_nobody_else_does() {
    let mut queues = Queues::new(1);
    fill(&mut queues, "held", 0, FLOOD);
    assert!(queues.push(of("held", 0, 3)).is_ok());
    assert!(queues.next(|tenant| tenant == "held").is_none(), "not even alone");
    fill(&mut queues, "other", 0, 1);
    let batch = queues.next(|tenant| tenant == "held").unwrap();
    assert_eq!((count(&batch.deliveries, "other"), batch.beside_flood), (1, false));
    // A message alone takes its turn; the others need not wait for it either.
    fill(&mut queues, "other", 0, 1);
    let alone = queues.next(|_| false).unwrap();
    assert_eq!((alone.alone, alone.beside_flood), (true, true));
    let express = queues.next_express(|tenant| tenant == "held").unwrap();
    assert_eq!(count(&express.deliveries, "other"), 1);
}

#[test]
fn a_flood_that_waits_for_a_dependency_makes_no_other_wait() {
    let mut queues = Queues::new(2);
    queues.keep((0..FLOOD).map(|_| of("flood", 0, 1)).collect(), false);
    assert!(queues.push(of("other", 1, 0)).is_ok());
    let batch = next(&mut queues).unwrap();
    assert_eq!((batch.deliveries.len(), count(&batch.deliveries, "other")), (1, 1));
}

#[test]
fn without_a_flood_all_tenants_share_a_batch() {
    let mut queues = Queues::new(1);
    for tenant in 0..9 {
        fill(&mut queues, &format!("t{tenant}"), 0, FLOOD - 1);
    }
    let batch = next(&mut queues).unwrap();
    assert_eq!((batch.deliveries.len(), batch.beside_flood), (MAX_BATCH, false));
}

#[test]
fn a_message_that_is_handled_alone_takes_no_room_from_the_rest() {
    let mut queues = Queues::new(1);
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let permit = permits.clone().try_acquire_owned().unwrap();
    let held = Delivery { permit: Some(permit.into()), ..delivery(0, ALONE_FROM) };
    assert!(queues.push(held).is_ok());
    assert_eq!(permits.available_permits(), 1);
    for _ in 1..MAX_ALONE_OF_TENANT {
        assert!(queues.push(delivery(0, ALONE_FROM)).is_ok());
    }
    assert_eq!(queues.push(delivery(0, ALONE_FROM)).unwrap_err().0, QueueFull::Alone);
    assert!(queues.push(delivery(0, 1)).is_ok());
    for n in MAX_ALONE_OF_TENANT..MAX_ALONE {
        assert!(queues.push(of(&format!("o{n}"), 0, ALONE_FROM)).is_ok());
    }
    assert_eq!(queues.push(of("t2", 0, ALONE_FROM)).unwrap_err().0, QueueFull::Alone);
}

#[test]
fn a_subject_without_a_tenant_shares_a_queue_with_others_like_it() {
    for (tenant, expected) in [("t1", "t1"), ("", ""), ("a b", ""), ("ä", ""), ("*", "")] {
        assert_eq!(of(tenant, 0, 0).tenant(), expected);
    }
    assert_eq!(of(&"x".repeat(Token::MAX_LEN + 1), 0, 0).tenant(), "");
}
