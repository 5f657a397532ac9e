use std::collections::BTreeMap;

use brigade_contracts::{Aggregate, Command, cart, product::Core};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    State,
    testing::{self, Case, Fixture, Step, check, open, step, with},
};

fn set(sku: &str, price: i64) -> Step {
    let payload = json!({ "name": format!("{sku} at {price}"), "unit_price": price,
                          "currency": "EUR" });
    step(&format!("product.{sku}.set"), payload)
}

fn withdraw(sku: &str) -> Step {
    step(&format!("product.{sku}.withdraw"), json!({}))
}

/// An item as a customer sends it: a sku and how many.
fn add(cart: &str, item: &str, sku: &str) -> Step {
    let payload = json!({ "item_id": item, "sku": sku, "quantity": 2 });
    step(&format!("cart.{cart}.add_item"), payload)
}

fn place(order: &str, item: Value) -> Step {
    let payload = json!({ "currency": "EUR", "items": [item] });
    step(&format!("order.{order}.place"), payload)
}

#[test]
fn a_product_is_set_changed_withdrawn_and_put_back() {
    let core = "/product.d1";
    let cases: Vec<Case> = vec![
        (
            "new",
            vec![],
            set("d1", 5),
            (201, "created"),
            vec![("/events", json!(["product.d1 set"])), ("/data/0/available", json!(true))],
        ),
        (
            "changed",
            vec![set("d1", 5)],
            set("d1", 6),
            (200, "ok"),
            vec![("/product.d1/unit_price", json!(6)), ("/product.d1/version", json!(2))],
        ),
        (
            "the same once more makes no event",
            vec![set("d1", 5)],
            set("d1", 5),
            (200, "ok"),
            vec![("/events", json!([])), ("/outcome/version", json!(1))],
        ),
        (
            "withdrawn",
            vec![set("d1", 5)],
            withdraw("d1"),
            (200, "ok"),
            vec![("/product.d1/listed", json!(false)), ("/product.d1/version", json!(2))],
        ),
        (
            "withdrawn twice",
            vec![set("d1", 5), withdraw("d1")],
            withdraw("d1"),
            (404, "not_found"),
            vec![],
        ),
        ("never there", vec![], withdraw("d1"), (404, "not_found"), vec![(core, Value::Null)]),
        (
            "put back as it was",
            vec![set("d1", 5), withdraw("d1")],
            set("d1", 5),
            (200, "ok"),
            vec![("/product.d1/listed", json!(true)), ("/product.d1/version", json!(3))],
        ),
    ];
    check(cases);
}

#[test]
fn what_is_left_out_comes_from_the_price_list() {
    let cart = || vec![set("d1", 5), open("c1", "menu", "ada", None)];
    let given = json!({ "name": "Special", "unit_price": 3 });
    let sold_out = with(set("d1", 5), json!({ "available": false }));
    let cases: Vec<Case> = vec![
        (
            "both",
            cart(),
            add("c1", "i1", "d1"),
            (200, "ok"),
            vec![
                ("/cart.c1/core/items/0/name", json!("d1 at 5")),
                ("/cart.c1/core/total", json!(10)),
                ("/data/0/unit_price", json!(5)),
            ],
        ),
        (
            "a price is given",
            cart(),
            with(add("c1", "i1", "d1"), json!({ "unit_price": 3 })),
            (200, "ok"),
            vec![
                ("/cart.c1/core/items/0/name", json!("d1 at 5")),
                ("/cart.c1/core/items/0/unit_price", json!(3)),
            ],
        ),
        (
            "all is given, and there is no such product",
            cart(),
            with(add("c1", "i1", "other place"), given.clone()),
            (200, "ok"),
            vec![("/cart.c1/core/items/0/name", json!("Special"))],
        ),
        ("unknown", cart(), add("c1", "i1", "d2"), (422, "unknown_product"), vec![]),
        ("no Token", cart(), add("c1", "i1", "a b"), (422, "unknown_product"), vec![]),
        (
            "withdrawn",
            [cart(), vec![withdraw("d1")]].concat(),
            add("c1", "i1", "d1"),
            (422, "unknown_product"),
            vec![],
        ),
        (
            "sold out",
            [cart(), vec![sold_out.clone()]].concat(),
            add("c1", "i1", "d1"),
            (409, "product_unavailable"),
            vec![],
        ),
        (
            "in another currency",
            [cart(), vec![with(set("d1", 5), json!({ "currency": "USD" }))]].concat(),
            add("c1", "i1", "d1"),
            (409, "other_currency"),
            vec![],
        ),
        (
            "a later price changes no cart",
            [cart(), vec![add("c1", "i1", "d1"), set("d1", 9)]].concat(),
            step("cart.c1.set_item", json!({ "item_id": "i1", "quantity": 3 })),
            (200, "ok"),
            vec![("/cart.c1/core/total", json!(15))],
        ),
        (
            "an order",
            vec![set("d1", 5)],
            place("o1", json!({ "sku": "d1", "quantity": 2 })),
            (201, "created"),
            vec![
                ("/order.o1/core/total", json!(10)),
                ("/order.o1/core/items/0/name", json!("d1 at 5")),
                ("/data/0/items/0/unit_price", json!(5)),
            ],
        ),
        (
            "an order of what is sold out",
            vec![sold_out],
            place("o1", json!({ "sku": "d1", "quantity": 2 })),
            (409, "product_unavailable"),
            vec![],
        ),
    ];
    check(cases);
}

