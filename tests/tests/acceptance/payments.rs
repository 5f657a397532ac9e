//! S2: the cart is locked while it is paid, and money is exact.

use brigade_contracts::{MAX_AMOUNT, WorkerName};
use brigade_tests::{
    Producer, TestFleet,
    paying::{age_lock, held_locks, lock_history, refund_tasks},
    producer::item,
};
use serde_json::json;

#[tokio::test]
async fn s2_15_the_normal_flow() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let data = producer.initiate("p1", "c1").await;
    assert_eq!((&data["amount"], &data["core"]["status"]), (&json!(1000), &json!("initiated")));
    let locked = producer.refused("cart.c1.add_item", item("i2", 100, 1)).await;
    assert_eq!(locked, (423, "cart_locked".to_owned()));
    let captured = producer.result("p1", "captured", "tx1", 1000).await;
    assert_eq!(captured.status, 200, "{:?}", captured.body());
    assert_eq!(
        captured.body()["effects"],
        json!(["cart.c1@6", "payment.p1@2", "lock.ada@2"]),
        "paid and unlocked in one transaction"
    );
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    assert_eq!(producer.payment_status("p1").await, "captured");
    assert_eq!(held_locks(&fleet).await, vec![]);
    let frozen = producer.refused("cart.c1.add_item", item("i2", 100, 1)).await;
    assert_eq!(frozen, (409, "cart_paid".to_owned()));
    producer.done("cart.c1.check_out", json!({ "order_id": "o1" })).await;
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(1000), json!(0)));
    assert_eq!(producer.view("order.o1", None).await.body()["core"]["total"], 1000);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_06_what_is_charged_is_what_was_locked_or_owed_back() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    // Each: what the gateway charged, what is paid by it, and what is owed back and why.
    let cases = [
        ("exact", 1000, "EUR", 1000, None),
        ("less", 400, "EUR", 400, None),
        ("more", 1300, "EUR", 1000, Some((300, "surplus"))),
        ("most", MAX_AMOUNT, "EUR", 1000, Some((MAX_AMOUNT - 1000, "surplus"))),
        ("dollars", 1000, "USD", 0, Some((1000, "other_currency"))),
    ];
    for (name, charged, currency, paid, owed_back) in cases {
        let cart = format!("cart.{name}");
        producer.cart_of(name, "menu", name, &[("i1", 500, 2)]).await;
        let begun = producer.initiate(name, name).await;
        assert_eq!(begun["amount"], 1000, "{name}");
        let mut said = brigade_tests::paying::result("captured", "g", charged);
        said["currency"] = json!(currency);
        let data = producer.done(&format!("payment.{name}.record_result"), said).await;
        assert_eq!(producer.paid_and_due(&cart).await, (json!(paid), json!(1000 - paid)), "{name}");
        let told = data["refund_tasks"].as_array().unwrap();
        let told: Vec<_> = told.iter().map(|task| task["amount"].as_i64().unwrap()).collect();
        assert_eq!(told, owed_back.map(|(amount, _)| amount).into_iter().collect::<Vec<_>>());
        let tasks: Vec<(i64, String, String, String)> = sqlx::query_as(
            "select amount, reason, currency::text, status from brigade.refund_tasks
             where payment_id = $1",
        )
        .bind(name)
        .fetch_all(&fleet.sql)
        .await
        .unwrap();
        let open = |(amount, reason): (i64, &str)| {
            (amount, reason.to_owned(), currency.to_owned(), "open".to_owned())
        };
        assert_eq!(tasks, owed_back.map(open).into_iter().collect::<Vec<_>>(), "{name}");
        let status = if paid > 0 { "captured" } else { "late_captured" };
        assert_eq!(producer.payment_status(name).await, status, "{name}");
    }
    assert_eq!(held_locks(&fleet).await, vec![]);
    // What was charged too little stays due, and is paid by another.
    assert_eq!(producer.initiate("rest", "less").await["amount"], 600);
    assert_eq!(producer.result("rest", "captured", "g", 600).await.status, 200);
    assert_eq!(producer.paid_and_due("cart.less").await, (json!(1000), json!(0)));
    fleet.finish().await;
}

