//! S2: the cart is locked while it is paid, and money is exact. (Here the commands; what kills and
//! races do stands in `paying_under_faults`.)

use brigade_tests::{Town, producer::item};
use serde_json::{Value, json};

/// A cart with one item of 10.00, owned by ada.
pub async fn cart(producer: &brigade_tests::Producer, id: &str) {
    let open = json!({"kind": "menu", "owner": "ada", "session": null, "currency": "EUR"});
    assert_eq!(producer.send(&format!("cart.{id}.open"), open).await.status, 201);
    let added = producer.send(&format!("cart.{id}.add_item"), item("i1", 1000, 1)).await;
    assert_eq!(added.status, 200, "{:?}", added.body());
}

pub fn result(kind: &str, transaction: &str, amount: i64) -> Value {
    json!({"result": kind, "transaction_id": transaction, "amount": amount, "currency": "EUR",
           "occurred_at": "2026-01-02T03:04:05Z"})
}

#[tokio::test]
async fn s2_15_the_normal_flow() {
    let town = Town::start().await;
    let producer = town.producer().await;
    cart(&producer, "c1").await;
    let initiated = producer
        .send("payment.p1.initiate", json!({"target": {"cart": "c1"}, "method": "card"}))
        .await;
    assert_eq!(initiated.status, 201, "{:?}", initiated.body());
    let data = &initiated.body()["data"];
    assert_eq!(data["amount"], 1000);
    assert_eq!(data["core"]["status"], "initiated");
    let locked = producer.send("cart.c1.add_item", item("i2", 100, 1)).await;
    assert_eq!((locked.status, locked.code().as_str()), (423, "cart_locked"));
    let captured = producer.send("payment.p1.record_result", result("captured", "tx1", 1000)).await;
    assert_eq!(captured.status, 200, "{:?}", captured.body());
    let view = producer.view("cart.c1", None).await;
    assert_eq!((&view.body()["payments"]["paid"], &view.body()["due"]), (&json!(1000), &json!(0)));
    let payment = producer.view("payment.p1", None).await.body();
    assert_eq!(payment["core"]["status"], "captured");
    let out = producer.send("cart.c1.check_out", json!({"order_id": "o1"})).await;
    assert_eq!(out.status, 200, "{:?}", out.body());
    let order = producer.view("order.o1", None).await.body();
    assert_eq!((&order["core"]["total"], &order["payments"]["paid"]), (&json!(1000), &json!(1000)));
    town.finish().await;
}
