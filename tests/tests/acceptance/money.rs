//! S2: payments of orders and of shares, the check-out with the capture, and refunds.

use brigade_tests::{
    TestFleet,
    paying::held_locks,
    producer::{item, placed},
};
use serde_json::{Value, json};

#[tokio::test]
async fn an_order_is_paid_in_parts_without_any_lock() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.done("order.o1.place", placed(&[("Soup", 500, 2)])).await;
    let begin = |more: Value| {
        let mut payload = json!({ "target": { "order": "o1" }, "method": "card" });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let part = producer.done("payment.p1.initiate", begin(json!({ "amount": 300 }))).await;
    assert_eq!(part["core"]["amount"], 300);
    let refused = producer.refused("payment.p2.initiate", begin(json!({ "amount": 701 }))).await;
    assert_eq!(refused, (409, "amount_too_high".to_owned()));
    let rest = begin(json!({ "method": "cash" }));
    assert_eq!(producer.done("payment.p2.initiate", rest).await["core"]["amount"], 700);
    let refused = producer.refused("payment.p3.initiate", begin(json!({}))).await;
    assert_eq!(refused, (409, "nothing_due".to_owned()));
    let cancel = json!({ "reason": "r" });
    let refused = producer.refused("order.o1.cancel", cancel.clone()).await;
    assert_eq!(refused, (409, "payment_open".to_owned()));
    assert_eq!(producer.result("p1", "captured", "g1", 300).await.status, 200);
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(300), json!(700)));
    let order = producer.view("order.o1", None).await.body();
    assert_eq!(order["payments"]["paid_at"], Value::Null);
    let cash = json!({ "amount": 700, "currency": "EUR" });
    let refused = producer.refused("payment.p1.confirm_cash", cash.clone()).await;
    assert_eq!(refused, (409, "not_cash".to_owned()));
    let reply = producer.send("payment.p2.confirm_cash", cash).await.body();
    assert_eq!(reply["effects"], json!(["payment.p2@2", "order.o1@6"]), "paid is one more version");
    let order = producer.view("order.o1", None).await.body();
    assert!(order["payments"]["paid_at"].is_string(), "{order}");
    let refused = producer.refused("order.o1.cancel", cancel).await;
    assert_eq!(refused, (409, "order_paid".to_owned()));
    assert_eq!(held_locks(&fleet).await, vec![]);
    fleet.finish().await;
}

#[tokio::test]
async fn a_team_pays_its_shares_under_one_lock() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob", "cid"]).await;
    producer.done("cart.c1.add_item", item("shared", 1000, 1)).await;
    let mut own = item("own", 500, 1);
    own["user"] = json!("bob");
    let members = producer.done("cart.c1.add_item", own).await["core"]["members"].take();
    let shares: Vec<_> =
        members.as_array().unwrap().iter().map(|m| m["share"].as_i64().unwrap()).collect();
    assert_eq!(shares, [334, 833, 333], "by largest remainder, in order of joining");
    let mut token = Value::Null;
    for (user, share) in ["ada", "bob", "cid"].into_iter().zip(&shares) {
        let payload = json!({ "target": { "cart": "c1" }, "method": "card", "user": user,
                              "amount": share, "order_id": "o1" });
        let begun = producer.done(&format!("payment.{user}.initiate"), payload).await;
        assert!(token.is_null() || token == begun["token"], "{user} joins the lock");
        assert_eq!(begun["amount"], *share);
        token = begun["token"].clone();
    }
    for (user, share) in ["bob", "ada"].into_iter().zip([833, 334]) {
        assert_eq!(producer.result(user, "captured", user, share).await.status, 200);
        assert_eq!(held_locks(&fleet).await.len(), 1, "another payment is open on it");
        let view = producer.view("cart.c1", None).await.body();
        let members = view["payments"]["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["user"] == user).unwrap();
        assert_eq!(member["paid"], share, "{user}");
    }
    // The last one pays the cart fully, and so checks it out.
    let last = producer.result("cid", "captured", "cid", 333).await.body();
    assert_eq!(last["data"]["check_out"], "ok");
    assert_eq!(held_locks(&fleet).await, vec![]);
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(1500), json!(0)));
    let order = producer.view("order.o1", None).await.body();
    assert_eq!(order["payments"]["payments"].as_array().unwrap().len(), 3);
    fleet.finish().await;
}