#[tokio::test]
async fn s2_07_a_definite_result_unlocks_and_an_ambiguous_one_does_not() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let cases = [
        (&["captured"][..], "captured"),
        (&["failed"], "failed"),
        (&["unknown", "captured"], "captured"),
        (&["unknown", "unknown", "failed"], "failed"),
    ];
    for (n, (results, last)) in cases.into_iter().enumerate() {
        let (cart, owner, payment) = (format!("c{n}"), format!("u{n}"), format!("p{n}"));
        producer.cart_of(&cart, "menu", &owner, &[("i1", 1000, 1)]).await;
        let token = producer.initiate(&payment, &cart).await["token"].clone();
        let lock = vec![(owner.clone(), token.as_i64().unwrap())];
        let unlock = json!({ "token": token, "reason": "r" });
        for result in results {
            assert_eq!(held_locks(&fleet).await, lock, "{results:?} before {result}");
            let open = producer.refused(&format!("cart.{cart}.unlock"), unlock.clone()).await;
            assert_eq!(open, (409, "payment_open".to_owned()), "{results:?}");
            assert_eq!(producer.result(&payment, result, "g", 1000).await.status, 200);
            if *result == "unknown" {
                assert_eq!(producer.payment_status(&payment).await, "unknown");
                let cancel = json!({ "reason": "r" });
                let refused = producer.refused(&format!("payment.{payment}.cancel"), cancel).await;
                assert_eq!(refused, (409, "result_unknown".to_owned()));
                let change = format!("cart.{cart}.remove_item");
                let refused = producer.refused(&change, json!({ "item_id": "i1" })).await;
                assert_eq!(refused, (423, "cart_locked".to_owned()));
            }
        }
        assert_eq!(held_locks(&fleet).await, vec![], "{results:?}");
        assert_eq!(producer.payment_status(&payment).await, last);
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s2_07_an_ambiguous_result_keeps_the_lock_until_the_cap_at_most() {
    // Nobody but the commands here meets the deadline.
    let fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let system = Producer::new(fleet.connect("cart-lock-expiry").await, "t1");
    let token = producer.initiate("p1", "c1").await["token"].clone();
    assert_eq!(producer.result("p1", "unknown", "g", 1000).await.status, 200);
    let locked = (423, "cart_locked".to_owned());
    for (minutes, code) in [(11, "ok"), (9, "ok"), (9, "not_due")] {
        age_lock(&fleet, "ada", minutes).await;
        let expire = system.send("cart.c1.expire_lock", json!({ "token": token })).await;
        assert_eq!(expire.code(), code, "{}", expire.body());
        assert_eq!(producer.refused("cart.c1.add_item", item("i2", 1, 1)).await, locked);
    }
    age_lock(&fleet, "ada", 2).await;
    producer.done("cart.c1.add_item", item("i2", 1, 1)).await;
    let told: Vec<_> = lock_history(&fleet, "ada").await.into_iter().map(|e| (e.0, e.2)).collect();
    let entry = |action: &str, reason: Option<&str>| (action.to_owned(), reason.map(str::to_owned));
    let extended = entry("extended", Some("payment_open"));
    assert_eq!(told[..2], [entry("acquired", None), extended.clone()]);
    assert_eq!(told.last(), Some(&entry("expired", Some("expired"))));
    assert!(told[2..told.len() - 1].iter().all(|entry| *entry == extended), "{told:?}");
    fleet.finish().await;
}

#[tokio::test]
async fn s2_10_a_success_after_the_expiry_is_completed_or_owed_back() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for owner in ["same", "other", "undone"] {
        producer.cart_of(owner, "menu", owner, &[("i1", 1000, 1)]).await;
        producer.initiate(owner, owner).await;
        age_lock(&fleet, owner, 31).await;
    }
    let set = |quantity: i64| json!({ "item_id": "i1", "quantity": quantity });
    producer.done("cart.other.set_item", set(2)).await;
    producer.done("cart.undone.set_item", set(2)).await;
    producer.done("cart.undone.set_item", set(1)).await;
    for (owner, status, paid) in
        [("same", "captured", 1000), ("other", "late_captured", 0), ("undone", "captured", 1000)]
    {
        assert_eq!(producer.result(owner, "captured", "g", 1000).await.status, 200);
        assert_eq!(producer.payment_status(owner).await, status, "{owner}");
        let (found, _) = producer.paid_and_due(&format!("cart.{owner}")).await;
        assert_eq!(found, paid, "{owner}");
    }
    assert_eq!(refund_tasks(&fleet).await, [(1000, "late_capture".to_owned())]);
    assert_eq!(held_locks(&fleet).await, vec![]);
    // Who pays what is there now, pays it under a lock of its own.
    assert_eq!(producer.initiate("again", "other").await["amount"], 2000);
    assert_eq!(producer.result("again", "captured", "g", 2000).await.status, 200);
    assert_eq!(producer.paid_and_due("cart.other").await, (json!(2000), json!(0)));
    fleet.finish().await;
}

#[tokio::test]
async fn s2_10_a_success_after_the_cart_has_ended_is_never_dropped() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for owner in ["order", "gone", "off"] {
        producer.cart_of(owner, "menu", owner, &[("i1", 1000, 1)]).await;
    }
    // Checked out by the lock's holder while the payment is open: the money goes to the order.
    let token = producer.initiate("order", "order").await["token"].clone();
    producer.done("cart.order.check_out", json!({ "order_id": "o1", "token": token })).await;
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(0), json!(1000)));
    let done = producer.result("order", "captured", "g", 1000).await.body();
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(1000), json!(0)));
    assert!(done["effects"].as_array().unwrap().iter().any(|e| e == "order.o1@3"), "{done}");
    // Given up, and abandoned: it is owed back.
    producer.initiate("gone", "gone").await;
    producer.done("payment.gone.cancel", json!({ "reason": "r" })).await;
    producer.done("cart.gone.abandon", json!({ "reason": "r" })).await;
    assert_eq!(producer.result("gone", "captured", "g", 1000).await.status, 200);
    // Failed, then captured after all, though the cart is as it was.
    producer.initiate("off", "off").await;
    assert_eq!(producer.result("off", "failed", "g", 1000).await.status, 200);
    assert_eq!(producer.result("off", "captured", "g", 1000).await.status, 200);
    for payment in ["gone", "off"] {
        assert_eq!(producer.payment_status(payment).await, "late_captured");
    }
    let late = (1000, "late_capture".to_owned());
    assert_eq!(refund_tasks(&fleet).await, [late.clone(), late]);
    fleet.finish().await;
}
