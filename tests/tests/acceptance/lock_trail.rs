//! S2: no path leaves a lock behind, and each is visible in pushes, history and metrics.

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet,
    paying::{TEMPORARY, age_lock, held_locks, lock, lock_history, result},
    producer::item,
};
use futures::StreamExt;
use serde_json::{Value, json};

#[tokio::test]
async fn s2_11_what_is_refused_or_repeated_leaves_no_lock() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    let begin = |more: Value| {
        let mut payload = json!({ "target": { "cart": "c1" }, "method": "card" });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let refused = async |what: &str, payload: Value, status: u16, code: &str| {
        let found = producer.refused(what, payload.clone()).await;
        assert_eq!(found, (status, code.to_owned()), "{what} {payload}");
        assert_eq!(held_locks(&fleet).await, vec![], "{what} {payload}");
    };
    refused("cart.c1.lock", lock("card"), 422, "cart_empty").await;
    refused("payment.p1.initiate", begin(json!({})), 422, "cart_empty").await;
    producer.done("cart.c1.add_item", item("i1", 1000, 1)).await;
    refused("cart.c1.lock", json!({ "method": "card" }), 400, "missing_field").await;
    refused("cart.c1.lock", lock("barter"), 400, "malformed").await;
    refused("cart.c9.lock", lock("card"), 404, "not_found").await;
    for (more, status, code) in [
        (json!({ "target": { "cart": "c9" } }), 404, "cart_not_found"),
        (json!({ "target": { "order": "o9" } }), 404, "order_not_found"),
        (json!({ "amount": 1001 }), 409, "amount_too_high"),
        (json!({ "amount": 0 }), 409, "nothing_due"),
        (json!({ "user": "eve" }), 422, "not_a_member"),
        (json!({ "token": 1 }), 409, "stale_token"),
        (json!({ "amount": -1 }), 422, "negative_amount"),
    ] {
        refused("payment.p1.initiate", begin(more), status, code).await;
    }
    // Its repetition is the answer again, and no lock.
    for (id, what, payload, end) in [
        ("k1", "cart.c1.lock", lock("card"), "cart.c1.unlock"),
        ("k2", "payment.p1.initiate", begin(json!({})), "payment.p1.cancel"),
    ] {
        let first = producer.send_as(id, what, payload.clone()).await;
        assert!(first.status < 300, "{what}: {}", first.body());
        let twenty = producer.all_at_once(20, id, what, payload.clone()).await;
        assert!(twenty.iter().all(|reply| reply.bytes == first.bytes), "{what}");
        let token = &first.body()["data"]["token"];
        assert_eq!(held_locks(&fleet).await, vec![("ada".to_owned(), token.as_i64().unwrap())]);
        let mut ending = json!({ "reason": "done" });
        if end == "cart.c1.unlock" {
            ending["token"] = token.clone();
        }
        producer.done(end, ending).await;
        let again = producer.send_as(id, what, payload).await;
        assert_eq!(again.bytes, first.bytes, "{what}");
        assert_eq!(held_locks(&fleet).await, vec![], "{what} again");
    }
    refused("payment.p1.initiate", begin(json!({})), 409, "already_exists").await;
    fleet.finish().await;
}