/// What is in a cart keeps its price; what a customer puts in besides is sold as it is offered now.
#[test]
fn s7_01_a_customer_has_more_of_an_item_only_of_what_is_offered_at_its_price() {
    let sold_out = || with(set("d1", 5), json!({ "available": false }));
    let dollars = || with(set("d1", 5), json!({ "currency": "USD" }));
    let cases = [
        (None, 3, "ok", "ok"),
        (Some(set("d1", 9)), 3, "price_changed", "ok"),
        (Some(sold_out()), 3, "product_unavailable", "ok"),
        (Some(withdraw("d1")), 3, "unknown_product", "ok"),
        (Some(dollars()), 3, "other_currency", "ok"),
        (Some(set("d1", 9)), 1, "ok", "ok"),
        (Some(sold_out()), 2, "ok", "ok"),
        (Some(withdraw("d1")), 1, "ok", "ok"),
    ];
    let customer = [("Command-Id", "k"), ("Actor", "ada"), ("Actor-Relation", "participant")];
    for (change, quantity, of_customer, of_staff) in cases {
        for (headers, expected) in [(&customer[..], of_customer), (&customer[..1], of_staff)] {
            let steps = [set("d1", 5), open("c1", "menu", "ada", None), add("c1", "i1", "d1")];
            let mut fixture = Fixture::new(&steps);
            change.iter().for_each(|(target, payload)| {
                assert!(fixture.send(target, payload).status < 300, "{target}");
            });
            let payload = json!({ "item_id": "i1", "quantity": quantity });
            let (headers, payload) = (headers.iter().copied(), payload.to_string());
            let more = Command::decode("req.t1.cart.c1.set_item", headers, payload.as_bytes());
            let more = more.expect("a command");
            let outcome = fixture.batch.decide(&more, fixture.now).expect("in reach");
            assert_eq!(outcome.code, expected, "{change:?} {quantity}");
            let has = fixture.batch.changed().find_map(State::cart).expect("a cart");
            let sold = if expected == "ok" { quantity } else { 2 };
            assert_eq!(has.due().minor_units(), 5 * i64::from(sold), "{change:?} {quantity}");
        }
    }
}

/// Which kind of step, what it is about, a variation.
type Choice = [u8; 3];

/// The steps of the restaurant and its guests. No guest names a price.
fn chosen([kind, about, more]: Choice) -> Step {
    let (sku, cart) = (format!("d{}", 1 + about % 3), format!("c{}", 1 + more % 2));
    let (item, user) = (format!("i{}", about % 8), ["ada", "bob"][usize::from(more % 2)]);
    match kind % 12 {
        0 | 1 => {
            let available = !more.is_multiple_of(5);
            let currency = if more.is_multiple_of(7) { "USD" } else { "EUR" };
            with(
                set(&sku, i64::from(more % 4)),
                json!({ "available": available, "currency": currency }),
            )
        }
        2 => withdraw(&sku),
        3..=6 => add(&cart, &item, &sku),
        7 => {
            let payload = json!({ "item_id": item, "quantity": 1 + more % 9 });
            step(&format!("cart.{cart}.set_item"), payload)
        }
        8 => step(&format!("cart.{cart}.remove_item"), json!({ "item_id": item })),
        9 => step("cart.c1.join", json!({ "user": user })),
        10 => place(&format!("o{}", 3 + about % 7), json!({ "sku": sku, "quantity": 1 })),
        _ => {
            let payload = json!({ "order_id": format!("o{}", 1 + more % 2) });
            step(&format!("cart.{cart}.check_out"), payload)
        }
    }
}