#[tokio::test]
async fn the_capture_that_pays_a_cart_checks_it_out_in_the_same_transaction() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.done("order.taken.place", placed(&[("Soup", 500, 1)])).await;
    let begin = |cart: &str, more: Value| {
        let mut payload = json!({ "target": { "cart": cart }, "method": "wallet" });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    for (cart, more, code) in [
        ("c1", json!({ "order_id": "o1" }), "ok"),
        ("c2", json!({ "order_id": "taken" }), "order_exists"),
        ("c3", json!({ "order_id": "o3", "table_id": "nowhere" }), "table_not_found"),
    ] {
        producer.cart_of(cart, "menu", cart, &[("i1", 1000, 1)]).await;
        producer.done(&format!("payment.{cart}.initiate"), begin(cart, more)).await;
        let captured = producer.result(cart, "captured", "g", 1000).await.body();
        assert_eq!(captured["status"], 200, "{captured}");
        assert_eq!(captured["data"]["check_out"], code);
        assert_eq!(captured["data"]["core"]["status"], "captured");
        let changed: Vec<_> = captured["effects"].as_array().unwrap().iter().collect();
        let changed = changed.iter().map(|e| e.as_str().unwrap().split('@').next().unwrap());
        let mut expected = vec![format!("cart.{cart}"), format!("payment.{cart}")];
        if code == "ok" {
            expected.push("order.o1".to_owned());
        }
        expected.push(format!("lock.{cart}"));
        assert_eq!(changed.collect::<Vec<_>>(), expected, "each aggregate, once");
        // All of it is one transaction: one time on all events of the command.
        let times: i64 = sqlx::query_scalar(
            "select count(distinct at) from brigade.events
             where command_id = (select command_id from brigade.events
                                 where aggregate = 'payment' and id = $1 and type = 'captured')",
        )
        .bind(cart)
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
        assert_eq!(times, 1);
    }
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(1000), json!(0)));
    assert_eq!(producer.view("cart.c1", None).await.body()["core"]["status"], "checked_out");
    // What could not be done is done later, with the money where it is.
    for cart in ["c2", "c3"] {
        assert_eq!(producer.paid_and_due(&format!("cart.{cart}")).await, (json!(1000), json!(0)));
        let out = json!({ "order_id": format!("later-{cart}") });
        producer.done(&format!("cart.{cart}.check_out"), out).await;
        let paid = producer.paid_and_due(&format!("order.later-{cart}")).await;
        assert_eq!(paid, (json!(1000), json!(0)));
    }
    let twice = producer.refused("cart.c1.check_out", json!({ "order_id": "o9" })).await;
    assert_eq!(twice, (409, "cart_closed".to_owned()));
    fleet.finish().await;
}

#[tokio::test]
async fn what_is_given_back_changes_nothing_that_was_paid() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.done("order.o1.place", placed(&[("Soup", 1000, 1)])).await;
    let begin = json!({ "target": { "order": "o1" }, "method": "qr" });
    producer.done("payment.p1.initiate", begin).await;
    let refund = |amount: Option<i64>| json!({ "amount": amount, "reason": "cold soup" });
    let refused = producer.refused("payment.p1.refund", refund(None)).await;
    assert_eq!(refused, (409, "not_captured".to_owned()));
    producer.result("p1", "captured", "g1", 1200).await;
    let paid_at = producer.view("order.o1", None).await.body()["payments"]["paid_at"].take();
    let back = producer.done("payment.p1.refund", refund(Some(200))).await;
    assert_eq!(back["refund_tasks"][0]["status"], "done", "the surplus is no longer owed");
    assert_eq!(
        (&back["core"]["status"], &back["core"]["refunded_amount"]),
        (&json!("captured"), &json!(200))
    );
    for (amount, code) in [(Some(1001), "amount_too_high"), (Some(0), "nothing_to_refund")] {
        let refused = producer.refused("payment.p1.refund", refund(amount)).await;
        assert_eq!(refused, (409, code.to_owned()));
    }
    let back = producer.done("payment.p1.refund", refund(None)).await;
    assert_eq!(back["core"]["status"], "refunded");
    let refused = producer.refused("payment.p1.refund", refund(None)).await;
    assert_eq!(refused, (409, "nothing_to_refund".to_owned()));
    let payments = producer.view("order.o1", None).await.body()["payments"].take();
    assert_eq!((&payments["paid"], &payments["refunded"]), (&json!(1000), &json!(1200)));
    assert_eq!(payments["paid_at"], paid_at);
    fleet.finish().await;
}