#[tokio::test]
async fn s2_14_lock_and_unlock_are_pushed_as_they_happen() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let watcher = Producer::new(fleet.connect("t1-watcher").await, "t1");
    let mut pushes = watcher.client.subscribe("live.cart_locks.t1.ada").await.unwrap();
    watcher.client.flush().await.unwrap();
    let token = producer.lock("c1").await["token"].clone();
    producer.done("cart.c1.extend", json!({ "token": token, "seconds": 1 })).await;
    producer.done("cart.c1.unlock", json!({ "token": token, "reason": "done" })).await;
    producer.initiate("p1", "c1").await;
    let failed = producer.send("payment.p1.record_result", result("failed", "g1", 1000)).await;
    assert_eq!(failed.status, 200);
    for (version, state, reason) in [
        (1, "held", json!(null)),
        (2, "held", json!(null)),
        (3, "released", json!("done")),
        (4, "held", json!(null)),
        (5, "released", json!("failed")),
    ] {
        let push = pushes.next().await.expect("a push");
        let lock: Value = serde_json::from_slice(&push.payload).unwrap();
        assert_eq!((&lock["state"], &lock["reason"]), (&json!(state), &reason), "{lock}");
        assert_eq!(lock["version"], version);
        assert!(!lock.to_string().contains(TEMPORARY), "{lock}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s2_12_each_thing_done_with_a_lock_stands_in_its_history() {
    // Nobody but the commands here meets the deadline.
    let fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let send = async |id: &str, actor: &str, what: &str, payload: Value| {
        let headers = [("Command-Id", id), ("Actor", actor)];
        let subject = format!("req.t1.{what}");
        producer.request(&subject, &headers, payload.to_string().as_bytes()).await.unwrap().body()
    };
    let first = send("k1", "phone", "cart.c1.lock", lock("card")).await["data"]["token"].clone();
    let bind = json!({ "token": first, "transaction_id": "g1" });
    send("k2", "gateway", "cart.c1.bind_transaction", bind).await;
    send("k3", "phone", "cart.c1.extend", json!({ "token": first, "seconds": 60 })).await;
    send("k4", "other-phone", "cart.c1.lock", lock("qr")).await;
    let initiate = json!({ "target": { "cart": "c1" }, "method": "wallet" });
    send("k5", "other-phone", "payment.p1.initiate", initiate.clone()).await;
    send("k6", "other-phone", "cart.c1.add_item", item("i2", 1, 1)).await;
    send("k7", "phone", "cart.c1.unlock", json!({ "token": first, "reason": "back" })).await;
    let second =
        send("k8", "phone", "payment.p1.initiate", initiate).await["data"]["token"].clone();
    age_lock(&fleet, "ada", 11).await;
    // The payment is open: the lock is extended by the first command that comes, then it is over.
    send("k9", "phone", "cart.c1.add_item", item("i2", 1, 1)).await;
    age_lock(&fleet, "ada", 31).await;
    send("k10", "phone", "cart.c1.add_item", item("i2", 1, 1)).await;
    type Entry = (String, Option<i64>, Option<String>, Option<String>, Option<String>);
    let found: Vec<Entry> = sqlx::query_as(
        "select action, token, method, reason, actor from brigade.cart_lock_history
         where tenant = 't1' and owner = 'ada' and cart_id = 'c1' order by seq",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    let expected = [
        ("acquired", &first, "card", None, "phone"),
        ("bound", &first, "card", None, "gateway"),
        ("extended", &first, "card", Some("asked"), "phone"),
        ("refused", &first, "qr", Some("cart_locked"), "other-phone"),
        ("refused", &first, "wallet", Some("cart_locked"), "other-phone"),
        ("released", &first, "card", Some("back"), "phone"),
        ("acquired", &second, "wallet", None, "phone"),
        ("extended", &second, "wallet", Some("payment_open"), "phone"),
        ("expired", &second, "wallet", Some("expired"), "phone"),
    ];
    let expected = expected.map(|(action, token, method, reason, actor)| {
        let text = |text: &str| Some(text.to_owned());
        let action = action.to_owned();
        (action, token.as_i64(), text(method), reason.map(str::to_owned), text(actor))
    });
    assert_eq!(found, expected);
    let dated: bool = sqlx::query_scalar(
        "select bool_and(at between now() - interval '1 hour' and now())
         from brigade.cart_lock_history",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert!(dated);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_12_nobody_fills_the_history_by_being_refused() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.lock("c1").await;
    sqlx::raw_sql("update brigade.cart_locks set refusals = 998")
        .execute(&fleet.sql)
        .await
        .unwrap();
    for _ in 0..5 {
        assert_eq!(producer.refused("cart.c1.lock", lock("card")).await.0, 423);
    }
    let refused =
        lock_history(&fleet, "ada").await.into_iter().filter(|entry| entry.0 == "refused");
    assert_eq!(refused.count(), 2, "up to a thousand by one token");
    fleet.finish().await;
}

/// Returns the value of a series in the text that Prometheus scrapes.
fn series(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn s2_13_attempts_and_held_times_are_measured_by_method() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let attempts = |method: &str, result: &str| {
        let name = format!(r#"brigade_lock_attempts_total{{method="{method}",result="{result}"}}"#);
        series(&fleet.metrics.render(), &name)
    };
    let seconds = |what: &str, ended: &str, method: &str| {
        let labels = format!(r#"{{ended="{ended}",method="{method}"}}"#);
        series(&fleet.metrics.render(), &format!("brigade_lock_held_seconds_{what}{labels}"))
    };
    assert_eq!(attempts("qr", "acquired"), 0.0, "a series is there before its first value");
    assert_eq!(seconds("count", "expired", "cash"), 0.0);
    producer.done("cart.c1.lock", lock("qr")).await;
    producer.refused("cart.c1.lock", lock("cash")).await;
    let mut changed = lock("wallet");
    changed["fingerprint"] = json!("0");
    age_lock(&fleet, "ada", 11).await;
    producer.refused("cart.c1.lock", changed).await;
    producer.initiate("p1", "c1").await;
    age_lock(&fleet, "ada", 5).await;
    producer.done("payment.p1.record_result", result("captured", "g1", 1000)).await;
    for (method, result, count) in [
        ("qr", "acquired", 1.0),
        ("cash", "cart_locked", 1.0),
        ("wallet", "cart_changed", 1.0),
        ("card", "acquired", 1.0),
        ("card", "cart_locked", 0.0),
    ] {
        assert_eq!(attempts(method, result), count, "{method} {result}");
    }
    assert_eq!(
        (seconds("count", "expired", "qr"), seconds("count", "released", "card")),
        (1.0, 1.0)
    );
    let (qr, card) = (seconds("sum", "expired", "qr"), seconds("sum", "released", "card"));
    assert!((660.0..720.0).contains(&qr) && (300.0..360.0).contains(&card), "{qr} {card}");
    // A repetition that is answered from the inbox is no further attempt.
    let replies = producer.all_at_once(3, "k", "cart.c1.lock", lock("card")).await;
    assert_eq!(replies[0].status, 200);
    assert_eq!(attempts("card", "acquired"), 2.0);
    fleet.finish().await;
}
