use brigade_contracts::{Aggregate, Body, Command, Money, Outcome, Part, Timestamp, event};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{BatchState, Cart, State, testing};

fn now() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

/// Decides a verb on the cart c1, as a message would ask for it.
fn send(batch: &mut BatchState, verb: &str, payload: &Value) -> Outcome {
    let subject = format!("req.t1.cart.c1.{verb}");
    let headers = [("Command-Id", "k")];
    let command = Command::decode(&subject, headers.into_iter(), payload.to_string().as_bytes());
    batch.decide(&command.unwrap(), now()).unwrap()
}

fn open(kind: &str) -> BatchState {
    let mut batch = testing::batch([]);
    let opened =
        send(&mut batch, "open", &json!({"kind": kind, "owner": "ada", "currency": "EUR"}));
    assert_eq!(opened.status, 201);
    batch
}

fn item(id: &str, price: i64, quantity: i64, user: Option<&str>) -> Value {
    json!({"item_id": id, "sku": "s", "name": "n", "unit_price": price, "quantity": quantity,
           "user": user})
}

fn the_cart(batch: &BatchState) -> &Cart {
    batch.changed().next().unwrap().cart().unwrap()
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let mut batch = open("team");
    send(&mut batch, "add_item", &item("i1", 100, 1, None));
    send(&mut batch, "commit_cod", &json!({"user": "ada"}));
    let before = the_cart(&batch).clone();
    for (verb, payload, status, code) in [
        ("open", json!({"kind": "team", "owner": "ada", "currency": "EUR"}), 409, "already_exists"),
        ("join", json!({"user": "ada"}), 409, "already_member"),
        ("add_item", item("i1", 1, 1, None), 409, "item_exists"),
        ("add_item", item("i2", 1, 1, Some("eve")), 422, "not_a_member"),
        ("add_item", item("i2", i64::MAX, 2, None), 422, "amount_overflow"),
        ("add_item", item("i2", i64::MAX, 1, None), 422, "amount_overflow"),
        ("commit_cod", json!({"user": "eve"}), 422, "not_a_member"),
        ("commit_cod", json!({"user": "ada"}), 409, "already_committed"),
        ("leave", json!({"user": "eve"}), 422, "not_a_member"),
        ("leave", json!({"user": "ada"}), 409, "owner_stays"),
        ("set_item", json!({"item_id": "i9", "quantity": 1}), 404, "item_not_found"),
        ("remove_item", json!({"item_id": "i9"}), 404, "item_not_found"),
    ] {
        let outcome = send(&mut batch, verb, &payload);
        assert_eq!((outcome.status, &*outcome.code), (status, code), "{verb} {payload}");
        assert_eq!((outcome.version, outcome.etag), (Some(3), None));
        assert_eq!(the_cart(&batch), &before, "{verb} {payload}");
    }
    let mut nothing = testing::batch([]);
    assert_eq!(send(&mut nothing, "join", &json!({"user": "bob"})).status, 404);
    assert_eq!(send(&mut open("menu"), "join", &json!({"user": "bob"})).code, "not_a_team_cart");
}

#[test]
fn a_cart_holds_200_items_and_not_one_more() {
    let mut batch = open("menu");
    for n in 0..200 {
        assert_eq!(send(&mut batch, "add_item", &item(&format!("i{n}"), 1, 1, None)).status, 200);
    }
    assert_eq!(send(&mut batch, "add_item", &item("more", 1, 1, None)).code, "too_large");
}

#[test]
fn items_of_a_cart_with_money_paid_stay_as_they_are() {
    let mut cart = the_cart(&open("menu")).clone();
    cart.paid = Money::new(1).unwrap();
    let mut batch = testing::batch([State::Cart(cart)]);
    for (verb, payload) in [
        ("add_item", item("i1", 1, 1, None)),
        ("set_item", json!({"item_id": "i1", "quantity": 1})),
        ("remove_item", json!({"item_id": "i1"})),
        ("abandon", json!({"reason": "r"})),
    ] {
        assert_eq!(send(&mut batch, verb, &payload).code, "cart_paid", "{verb}");
    }
}

#[test]
fn a_closed_cart_takes_nothing() {
    let mut cart = the_cart(&open("team")).clone();
    cart.status = Status::Abandoned;
    let mut batch = testing::batch([State::Cart(cart)]);
    for (verb, payload) in [
        ("join", json!({"user": "bob"})),
        ("add_item", item("i1", 1, 1, None)),
        ("commit_cod", json!({"user": "ada"})),
    ] {
        assert_eq!(send(&mut batch, verb, &payload).code, "cart_closed");
    }
}

#[test]
fn a_member_who_has_committed_stays_and_one_who_leaves_takes_its_items() {
    let mut batch = open("team");
    for user in ["bob", "cid"] {
        send(&mut batch, "join", &json!({"user": user}));
    }
    send(&mut batch, "add_item", &item("i1", 100, 1, Some("bob")));
    send(&mut batch, "add_item", &item("i2", 100, 1, Some("cid")));
    send(&mut batch, "commit_cod", &json!({"user": "bob"}));
    assert_eq!(send(&mut batch, "leave", &json!({"user": "bob"})).code, "already_committed");
    assert_eq!(send(&mut batch, "leave", &json!({"user": "cid"})).status, 200);
    let cart = the_cart(&batch);
    assert_eq!((cart.members.len(), cart.items.len()), (2, 1));
    assert_eq!(send(&mut batch, "abandon", &json!({"reason": "r"})).status, 200);
    let last = batch.events().last().unwrap();
    assert!(last.payload.after.ended && last.payload.after.core.is_some());
    assert_eq!(send(&mut batch, "join", &json!({"user": "cid"})).code, "cart_closed");
}

