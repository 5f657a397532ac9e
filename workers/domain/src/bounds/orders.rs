//! The bounds that keep orders from pushing others off a screen.

use brigade_contracts::{
    MAX_PENDING_ORDERS,
    list::{MAX_ROW_BYTES, MAX_ROW_CORE_BYTES},
    order::ActiveCore,
};

use super::*;

#[test]
fn a_customer_has_20_orders_that_wait_and_not_one_more() {
    let mut fixture = fixture([]);
    let order = |n: usize| {
        let (cart, order) = (format!("c{n}"), format!("o{n}"));
        let check_out = step(&format!("cart.{cart}.check_out"), json!({ "order_id": order }));
        (vec![open(&cart, "menu", "a1", None), add(&cart, "i1", 100)], check_out)
    };
    let by_customer = |fixture: &mut Fixture, (target, payload): &Step| {
        let command = testing::command(target, &[("Actor-Relation", "customer")], payload);
        let now = fixture.now;
        let outcome = fixture.batch.decide(&command, now).expect("nothing is missing");
        (outcome.status, outcome.code.into_owned())
    };
    let done = (200, "ok".to_owned());
    for n in 0..MAX_PENDING_ORDERS {
        let (before, check_out) = order(n);
        fixture.done(before);
        assert_eq!(by_customer(&mut fixture, &check_out), done, "{n}");
    }
    let (before, check_out) = order(100);
    fixture.done(before);
    assert_eq!(by_customer(&mut fixture, &check_out), refused(409, "too_many_orders"));
    // The restaurant, and who speaks for it, is not bound.
    let (before, by_staff) = order(101);
    fixture.done(before.into_iter().chain([by_staff]));
    assert_eq!(by_customer(&mut fixture, &check_out), refused(409, "too_many_orders"));
    // Two that are accepted, cancelled or paid make room for one, since 21 wait.
    fixture.done([step("order.o0.accept", json!({})), step("order.o1.accept", json!({}))]);
    assert_eq!(by_customer(&mut fixture, &check_out), done);
    let (before, check_out) = order(102);
    fixture.done(before);
    assert_eq!(by_customer(&mut fixture, &check_out), refused(409, "too_many_orders"));
    fixture.done([step("order.o2.cancel", json!({ "reason": "r" }))]);
    assert_eq!(by_customer(&mut fixture, &check_out), done);
    let (before, check_out) = order(103);
    fixture.done(before);
    assert_eq!(by_customer(&mut fixture, &check_out), refused(409, "too_many_orders"));
    let target = json!({ "order": "o3" });
    fixture.done([initiate("p1", &target), result("p1", "captured", "g1", 100)]);
    assert_eq!(by_customer(&mut fixture, &check_out), done);
    // What is paid needs no room, and neither does another owner.
    let (before, check_out) = order(104);
    fixture.done(before);
    fixture.done([initiate("p2", &json!({ "cart": "c104" })), result("p2", "captured", "g2", 100)]);
    assert_eq!(by_customer(&mut fixture, &check_out), done);
    fixture.done([open("c105", "menu", "a2", None), add("c105", "i1", 100)]);
    let check_out = step("cart.c105.check_out", json!({ "order_id": "o105" }));
    assert_eq!(by_customer(&mut fixture, &check_out), done);
}

/// A large order takes no more of a list than others, and says what is missing.
#[test]
fn the_row_of_an_order_has_8_kib_however_large_the_order_is() {
    let mut fixture = fixture([]);
    let item = |n: usize, name: &str, note: Option<String>| {
        json!({ "item_id": format!("i{n}"), "sku": "s", "name": name, "unit_price": 1,
                "quantity": 1, "note": note })
    };
    let widest = vec![item(0, &wide(200), Some(wide(500)))];
    let small: Vec<Value> = (0..200).map(|n| item(n, "Soup", None)).collect();
    let mixed = |n: usize| item(n, &wide(n % 200 + 1), n.is_multiple_of(3).then(|| wide(40)));
    let orders = [widest, small, (0..90).map(mixed).collect(), vec![item(1, "Soup", None)]];
    for (n, items) in orders.into_iter().enumerate() {
        fixture.done([place(&format!("o{n}"), json!({ "items": items }))]);
        let order = fixture.order(&format!("o{n}"));
        let (core, payment) = (order.active_core(), order.active_payment());
        let row = core.get().len() + payment.get().len() + r#","payment":,"due":"#.len() + 19;
        assert!(core.get().len() <= MAX_ROW_CORE_BYTES && row <= MAX_ROW_BYTES, "{row}");
        let core: ActiveCore = serde_json::from_str(core.get()).expect("a row");
        let shown = core.items.len();
        assert_eq!(core.items, order.items[..shown], "the first ones, as they are");
        assert_eq!(shown + usize::from(core.items_left_out), order.items.len());
        assert_eq!(core.total, order.total);
        assert!(shown > 0);
        if let Some(next) = order.items.get(shown) {
            let next = serde_json::to_string(next).expect("JSON").len();
            // The digits of the number may leave a few bytes.
            assert!(core_len(&core) + next + 8 > MAX_ROW_CORE_BYTES, "there was room for one more");
        } else {
            assert!(!order.active_core().get().contains("items_left_out"));
        }
    }
}

fn core_len(core: &ActiveCore) -> usize {
    serde_json::to_string(core).expect("JSON").len()
}
