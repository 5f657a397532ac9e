use super::{super::queues::tests::of, *};

/// Returns a main batch of a tenant.
fn batch(tenant: &str, messages: usize) -> RunningBatch {
    RunningBatch {
        task: tokio::spawn(async {}).id(),
        kind: BatchKind::Main,
        alone: false,
        beside_flood: false,
        deliveries: Arc::new((0..messages).map(|_| of(tenant, 0, 1)).collect()),
        since: Instant::now(),
    }
}

fn push(in_hand: &mut InHand, tenant: &str) {
    assert!(in_hand.queues.push(of(tenant, 0, 1)).is_ok());
}

fn next(in_hand: &mut InHand, kind: BatchKind) -> Option<Vec<String>> {
    let batch = in_hand.next(kind)?;
    Some(batch.deliveries.iter().map(|delivery| delivery.tenant().to_owned()).collect())
}

fn ago(age: Duration) -> Instant {
    Instant::now().checked_sub(age).unwrap()
}

#[tokio::test]
async fn s5_08_nobody_waits_for_the_acknowledgements_of_another() {
    let mut in_hand = InHand::new(1, 2);
    in_hand.acknowledged.push(batch("t1", 1));
    push(&mut in_hand, "t1");
    assert!(!in_hand.has_room(BatchKind::Main, 2), "its next batch fills up");
    push(&mut in_hand, "t2");
    assert!(in_hand.has_room(BatchKind::Main, 2));
    assert_eq!(next(&mut in_hand, BatchKind::Main).unwrap(), ["t1", "t2"]);
    push(&mut in_hand, "t1");
    in_hand.acknowledged[0].since = ago(HEARTBEAT);
    assert!(in_hand.has_room(BatchKind::Main, 2), "not for long");
    in_hand.acknowledged[0] = batch("t1", SMALL);
    assert!(in_hand.has_room(BatchKind::Main, 2), "it was large");
}

#[tokio::test]
async fn batches_that_are_not_confirmed_are_in_hand_and_bounded() {
    let mut in_hand = InHand::new(1, 2);
    while in_hand.acknowledged.len() < MAX_ACKNOWLEDGED {
        assert!(in_hand.has_room(BatchKind::Main, 2));
        in_hand.acknowledged.push(batch("t1", SMALL));
    }
    assert!(!in_hand.has_room(BatchKind::Main, 2) && in_hand.has_room(BatchKind::Express, 2));
    push(&mut in_hand, "t2");
    assert_eq!(next(&mut in_hand, BatchKind::Express).unwrap(), ["t2"]);
    assert_eq!((in_hand.waiting(), in_hand.is_empty()), (0, false));
    assert_eq!(in_hand.iter().count(), MAX_ACKNOWLEDGED * SMALL);
    for task in in_hand.acknowledged.iter().map(|batch| batch.task).collect::<Vec<_>>() {
        in_hand.confirmed(task);
    }
    assert!(in_hand.is_empty());
}

#[tokio::test]
async fn s5_08_others_have_batches_beside_one_that_takes_long() {
    let mut in_hand = InHand::new(1, 2);
    in_hand.running.push(batch("t1", 1));
    assert!(in_hand.express_at().is_none(), "nobody waits");
    push(&mut in_hand, "t1");
    push(&mut in_hand, "t2");
    assert_eq!(in_hand.express_at(), Some(in_hand.running[0].since + LONG));
    assert!(next(&mut in_hand, BatchKind::Express).is_none());
    in_hand.running[0].since = ago(LONG);
    assert_eq!(next(&mut in_hand, BatchKind::Express).unwrap(), ["t2"]);
    assert!(in_hand.express_at().is_none());
    assert!(next(&mut in_hand, BatchKind::Express).is_none(), "the order of a tenant stays");
}

#[tokio::test]
async fn s5_05_a_tenant_whose_messages_are_held_has_batches_apart() {
    let mut in_hand = InHand::new(1, 2);
    assert!(in_hand.held.push(of("t1", 0, 1), "locked".to_owned()).is_ok());
    push(&mut in_hand, "t1");
    push(&mut in_hand, "t2");
    let beside_flood = in_hand.next(BatchKind::Main).unwrap().beside_flood;
    in_hand.running.push(RunningBatch { beside_flood, ..batch("t1", 1) });
    assert_eq!(next(&mut in_hand, BatchKind::Express).unwrap(), ["t2"]);
}
