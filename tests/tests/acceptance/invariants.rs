//! The checks of money and locks themselves: each finds its violation.

use brigade_tests::{TestFleet, money, paying::lock, producer::placed};
use serde_json::json;

/// Statements on a sound database, each with the invariants that it breaks.
const HARM: &[(&str, &[&str])] = &[
    (
        "update brigade.cart_lock_history set token = token + 50
         where owner = 'ada' and action = 'released'",
        &["I-7"],
    ),
    ("delete from brigade.cart_lock_history where owner = 'ada' and action = 'released'", &["I-7"]),
    ("update brigade.cart_locks set state = 'held' where owner = 'ada'", &["I-7"]),
    ("update brigade.cart_locks set state = 'released' where owner = 'bob'", &["I-7"]),
    ("update brigade.carts set locked_until = null where id = 'c2'", &["I-7"]),
    (
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), 't1', 'cart', 'c2', 99, 'item_changed', '{}', now(), 'x'",
        &["I-8"],
    ),
    (
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), 't1', 'cart', 'c3', 99, 'item_added', '{}', now(), 'x'",
        &["I-8"],
    ),
    (
        "update brigade.carts set items = jsonb_set(items, '{0,sku}', '\"x\"') where id = 'c1'",
        &["I-9"],
    ),
    ("delete from brigade.refund_tasks", &["I-9"]),
    ("update brigade.refund_tasks set amount = amount - 1", &["I-9"]),
    ("update brigade.payments set applied = applied - 1 where id = 'p1'", &["I-9", "I-10"]),
    ("update brigade.carts set paid = paid + 1 where id = 'c1'", &["I-10"]),
    ("update brigade.orders set paid = paid + 1 where id = 'o1'", &["I-10", "I-12"]),
    ("update brigade.orders set total = total + 1 where id = 'o2'", &["I-10"]),
    ("update brigade.payments set refunded_amount = -1 where id = 'p1'", &["I-10"]),
    ("update brigade.payments set refunded_amount = 9999 where id = 'p1'", &["I-10"]),
    (
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), 't1', 'payment', 'p1', 99, 'failed', '{}', now(), 'x'",
        &["I-11"],
    ),
    (
        "update brigade.payments set captures = captures || captures, applied = 2 * applied
         where id = 'p1'",
        &["I-11"],
    ),
    ("update brigade.orders set cart_id = 'c1' where id = 'o2'", &["I-12"]),
    ("update brigade.carts set status = 'checked_out' where id = 'c2'", &["I-12"]),
    ("update brigade.orders set paid_at = null where id = 'o1'", &["I-12"]),
    (
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), 't1', 'order', 'o1', 99, 'paid', '{}', now(), 'x'",
        &["I-12"],
    ),
];

#[tokio::test]
async fn each_invariant_of_money_and_locks_is_found_broken_where_it_is() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    // ada's cart is paid with a surplus and checked out, bob's is locked beside an open one.
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    assert_eq!(producer.result("p1", "captured", "g1", 1300).await.status, 200);
    producer.done("cart.c1.check_out", json!({ "order_id": "o1" })).await;
    producer.cart_of("c2", "menu", "bob", &[("i1", 500, 1)]).await;
    producer.cart_of("c3", "ticket", "bob", &[("i1", 500, 1)]).await;
    producer.done("cart.c2.lock", lock("qr")).await;
    producer.done("order.o2.place", placed(&[("Soup", 500, 1)])).await;
    for (harm, expected) in HARM {
        let mut transaction = fleet.sql.begin().await.unwrap();
        assert_eq!(money::broken(&mut transaction).await, Vec::<String>::new());
        let harmed = sqlx::query(*harm).execute(&mut *transaction).await.unwrap();
        assert!(harmed.rows_affected() > 0, "{harm}");
        let broken = money::broken(&mut transaction).await;
        for invariant in *expected {
            let found = broken.iter().any(|told| told.starts_with(invariant));
            assert!(found, "{harm} breaks {invariant}: {broken:?}");
        }
        transaction.rollback().await.unwrap();
    }
    fleet.finish().await;
}
