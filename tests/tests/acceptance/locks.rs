//! S2: commands of a lock's holder, and of everybody else.

use brigade_tests::{
    Producer, TestFleet, check,
    paying::{TEMPORARY, age_lock, fingerprint, held_locks, lock, lock_history},
    producer::item,
};
use serde_json::{Value, json};

type Lock = (i64, String, Option<String>, i64);

/// Fencing token, deadline and transaction of ada's lock, and its version.
async fn row(fleet: &TestFleet) -> Lock {
    sqlx::query_as(
        "select version, expires_at::text, transaction_id, token from brigade.cart_locks
         where tenant = 't1' and owner = 'ada'",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap()
}

#[tokio::test]
async fn s2_01_lock_validate_bind_extend_and_unlock_are_commands_of_their_own() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let taken = producer.lock("c1").await;
    let token = &taken["token"];
    assert_eq!(taken["amount"], 1000);
    assert_eq!(taken["expires_at"], taken["core"]["locked_until"]);
    let bind = json!({ "token": token, "transaction_id": "g1" });
    let bound = producer.done("cart.c1.bind_transaction", bind).await;
    assert_eq!(bound["expires_at"], taken["expires_at"]);
    let extend = json!({ "token": token, "seconds": 60 });
    let extended = producer.done("cart.c1.extend", extend).await;
    assert!(extended["expires_at"].as_str() > taken["expires_at"].as_str(), "{extended}");
    let shown = check::kv(&fleet, "cart_locks", "t1.ada").await.unwrap();
    assert_eq!((&shown["state"], &shown["cart"]), (&json!("held"), &json!("c1")));
    assert_eq!(shown["expires_at"], extended["expires_at"]);
    let unlock = json!({ "token": token, "reason": "changed my mind" });
    let unlocked = producer.done("cart.c1.unlock", unlock).await;
    assert_eq!(unlocked["core"]["locked_until"], Value::Null);
    let shown = check::kv(&fleet, "cart_locks", "t1.ada").await.unwrap();
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("released"), &json!("changed my mind"))
    );
    // With a fingerprint it is lock-and-validate.
    let mut again = lock("qr");
    again["fingerprint"] = taken["fingerprint"].clone();
    let again = producer.done("cart.c1.lock", again).await;
    assert!(again["token"].as_i64() > token.as_i64(), "{again}");
    fleet.finish().await;
}

#[tokio::test]
async fn s2_02_the_deadline_survives_the_bind() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let token = producer.lock("c1").await["token"].clone();
    let before = row(&fleet).await;
    assert_eq!(before.2.as_deref(), Some(TEMPORARY));
    let bind = json!({ "token": token, "transaction_id": "gateway-1" });
    producer.done("cart.c1.bind_transaction", bind).await;
    let after = row(&fleet).await;
    let bound = |version: i64, id: &str| (version, before.1.clone(), Some(id.to_owned()), before.3);
    assert_eq!(after, bound(before.0 + 1, "gateway-1"));
    // A payment binds its lock as well.
    let initiate = json!({ "target": { "cart": "c1" }, "method": "card", "token": token });
    producer.done("payment.p1.initiate", initiate).await;
    let bind = json!({ "transaction_id": "gateway-2" });
    let payment = producer.done("payment.p1.bind_transaction", bind).await;
    assert_eq!(payment["core"]["bound"], true);
    assert_eq!(row(&fleet).await, bound(before.0 + 2, "gateway-2"));
    assert_eq!(producer.result("p1", "captured", "gateway-2", 1000).await.status, 200);
    fleet.finish().await;
}

/// Returns every command that a lock refuses.
fn changes() -> [(&'static str, Value); 7] {
    [
        ("join", json!({ "user": "eve" })),
        ("leave", json!({ "user": "bob" })),
        ("add_item", item("i2", 100, 1)),
        ("set_item", json!({ "item_id": "i1", "quantity": 2 })),
        ("remove_item", json!({ "item_id": "i1" })),
        ("check_out", json!({ "order_id": "o1" })),
        ("abandon", json!({ "reason": "too late" })),
    ]
}

#[tokio::test]
async fn s2_03_locked_cart_refuses_changes() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.done("cart.c1.add_item", item("i1", 1000, 1)).await;
    producer.lock("c1").await;
    let before = producer.view("cart.c1", None).await;
    for (verb, payload) in changes() {
        let refused = producer.send(&format!("cart.c1.{verb}"), payload).await;
        assert_eq!((refused.status, refused.code().as_str()), (423, "cart_locked"), "{verb}");
        let body = refused.body();
        let wait = body["retry_after_ms"].as_u64().unwrap();
        assert!((1..=600_000).contains(&wait), "{verb}: {wait}");
        assert_eq!((&body["effects"], &body["data"]), (&json!([]), &json!({})), "{verb}");
        assert!(body["message"].as_str().unwrap().contains("being paid"), "{verb}");
        let text = String::from_utf8(refused.bytes).unwrap();
        assert!(!text.contains(TEMPORARY), "{verb}: {text}");
    }
    let after = producer.view("cart.c1", None).await;
    assert_eq!((after.status, after.body()), (200, before.body()), "nothing changed");
    assert_eq!(after, before, "nor does it look different");
    producer.done("cart.c1.commit_cod", json!({ "user": "bob" })).await;
    assert_eq!(
        producer.refused("cart.c1.claim", json!({ "user": "bob" })).await,
        (409, "no_session".to_owned()),
        "a claim is not refused for the lock"
    );
    // Nobody else learns the transaction either.
    for message in check::raw_events(&fleet).await {
        assert!(!String::from_utf8_lossy(&message.payload).contains(TEMPORARY));
    }
    let shown = check::kv(&fleet, "cart_locks", "t1.ada").await.unwrap().to_string();
    assert!(!shown.contains(TEMPORARY), "{shown}");
    fleet.finish().await;
}

