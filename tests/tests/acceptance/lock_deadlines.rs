//! S2: locks in queries and on the command line, and their deadlines with the whole fleet running.
//! (cart-lock-expiry by itself is in `lock_expiry`.)

use std::time::Duration;

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, Reply, TENANTS, TestFleet,
    paying::{TEMPORARY, age_lock, held_locks, lock},
    process::printed,
    producer::item,
    until,
};
use futures::StreamExt;
use serde_json::{Value, json};

async fn asked(producer: &Producer, what: &str, headers: &[(&str, &str)]) -> Reply {
    let subject = format!("q.{}.{what}", producer.tenant);
    producer.request(&subject, headers, b"").await.expect("an answer")
}

/// Waits until an owner's history has an entry of this action by cart-lock-expiry.
async fn until_done_by_the_worker(fleet: &TestFleet, owner: &str, action: &str) {
    until(&format!("{owner}'s lock to be {action}"), || async {
        let found: bool = sqlx::query_scalar(
            "select exists (select from brigade.cart_lock_history
                            where owner = $1 and action = $2 and actor = 'cart-lock-expiry')",
        )
        .bind(owner)
        .bind(action)
        .fetch_one(&fleet.sql)
        .await
        .ok()?;
        found.then_some(())
    })
    .await;
}

#[tokio::test]
async fn s2_01_whether_an_owner_is_locked_is_a_query_of_its_own() {
    // Nobody tidies up: what is past its deadline is not locked all the same.
    let fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let free = asked(&producer, "lock.ada", &[]).await;
    assert_eq!((free.status, free.code().as_str()), (404, "not_locked"));
    let taken = producer.lock("c1").await;
    let reply = asked(&producer, "lock.ada", &[]).await;
    let live = reply.body();
    assert_eq!((reply.status, &live["cart"], &live["method"]), (200, &json!("c1"), &json!("card")));
    assert_eq!(live["expires_at"], taken["expires_at"]);
    assert_eq!(live.as_object().unwrap().len(), 4, "nothing of the holder's: {live}");
    let other = Producer::new(fleet.connect("t2-producer").await, TENANTS[1]);
    assert_eq!(asked(&other, "lock.ada", &[]).await.status, 404, "of this restaurant only");
    producer.done("cart.c1.unlock", json!({ "token": taken["token"], "reason": "r" })).await;
    assert_eq!(asked(&producer, "lock.ada", &[]).await.status, 404);
    producer.lock("c1").await;
    age_lock(&fleet, "ada", 11).await;
    assert_eq!(asked(&producer, "lock.ada", &[]).await.status, 404);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_12_the_history_is_queried_in_pieces_and_printed() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    for n in 0..4 {
        let token = producer.lock("c1").await["token"].clone();
        producer.refused("cart.c1.lock", lock("qr")).await;
        let unlock = json!({ "token": token, "reason": format!("reason {n}") });
        producer.done("cart.c1.unlock", unlock).await;
    }
    let stored: Vec<Value> = sqlx::query_scalar(
        "select jsonb_build_object('cart_id', cart_id, 'token', token, 'action', action,
                                   'method', method, 'reason', reason, 'actor', actor)
         from brigade.cart_lock_history where owner = 'ada' order by seq desc",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(stored.len(), 12);
    let mut found = Vec::new();
    let mut before: Option<String> = None;
    for pieces in 1.. {
        let mut headers = vec![("Limit", "5")];
        headers.extend(before.as_deref().map(|place| ("Before", place)));
        let body = asked(&producer, "lock_history.ada", &headers).await.body();
        for entry in body["entries"].as_array().unwrap() {
            let mut entry = entry.clone();
            assert!(entry.as_object_mut().unwrap().remove("at").is_some());
            found.push(entry);
        }
        before = body["before"].as_str().map(str::to_owned);
        if before.is_none() {
            assert_eq!(pieces, 3);
            break;
        }
    }
    assert_eq!(found, stored, "newest first, each once");
    let whole = asked(&producer, "lock_history.ada", &[]).await;
    assert!(!String::from_utf8(whole.bytes).unwrap().contains(TEMPORARY));
    let nobody = asked(&producer, "lock_history.bob", &[]).await.body();
    assert_eq!(nobody, json!({ "entries": [], "before": null }));

    let history = printed(&fleet, "locks history t1 ada --limit 2").await;
    let released = history.lines().find(|line| line.contains(" released ")).expect("an entry");
    assert!(released.ends_with("reason 3") && history.contains("cart_locked"), "{history}");
    let token = producer.lock("c1").await["token"].clone();
    let live = printed(&fleet, "locks ls --tenant t1").await;
    let row = live.lines().find(|line| line.contains(" ada ")).expect("the lock");
    assert!(row.contains(&format!(" {token} ")) && !row.contains("overdue"), "{live}");
    assert!(!live.contains(TEMPORARY) && !history.contains(TEMPORARY));
    fleet.finish().await;
}