fn any_command() -> impl Strategy<Value = (String, Value)> {
    let user = prop::sample::select(vec!["ada", "bob", "cid", "eve"]);
    prop_oneof![
        1 => user.clone().prop_map(|u| ("join".into(), json!({"user": u}))),
        1 => user.clone().prop_map(|u| ("commit_cod".into(), json!({"user": u}))),
        1 => user.clone().prop_map(|u| ("leave".into(), json!({"user": u}))),
        1 => (0..30, 1..1000_i64).prop_map(|(n, quantity)| {
            ("set_item".into(), json!({"item_id": format!("i{n}"), "quantity": quantity}))
        }),
        1 => (0..30).prop_map(|n| ("remove_item".into(), json!({"item_id": format!("i{n}")}))),
        3 => (0..30, 0..10_000_i64, 1..1000_i64, prop::option::of(user))
            .prop_map(|(n, price, quantity, user)| {
                ("add_item".into(), item(&format!("i{n}"), price, quantity, user))
            }),
    ]
}

proptest! {
    /// Whatever comes: each done command is one version and one event, each refused one changes
    /// nothing, shares sum to the total, and parts carry the version of their last change.
    #[test]
    fn any_sequence_keeps_versions_and_sums(commands in prop::collection::vec(any_command(), 0..60)) {
        let mut batch = open("team");
        let (mut core, mut payments) = (1, 1);
        for (verb, payload) in commands {
            let before = the_cart(&batch).clone();
            let outcome = send(&mut batch, &verb, &payload);
            let cart = the_cart(&batch);
            if outcome.status == 200 {
                prop_assert_eq!(cart.head.version, before.head.version + 1);
                let event = batch.events().last().unwrap();
                prop_assert_eq!(event.version, cart.head.version);
                if event.kind.touches.contains(&Part::Core) { core = event.version; }
                if event.kind.touches.contains(&Part::Payments) { payments = event.version; }
            } else {
                prop_assert_eq!(cart, &before);
            }
            prop_assert_eq!(batch.events().len() as u64, cart.head.version);
            let part = |part| serde_json::from_str::<Value>(cart.part(part).get()).unwrap();
            prop_assert_eq!(&part(Part::Core)["version"], core);
            prop_assert_eq!(&part(Part::Payments)["version"], payments);
            let shares: i64 = cart.shares().iter().map(|s| s.share.minor_units()).sum();
            prop_assert_eq!(shares, cart.total().unwrap().minor_units());
        }
    }

    /// The order of joining settles ties: no later member pays more of the common part.
    #[test]
    fn common_items_are_split_evenly(price in 0..1_000_000_i64, joined in 0..7_usize) {
        let mut batch = open("team");
        for n in 0..joined {
            send(&mut batch, "join", &json!({"user": format!("u{n}")}));
        }
        send(&mut batch, "add_item", &item("i", price, 1, None));
        let cart = the_cart(&batch);
        let shares: Vec<_> = cart.shares().iter().map(|s| s.share.minor_units()).collect();
        prop_assert_eq!(shares.iter().sum::<i64>(), price);
        prop_assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]));
        prop_assert!(shares[0] - shares[joined] <= 1);
    }
}

#[test]
fn every_event_that_is_decided_is_a_known_kind() {
    let mut batch = open("team");
    send(&mut batch, "join", &json!({"user": "bob"}));
    send(&mut batch, "add_item", &item("i1", 100, 1, None));
    send(&mut batch, "commit_cod", &json!({"user": "bob"}));
    for event in batch.events() {
        assert!(event::ALL.contains(&event.kind), "{:?}", event.kind);
        let carries = event.payload.after.payments.is_some();
        assert_eq!(carries, event.kind.touches.contains(&Part::Payments));
    }
    assert_eq!(Body::decode(Aggregate::Cart, "fly", b"{}").unwrap_err().code, "unknown_verb");
}

/// Computed by python3's hashlib over json.dumps with sorted keys, no spaces and no escapes beyond
/// those that JSON requires.
#[test]
fn the_fingerprint_is_over_canonical_json_whatever_the_order_of_items() {
    let mut batch = testing::batch([]);
    send(&mut batch, "open", &json!({"kind": "menu", "owner": "ada", "currency": "JPY"}));
    for (id, sku, price, quantity) in
        [("b", "Ö \"1\"", 5, 2), ("B", "s", 0, 999), ("a-1", "/", 1000, 1)]
    {
        let payload = json!({"item_id": id, "sku": sku, "name": id, "unit_price": price, "quantity": quantity});
        assert_eq!(send(&mut batch, "add_item", &payload).status, 200);
    }
    let expected = "f0b34c05b0f5e3c65e861880e839eae02ec83020c56bb1499e2d32319169893f";
    assert_eq!(the_cart(&batch).fingerprint(), expected);
}
