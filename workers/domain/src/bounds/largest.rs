//! The largest event of every kind: every bound is filled up, with the widest text there is.

use std::collections::HashMap;

use brigade_contracts::{MAX_AMOUNT, event, table};

use super::*;
use crate::Table;

/// Fills a cart until nothing can be put in any more.
fn full_cart(fixture: &mut Fixture, cart: &str, owner: &str, session: Option<&str>, member: &str) {
    fixture.done([open(cart, "team", owner, session)]);
    let verb = |verb: &str, payload| step(&format!("cart.{cart}.{verb}"), payload);
    for n in 0..150 {
        fixture.done([verb("join", json!({ "user": long("b", n) }))]);
    }
    fixture.done([verb("join", json!({ "user": member }))]);
    fill(fixture, cart, Some(member));
    for n in 0..150 {
        fixture.done([verb("commit_cod", json!({ "user": long("b", n) }))]);
    }
}

/// Puts items into what is left of the room, the longest first.
fn fill(fixture: &mut Fixture, cart: &str, member: Option<&str>) {
    for (at, characters) in [200, 20, 0].into_iter().enumerate() {
        for n in 0..200 {
            let payload = json!({
                "item_id": long("i", 1000 * at + n), "sku": wide(characters),
                "name": wide(characters), "unit_price": 5_000_000_000_i64, "quantity": 999,
                "user": member.filter(|_| characters == 0),
            });
            match fixture.code(&step(&format!("cart.{cart}.add_item"), payload)) {
                (200, _) => {}
                refusal => {
                    assert_eq!(refusal, refused(422, "too_large"));
                    break;
                }
            }
        }
    }
}

/// As many payments as there may be, of long names, from the n-th on.
fn payments(fixture: &mut Fixture, target: &Value, from: usize, amount: i64) -> Vec<String> {
    let names: Vec<_> = (from..from + MAX_PAYMENTS).map(|n| long("p", n)).collect();
    for name in &names {
        let user = json!({ "user": long("b", 1), "transaction_id": long("g", 1) });
        fixture.done([testing::with(pay(name, target, amount), user)]);
    }
    names
}

fn carts(fixture: &mut Fixture) {
    let (owner, reason) = (long("a", 0), json!({ "reason": wide(500) }));
    let verb = |n: usize, verb: &str| format!("cart.{}.{verb}", long("c", n));
    let held = |fixture: &mut Fixture, n: usize| {
        let lock = json!({ "transaction_id": long("g", 1), "method": "wallet" });
        let outcome = fixture.send(&verb(n, "lock"), &lock);
        let data: Value = serde_json::from_str(outcome.data.get()).unwrap();
        data["token"].clone()
    };

    // One that is paid and becomes an order, with an owner of its own.
    full_cart(fixture, &long("c", 0), &owner, Some(&long("s", 9)), &long("b", 200));
    let id = |n: usize, k: usize| json!({ "item_id": long("i", n), "quantity": k });
    fixture.done([(verb(0, "set_item"), id(0, 998)), (verb(0, "invite"), json!({}))]);
    let token = held(fixture, 0);
    let bind = json!({ "token": token, "transaction_id": long("g", 2) });
    fixture.done([
        (verb(0, "bind_transaction"), bind),
        (verb(0, "extend"), json!({ "token": token, "seconds": 1 })),
        (verb(0, "unlock"), json!({ "token": token, "reason": wide(500) })),
    ]);
    held(fixture, 0);
    fixture.wait(11 * 60_000);
    fixture.done([(verb(0, "remove_item"), json!({ "item_id": long("i", 0) }))]);
    let target = json!({ "cart": long("c", 0) });
    let names = payments(fixture, &target, 0, 1_000_000_000_000);
    for name in &names {
        fixture.done([result(name, "captured", &long("g", 3), 9_000_000_000_001)]);
    }
    let order = json!({ "order_id": long("o", 0) });
    fixture.done([(verb(0, "check_out"), order)]);

    // One of a session that is claimed by a user of a longer name, loses a member and is given up.
    let (cart, session) = (long("c", 1), long("s", 1));
    full_cart(fixture, &cart, &session, Some(&session), &long("b", 200));
    let target = json!({ "cart": cart });
    for name in payments(fixture, &target, 60, 1_000_000_000_000) {
        fixture.done([cancel(&name)]);
    }
    fixture.done([
        (verb(1, "claim"), json!({ "user": long("a", 1) })),
        (verb(1, "leave"), json!({ "user": long("b", 200) })),
        (verb(1, "abandon"), reason),
    ]);

    // One of items alone: what it becomes tells of all of them, and of its payments.
    fixture.done([open(&long("c", 2), "menu", &long("a", 2), None)]);
    fill(fixture, &long("c", 2), None);
    for name in payments(fixture, &json!({ "cart": long("c", 2) }), 180, 1_000_000_000_000) {
        fixture.done([cancel(&name)]);
    }
    fixture.done([(verb(2, "check_out"), json!({ "order_id": long("o", 5) }))]);
}