#[tokio::test]
async fn s2_09_each_method_has_its_deadline_which_survives_a_restart_of_every_part() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.lock_policy.card = Duration::from_secs(2);
    fleet.settings.lock_policy.qr = Duration::from_secs(300);
    fleet.run_all().await;
    let producer = fleet.producer().await;
    let begun: time::OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&fleet.sql).await.unwrap();
    for (owner, method) in [("ada", "card"), ("bob", "qr"), ("cid", "cash")] {
        producer.cart_of(owner, "menu", owner, &[("i1", 1000, 1)]).await;
        producer.done(&format!("cart.{owner}.lock"), lock(method)).await;
    }
    let mut pushes = producer.client.subscribe("live.cart_locks.t1.ada").await.unwrap();
    producer.client.flush().await.unwrap();
    let seconds: Vec<f64> = sqlx::query_scalar(
        "select extract(epoch from expires_at - acquired_at)::float8 from brigade.cart_locks
         order by owner",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(seconds, [2.0, 300.0, 600.0], "card, qr, and 10 min where nothing is said");
    // Within these 2 s all of it is gone once.
    for worker in WorkerName::ALL {
        fleet.take(worker).kill().await;
    }
    fleet.nats.kill().await;
    fleet.postgres_mut().stop().await;
    fleet.postgres_mut().restart().await.unwrap();
    fleet.nats.restart().await.unwrap();
    fleet.run_all().await;
    until_done_by_the_worker(&fleet, "ada", "expired").await;
    let early: bool = sqlx::query_scalar(
        "select at < $1 + interval '2 seconds' from brigade.cart_lock_history
         where action = 'expired'",
    )
    .bind(begun)
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert!(!early, "not before its time");
    let owners: Vec<_> = held_locks(&fleet).await.into_iter().map(|(owner, _)| owner).collect();
    assert_eq!(owners, ["bob", "cid"]);
    // Whoever watches is told, and the cart is free.
    let push: Value = serde_json::from_slice(&pushes.next().await.unwrap().payload).unwrap();
    assert_eq!((&push["state"], &push["reason"]), (&json!("released"), &json!("expired")));
    producer.done("cart.ada.add_item", item("i2", 1, 1)).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s2_10_the_lock_of_an_open_payment_is_extended_up_to_the_cap() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let begun = producer.initiate("p1", "c1").await;
    assert_eq!(producer.result("p1", "unknown", "g1", 1000).await.status, 200);
    age_lock(&fleet, "ada", 11).await;
    until_done_by_the_worker(&fleet, "ada", "extended").await;
    let live = asked(&producer, "lock.ada", &[]).await;
    assert_eq!(live.status, 200, "{}", live.body());
    let view = producer.view("cart.c1", None).await.body();
    assert_eq!(view["core"]["locked_until"], live.body()["expires_at"]);
    age_lock(&fleet, "ada", 31).await;
    until_done_by_the_worker(&fleet, "ada", "expired").await;
    assert_eq!(held_locks(&fleet).await, vec![]);
    // What the gateway says at last is applied: the cart is as it was.
    assert_eq!(begun["amount"], 1000);
    let late = producer.result("p1", "captured", "g1", 1000).await.body();
    assert_eq!(late["data"]["core"]["status"], "captured");
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    fleet.finish().await;
}
