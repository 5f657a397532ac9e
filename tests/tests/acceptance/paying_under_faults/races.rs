//! Locks against changes, and expiries against each other, on two handlers at once.

use std::{collections::BTreeMap, time::Duration};

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Reply, TestFleet, money, until};
use futures::{future::join_all, join};
use serde_json::json;

use super::{cart, lock, policy, with_two_handlers};

/// The number of answers by status.
type Counts = BTreeMap<u16, usize>;

fn count(counts: &mut Counts, replies: &[&Reply]) {
    for reply in replies {
        *counts.entry(reply.status).or_default() += 1;
    }
}

fn added(all: impl IntoIterator<Item = Counts>) -> Counts {
    let mut sum = Counts::new();
    for (status, count) in all.into_iter().flatten() {
        *sum.entry(status).or_default() += count;
    }
    sum
}

async fn set(producer: &Producer, cart: &str, quantity: usize) -> Reply {
    let payload = json!({"item_id": "i1", "quantity": 1 + quantity % 900});
    producer.send(&format!("cart.{cart}.set_item"), payload).await
}

/// Races two carts of one owner in rounds: one is locked while both are changed.
async fn lane(producer: &Producer, name: String, rounds: usize) -> Counts {
    let [one, other] = ["a", "b"].map(|cart| format!("{cart}-{name}"));
    cart(producer, &one, &name).await;
    cart(producer, &other, &name).await;
    let mut counts = Counts::new();
    for round in 0..rounds {
        let payload = json!({"transaction_id": "t", "method": "card"});
        let what = format!("cart.{one}.lock");
        let (before, locked, first, second) = join!(
            set(producer, &one, 2 * round),
            producer.send(&what, payload),
            set(producer, &one, 2 * round + 1),
            set(producer, &other, round),
        );
        assert_eq!(locked.status, 200, "{:?}", locked.body());
        for change in [&before, &first, &second] {
            assert!([200, 423].contains(&change.status), "{:?}", change.body());
        }
        count(&mut counts, &[&before, &first, &second]);
        let late = set(producer, &other, round).await;
        assert_eq!(late.status, 423, "it was sent under the lock: {:?}", late.body());
        let unlock = json!({"token": locked.body()["data"]["token"], "reason": "done"});
        let unlocked = producer.send(&format!("cart.{one}.unlock"), unlock).await;
        assert_eq!(unlocked.status, 200, "{:?}", unlocked.body());
    }
    counts
}

#[tokio::test]
async fn s2_03_s2_04_nothing_changes_under_a_lock_in_10_000_races_on_two_handlers() {
    const LANES: usize = 100;
    const ROUNDS: usize = 34;
    let fleet = with_two_handlers(Duration::from_secs(600)).await;
    let producer = fleet.producer().await;
    let lanes = (0..LANES).map(|n| lane(&producer, format!("o{n}"), ROUNDS));
    let counts = added(join_all(lanes).await);
    println!("changes that raced a lock, by status: {counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 3 * LANES * ROUNDS);
    assert!(counts.values().all(|count| *count > LANES), "one side always wins: {counts:?}");
    money::invariants(&fleet).await;
    fleet.finish().await;
}

/// Waits until the lock of an owner has passed its deadline on the database's clock.
async fn overdue(fleet: &TestFleet, owner: &str) {
    until("the deadline", || async {
        let overdue =
            "select expires_at <= clock_timestamp() from brigade.cart_locks where owner = $1";
        let overdue = sqlx::query_scalar(overdue).bind(owner).fetch_one(&fleet.sql).await;
        overdue.ok().filter(|overdue: &bool| *overdue).map(drop)
    })
    .await;
}

/// Races two carts of one owner in rounds: the lock of one is overdue, and all commands that it
/// concerns come at once.
async fn overdue_lane(
    fleet: &TestFleet,
    producer: &Producer,
    name: String,
    rounds: usize,
) -> Counts {
    let [one, other] = ["a", "b"].map(|cart| format!("{cart}-{name}"));
    cart(producer, &one, &name).await;
    cart(producer, &other, &name).await;
    let mut counts = Counts::new();
    for round in 0..rounds {
        let token = lock(producer, &one).await;
        overdue(fleet, &name).await;
        let expire = format!("cart.{one}.expire_lock");
        let (first, second, third, expired) = join!(
            set(producer, &one, round),
            set(producer, &other, round),
            set(producer, &other, round + 1),
            producer.send(&expire, json!({ "token": token })),
        );
        for change in [&first, &second, &third] {
            assert_eq!(change.status, 200, "{:?}", change.body());
        }
        let first_to_meet_it = expired.status == 200;
        assert!(first_to_meet_it || expired.code() == "stale_token", "{:?}", expired.body());
        count(&mut counts, &[&expired]);
    }
    counts
}

#[tokio::test]
async fn whoever_meets_an_overdue_lock_decides_its_expiry_first_and_once() {
    const LANES: usize = 20;
    const ROUNDS: usize = 25;
    let mut fleet = TestFleet::empty().await;
    fleet.settings.lock_policy = policy(Duration::from_millis(60));
    // Not the worker that ends locks: it would be there first.
    for worker in WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CartLockExpiry) {
        fleet.run(worker).await;
    }
    fleet.run(WorkerName::CommandHandler).await;
    // `expire_lock` is no producer's to send.
    let producer = Producer::new(fleet.connect("operator").await, "t1");
    let lanes = (0..LANES).map(|n| overdue_lane(&fleet, &producer, format!("o{n}"), ROUNDS));
    let counts = added(join_all(lanes).await);
    println!("expire_lock against other commands, by status: {counts:?}");
    assert_eq!(counts.len(), 2, "one side always wins: {counts:?}");
    let expired: Vec<i64> = sqlx::query_scalar(
        "select count(*) from brigade.events where type = 'lock_expired'
         group by tenant, id, payload::jsonb #>> '{data,token}'",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(expired, vec![1; LANES * ROUNDS], "each lock expired once");
    money::invariants(&fleet).await;
    fleet.run(WorkerName::CartLockExpiry).await;
    fleet.finish().await;
}
