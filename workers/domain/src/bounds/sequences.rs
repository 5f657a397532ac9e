//! Whatever is asked in whatever order, no bound is passed, and money is counted right.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{cart, payment::Target};
use proptest::prelude::*;

use super::*;

/// Which kind of step, and what it is about.
type Choice = [u8; 3];

fn chosen([kind, about, more]: Choice) -> Step {
    let cart = format!("c{}", about % 2);
    let payment = format!("p{about}");
    let target = match more % 3 {
        0 => json!({ "order": "o1" }),
        _ => json!({ "cart": cart }),
    };
    match kind % 16 {
        0..=3 => pay(&payment, &target, i64::from(more)),
        4 | 5 => cancel(&payment),
        6 => result(&payment, "failed", "g1", 0),
        7 | 8 => result(&payment, "captured", "g1", i64::from(more)),
        9 => result(&payment, "captured", "g2", i64::from(more)),
        10 => refund(&payment, i64::from(more % 8)),
        11 => step(&format!("cart.{cart}.claim"), json!({ "user": "a2" })),
        12 => {
            let payload = json!({ "item_id": format!("i{more}"), "sku": wide(200), "quantity": 999,
                                  "name": wide(usize::from(about) % 200), "unit_price": 100_000,
                                  "user": more.is_multiple_of(2).then_some("s1") });
            step(&format!("cart.{cart}.add_item"), payload)
        }
        13 => step(&format!("cart.{cart}.join"), json!({ "user": long("a", usize::from(more)) })),
        14 => open(&format!("c{}", 2 + u16::from(about)), "menu", "s1", Some("s1")),
        _ => step(&format!("cart.{cart}.check_out"), json!({ "order_id": "o2", "token": null })),
    }
}

fn check(fixture: &Fixture) {
    let mut open = BTreeMap::new();
    let refunded = |target: &Target, currency| {
        let payments = fixture.batch.loaded.states.values().filter_map(State::payment);
        let own = payments.filter(|p| p.target == *target && p.currency == currency);
        own.map(|payment| payment.refunded_amount.minor_units()).sum::<i64>()
    };
    for state in fixture.batch.changed() {
        let id = state.head().address.id.clone();
        let (entries, core) = match state {
            State::Cart(cart) => (&cart.payments, cart.part(Part::Core)),
            State::Order(order) => (&order.payments, order.part(Part::Core)),
            _ => continue,
        };
        assert!(entries.len() <= MAX_PAYMENTS, "{id}: {} payments", entries.len());
        assert!(core.get().len() <= MAX_CONTENTS, "{id}: {} bytes", core.get().len());
        match state {
            State::Cart(cart) if cart.status == cart::Status::Open => {
                let names: BTreeSet<_> = [Some(&cart.owner), cart.session.as_ref()].into();
                for name in names.into_iter().flatten() {
                    *open.entry(name.clone()).or_insert(0) += 1;
                }
                let expected = refunded(&Target::Cart(id), cart.currency);
                assert_eq!(cart.refunded.minor_units(), expected);
            }
            State::Order(order) if order.cart_id.is_none() => {
                let expected = refunded(&Target::Order(id), order.currency);
                assert_eq!(order.refunded.minor_units(), expected);
            }
            _ => {}
        }
    }
    assert!(open.values().all(|count| *count <= MAX_OPEN_CARTS), "{open:?}");
    let counted = &fixture.batch.loaded.locked.open_carts;
    for (owner, count) in open {
        assert_eq!(counted[&(token("t1"), owner.clone())], count, "{owner}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_sequence_of_commands_passes_a_bound(
        before in 0..60_usize,
        choices in prop::collection::vec(any::<Choice>(), 1..100),
    ) {
        let mut fixture = fixture([]);
        for cart in ["c0", "c1"] {
            fixture.done([open(cart, "team", "s1", Some("s1")), add(cart, "i1", 100_000)]);
        }
        fixture.done([place("o1", json!({}))]);
        fixture.done((2..before).map(|n| open(&format!("c{n}"), "menu", "s1", Some("s1"))).take(45));
        for n in 0..before {
            let (of_cart, of_order) = (format!("p{}", 100 + n), format!("p{}", 200 + n));
            fixture.code(&pay(&of_cart, &json!({ "cart": "c0" }), 1));
            fixture.code(&pay(&of_order, &json!({ "order": "o1" }), 1));
            if n % 3 == 0 {
                fixture.code(&cancel(&of_cart));
                fixture.code(&cancel(&of_order));
            }
        }
        for choice in choices {
            let seen = fixture.batch.events().len();
            fixture.code(&chosen(choice));
            for event in &fixture.batch.events()[seen..] {
                prop_assert!(weigh(event) < 256 * 1024);
            }
            check(&fixture);
        }
    }
}