#[tokio::test]
async fn s2_05_a_lock_on_other_contents_than_its_sender_believes_is_refused() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let items = [item("b", 250, 2), item("a", 1000, 1), item("B", 0, 999)];
    producer.cart_of("c1", "menu", "ada", &[]).await;
    for item in &items {
        producer.done("cart.c1.add_item", item.clone()).await;
    }
    let mut changed = vec![
        ("no items", "EUR", vec![]),
        ("an item less", "EUR", items[..2].to_vec()),
        ("another currency", "USD", items.to_vec()),
    ];
    for (field, value) in [
        ("quantity", json!(3)),
        ("unit_price", json!(251)),
        ("sku", json!("s")),
        ("item_id", json!("c")),
    ] {
        let mut items = items.to_vec();
        items[0][field] = value;
        changed.push((field, "EUR", items));
    }
    let present = fingerprint("EUR", &items);
    let asks = |fingerprint: String| json!({ "transaction_id": "t1", "method": "card", "fingerprint": fingerprint });
    for (what, currency, items) in changed {
        let refused = producer.send("cart.c1.lock", asks(fingerprint(currency, &items))).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "cart_changed"), "{what}");
        assert_eq!(refused.body()["data"], json!({ "fingerprint": present }), "{what}");
        assert_eq!(held_locks(&fleet).await, vec![], "{what}");
    }
    let taken = producer.done("cart.c1.lock", asks(present.clone())).await;
    assert_eq!(taken["fingerprint"], present);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_08_an_old_token_is_refused_whatever_it_asks_for() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.cart_of("c2", "ticket", "ada", &[("i1", 5, 1)]).await;
    let system = Producer::new(fleet.connect("cart-lock-expiry").await, "t1");
    let stale = (409, "stale_token".to_owned());
    let refuses = async |token: &Value| {
        for (verb, payload) in [
            ("unlock", json!({ "token": token, "reason": "r" })),
            ("bind_transaction", json!({ "token": token, "transaction_id": "g" })),
            ("extend", json!({ "token": token, "seconds": 60 })),
            ("check_out", json!({ "token": token, "order_id": "o1" })),
        ] {
            assert_eq!(
                producer.refused(&format!("cart.c1.{verb}"), payload).await,
                stale,
                "{verb}"
            );
        }
        let expire = system.refused("cart.c1.expire_lock", json!({ "token": token })).await;
        assert_eq!(expire, stale);
        let under = json!({ "target": { "cart": "c1" }, "method": "card", "token": token });
        assert_eq!(producer.refused("payment.p9.initiate", under).await, stale);
    };
    let first = producer.lock("c1").await["token"].clone();
    // Past its deadline it is no one's any more, though nobody has taken another.
    age_lock(&fleet, "ada", 11).await;
    refuses(&first).await;
    let second = producer.lock("c1").await["token"].clone();
    assert!(second.as_i64() > first.as_i64());
    let before = row(&fleet).await;
    refuses(&first).await;
    refuses(&json!(0)).await;
    refuses(&json!(i64::MAX)).await;
    assert_eq!(row(&fleet).await, before);
    // The token of one cart is none of another, though the owner is the same.
    let unlock = json!({ "token": second, "reason": "r" });
    assert_eq!(producer.refused("cart.c2.unlock", unlock).await, stale);
    assert_eq!(row(&fleet).await, before);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_08_a_late_result_leaves_the_next_holders_lock_alone() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    producer.done("payment.p1.cancel", json!({ "reason": "closed the page" })).await;
    producer.done("cart.c1.add_item", item("i2", 500, 1)).await;
    let second = producer.initiate("p2", "c1").await;
    let token = second["token"].as_i64().unwrap();
    let late = producer.result("p1", "captured", "g1", 1000).await.body();
    assert_eq!(late["data"]["core"]["status"], "late_captured");
    assert_eq!(late["data"]["refund_tasks"][0]["amount"], 1000);
    assert_eq!(held_locks(&fleet).await, vec![("ada".to_owned(), token)]);
    assert_eq!(producer.result("p1", "failed", "g1", 0).await.code(), "ignored");
    assert_eq!(held_locks(&fleet).await, vec![("ada".to_owned(), token)]);
    assert_eq!(producer.result("p2", "captured", "g2", 1500).await.status, 200);
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1500), json!(0)));
    let actions: Vec<_> =
        lock_history(&fleet, "ada").await.into_iter().map(|entry| entry.0).collect();
    assert_eq!(actions, ["acquired", "released", "acquired", "released"]);
    fleet.finish().await;
}