fn payments_and_orders(fixture: &mut Fixture) {
    let order = |n: usize, verb: &str| format!("order.{}.{verb}", long("o", n));
    let note = json!({ "sku": wide(200), "name": wide(200), "note": wide(500), "quantity": 999,
                       "item_id": null, "unit_price": 5_000_000_000_i64 });
    // What fits into a payload.
    let items = vec![note; 17];
    let at = json!({ "table_id": long("t", 0), "items": items, "currency": "EUR" });
    fixture.done([
        step(
            &format!("table.{}.register", long("t", 0)),
            json!({ "label": wide(200), "seats": 999 }),
        ),
        step(
            &format!("table.{}.open_turn", long("t", 0)),
            json!({ "turn_id": long("u", 0), "party_size": 999 }),
        ),
        (order(1, "place"), at.clone()),
        (order(2, "place"), at),
        (order(2, "cancel"), json!({ "reason": wide(500) })),
    ]);
    let target = json!({ "order": long("o", 1) });
    let names = payments(fixture, &target, 120, 1_000_000_000_000);
    let verb = |n: usize, verb: &str| format!("payment.{}.{verb}", names[n]);
    let gateway =
        |n: usize, kind: &str, amount: i64| result(&names[n], kind, &long("g", 1), amount);
    let bind = json!({ "transaction_id": long("g", 1) });
    fixture.done([
        (verb(0, "bind_transaction"), bind),
        gateway(0, "unknown", 0),
        gateway(0, "captured", 9_000_000_000_001),
        (verb(0, "refund"), json!({ "amount": 5_000_000_000_i64, "reason": wide(500) })),
        gateway(1, "failed", 0),
        (verb(2, "cancel"), json!({ "reason": wide(500) })),
        gateway(2, "captured", 9_000_000_000_001),
        (
            verb(2, "settle"),
            json!({ "settlement": { "refund_task": format!("{}.1", names[2]) },
                    "reason": wide(500) }),
        ),
    ]);
    for name in &names[3..] {
        fixture.done([result(name, "captured", &long("g", 1), 1_000_000_000_000)]);
    }
    fixture.done([
        testing::with(
            initiate(&long("p", 290), &target),
            json!({ "method": "cash", "order_id": long("o", 9), "table_id": long("t", 0),
                    "turn_id": long("u", 0) }),
        ),
        step(
            &format!("payment.{}.confirm_cash", long("p", 290)),
            json!({ "amount": MAX_AMOUNT, "currency": "EUR" }),
        ),
    ]);
    for to in ["accept", "prepare", "ready", "serve", "complete"] {
        fixture.done([(order(1, to), json!({}))]);
    }
    let status = json!({ "status": "reserved", "reason": wide(500) });
    fixture.done([step(&format!("table.{}.set_status", long("t", 0)), status)]);
}

/// Evidence may be whatever fits into a payload. Numbers grow most when they are written anew.
fn reconciled(fixture: &mut Fixture) {
    let address = testing::address(Aggregate::Table, &long("t", 1));
    let register = json!({ "label": wide(200), "seats": 999 });
    fixture.done([step(&format!("table.{}.register", long("t", 1)), register)]);
    let table = fixture.batch.loaded.states[&address].table().expect("a table").clone();
    let damaged = Table { status: table::Status::Occupied, ..table };
    fixture.batch.loaded.states.insert(address, State::Table(damaged));
    let evidence = "1e15,".repeat(13_000) + "1";
    let payload =
        format!(r#"{{"expected_version":1,"finding":"ghost_no_turn","evidence":[{evidence}]}}"#);
    let target = format!("req.t1.table.{}.reconcile", long("t", 1));
    let headers = [("Command-Id", "k")].into_iter();
    let command = brigade_contracts::Command::decode(&target, headers, payload.as_bytes()).unwrap();
    let outcome = fixture.batch.decide(&command, fixture.now).unwrap();
    assert_eq!(outcome.status, 200, "{outcome:?}");
}

fn products(fixture: &mut Fixture) {
    let verb = |verb: &str| format!("product.{}.{verb}", long("d", 0));
    let set = json!({ "name": wide(200), "unit_price": MAX_AMOUNT, "currency": "EUR",
                      "category": wide(200), "available": false });
    fixture.done([(verb("set"), set), (verb("withdraw"), json!({}))]);
}

#[test]
fn the_largest_event_of_every_kind_is_below_256_kib() {
    let mut fixture = fixture([]);
    carts(&mut fixture);
    payments_and_orders(&mut fixture);
    reconciled(&mut fixture);
    products(&mut fixture);
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for event in fixture.batch.events() {
        let size = sizes.entry(format!("{}.{}", event.kind.aggregate, event.kind.name));
        let size = size.or_default();
        *size = weigh(event).max(*size);
    }
    for kind in event::ALL.iter().filter(|kind| kind.aggregate != Aggregate::User) {
        let name = format!("{}.{}", kind.aggregate, kind.name);
        let size = *sizes.get(&name).unwrap_or_else(|| panic!("there was no {name}"));
        assert!(size < 256 * 1024, "{name}: {size}");
    }
    // They are as large as they can be: contents and payments together.
    for (name, least) in
        [("cart.checked_out", 85_000), ("cart.abandoned", 70_000), ("order.placed", 70_000)]
    {
        assert!(sizes[name] > least, "{name}: {}", sizes[name]);
    }
}