/// The list as the restaurant left it: name, price and currency of what can be had.
fn list(fixture: &Fixture) -> BTreeMap<String, (String, i64, String)> {
    let products = fixture.batch.changed().filter_map(State::product);
    let offered = products.filter(|product| product.listed && product.available);
    offered
        .map(|product| {
            let text = State::from(product.clone()).part(brigade_contracts::Part::Core);
            let core: Core = serde_json::from_str(text.get()).unwrap();
            let sku = product.head.address.id.to_string();
            let price = core.unit_price.minor_units();
            (sku, (core.name.as_str().to_owned(), price, core.currency.as_str().to_owned()))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Every item of every cart and order has the name and the price that the list had for it when
    /// it was put in.
    #[test]
    fn s7_01_nothing_is_sold_at_a_price_that_was_not_in_the_list(
        choices in prop::collection::vec(any::<Choice>(), 1..60)
    ) {
        let mut fixture = Fixture::new(&[
            open("c1", "team", "ada", None), open("c2", "menu", "bob", None),
        ]);
        // By cart or order and item; what an order was made of keeps what its cart had.
        let mut sold: BTreeMap<(String, String), (String, i64)> = BTreeMap::new();
        for choice in choices {
            let (target, payload) = chosen(choice);
            let offered = list(&fixture);
            let outcome = fixture.send(&target, &payload);
            let item = match target.rsplit('.').next().unwrap_or_default() {
                "add_item" => Some((&payload["sku"], payload["item_id"].as_str())),
                "place" => Some((&payload["items"][0]["sku"], None)),
                _ => None,
            };
            let Some((sku, item)) = item else { continue };
            let offer = offered.get(sku.as_str().unwrap_or_default());
            let can_be_had = offer.filter(|(_, _, currency)| currency == "EUR");
            if outcome.status >= 300 {
                continue;
            }
            prop_assert!(can_be_had.is_some(), "{} {}: {:?}", target, payload, outcome);
            let (name, price, _) = offer.cloned().unwrap_or_default();
            let id = target.split('.').nth(1).unwrap_or_default().to_owned();
            sold.insert((id, item.unwrap_or_default().to_owned()), (name, price));
        }
        for state in fixture.batch.changed() {
            let id = state.head().address.id.to_string();
            let lines: Vec<_> = match state {
                State::Cart(cart) => cart.items.iter().map(|item: &cart::Item| {
                    (id.clone(), item.item_id.to_string(), item.name.clone(), item.unit_price)
                }).collect(),
                State::Order(order) => order.items.iter().map(|item| {
                    let of = order.cart_id.as_ref().map_or(id.clone(), ToString::to_string);
                    let item_id = item.item_id.as_ref().map(ToString::to_string);
                    (of, item_id.unwrap_or_default(), item.name.clone(), item.unit_price)
                }).collect(),
                _ => continue,
            };
            for (of, item, name, price) in lines {
                let shown = (name.as_str().to_owned(), price.minor_units());
                prop_assert_eq!(sold.get(&(of, item)), Some(&shown));
            }
        }
    }
}

/// The sequences are worth something only if they come to sell, and to refuse for each reason.
#[test]
fn s7_01_the_sequences_sell_and_refuse() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let tree = prop::collection::vec(any::<Choice>(), 40).new_tree(&mut runner).unwrap();
        let mut fixture =
            Fixture::new(&[open("c1", "team", "ada", None), open("c2", "menu", "bob", None)]);
        for choice in tree.current() {
            let (target, payload) = chosen(choice);
            let verb = target.rsplit('.').next().unwrap_or_default().to_owned();
            seen.insert(format!("{verb} {}", fixture.send(&target, &payload).code));
        }
    }
    for expected in [
        "add_item ok",
        "add_item unknown_product",
        "add_item product_unavailable",
        "add_item other_currency",
        "place created",
        "place product_unavailable",
        "check_out ok",
        "withdraw ok",
    ] {
        assert!(seen.contains(expected), "{expected}: {seen:?}");
    }
    assert!(testing::reach().addresses.contains(&testing::address(Aggregate::Product, "d3")));
}
