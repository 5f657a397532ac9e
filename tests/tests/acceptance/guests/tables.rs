//! A customer names a table only with the turn that is open there.

use serde_json::{Value, json};

use super::{done, fleet_with, is, open, wanted};

async fn seat(producer: &brigade_tests::Producer, table: &str, turn: &str) {
    let open = json!({"turn_id": turn});
    producer.done(&format!("table.{table}.open_turn"), open).await;
}

#[tokio::test]
async fn s7_02_a_table_is_named_with_the_turn_that_is_open_at_it() {
    let (fleet, producer, [ada, eve]) = fleet_with(["ada", "eve"]).await;
    for table in ["tb1", "tb2"] {
        producer.done(&format!("table.{table}.register"), json!({"label": "1", "seats": 4})).await;
    }
    seat(&producer, "tb1", "turn-before").await;
    let gone = json!({"turn_id": "turn-before"});
    producer.done("table.tb1.close_turn", gone).await;
    seat(&producer, "tb1", "turn-now").await;
    seat(&producer, "tb2", "turn-there").await;
    for (who, name, cart) in [(&ada, "ada", "c1"), (&eve, "eve", "c2")] {
        done(who, &format!("cart/{cart}/open"), open("menu", name)).await;
        done(who, &format!("cart/{cart}/add_item"), wanted("i1", "soup", 1)).await;
    }

    // Eve sits nowhere: no order of hers is put on a party's bill, and none empties its table.
    for (turn, status, code) in [
        (Value::Null, 403, "turn_required"),
        (json!("turn-before"), 409, "turn_closed"),
        (json!("turn-there"), 404, "turn_not_found"),
        (json!("guess"), 404, "turn_not_found"),
    ] {
        let there = json!({"order_id": "o-eve", "table_id": "tb1", "turn_id": turn});
        is(&eve.post("cart/c2/check_out", &there).await, status, code);
        let mut pay = there.clone();
        pay["target"] = json!({"cart": "c2"});
        pay["method"] = json!("card");
        is(&eve.post("payment/p2/initiate", &pay).await, status, code);
    }
    let table = producer.view("table.tb1", None).await.body();
    assert_eq!(table["core"]["open_turn"]["id"], "turn-now");

    // Ada was told her turn; by that alone her table is known as well.
    let out =
        done(&ada, "cart/c1/check_out", json!({"order_id": "o1", "turn_id": "turn-now"})).await;
    assert_eq!(out["core"]["order_id"], "o1");
    let order = ada.get("order/o1", &[]).await.body();
    assert_eq!(
        (&order["core"]["table_id"], &order["core"]["turn_id"]),
        (&json!("tb1"), &json!("turn-now"))
    );
    // Without a table an order is nobody's party's.
    done(&eve, "cart/c2/check_out", json!({"order_id": "o2"})).await;
    assert_eq!(eve.get("order/o2", &[]).await.body()["core"]["table_id"], Value::Null);
    // Staff and programs name the table alone.
    producer.cart_of("c3", "menu", "zoe", &[("i1", 700, 1)]).await;
    producer.done("cart.c3.check_out", json!({"order_id": "o3", "table_id": "tb2"})).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_a_payment_for_a_turn_that_is_over_makes_no_order_at_the_next_partys_table() {
    let (fleet, producer, [ada]) = fleet_with(["ada"]).await;
    producer.done("table.tb1.register", json!({"label": "1", "seats": 4})).await;
    seat(&producer, "tb1", "turn-1").await;
    done(&ada, "cart/c1/open", open("menu", "ada")).await;
    done(&ada, "cart/c1/add_item", wanted("i1", "soup", 1)).await;
    let pay = json!({"target": {"cart": "c1"}, "method": "card", "order_id": "o1",
                     "table_id": "tb1", "turn_id": "turn-1"});
    done(&ada, "payment/p1/initiate", pay).await;
    producer.done("table.tb1.close_turn", json!({"turn_id": "turn-1"})).await;
    seat(&producer, "tb1", "turn-2").await;
    let captured = producer.result("p1", "captured", "g1", 500).await.body();
    assert_eq!(
        (&captured["status"], &captured["data"]["check_out"]),
        (&json!(200), &json!("turn_closed"))
    );
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(500), json!(0)));
    let there = json!({"order_id": "o1", "table_id": "tb1", "turn_id": "turn-2"});
    done(&ada, "cart/c1/check_out", there).await;
    assert_eq!(producer.view("order.o1", None).await.body()["core"]["turn_id"], "turn-2");
    fleet.finish().await;
}
