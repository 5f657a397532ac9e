use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{Command, Outcome, cart::SecretKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::testing::{Fixture, Step, add, open, result, step, token, with};

/// What customers send, each under a Command-Id of its own.
struct Guests {
    fixture: Fixture,
    sent: u32,
}

impl Guests {
    fn new(steps: &[Step]) -> Self {
        let mut guests = Self { fixture: Fixture::new(&[]), sent: 0 };
        for step in steps {
            let outcome = guests.fixture.send(&step.0, &step.1);
            assert!(outcome.status < 300, "{step:?}: {outcome:?}");
        }
        guests
    }

    /// Sends a command of a user who has to have this relation. Returns its outcome, and the secret
    /// that it told.
    fn send(&mut self, user: &str, relation: &str, (target, payload): &Step) -> (Outcome, Value) {
        self.sent += 1;
        let id = format!("{user}.k{}", self.sent);
        let headers = [("Command-Id", &*id), ("Actor", user), ("Actor-Relation", relation)];
        let payload = payload.to_string();
        let subject = format!("req.t1.{target}");
        let command = Command::decode(&subject, headers.into_iter(), payload.as_bytes()).unwrap();
        let events = self.fixture.batch.events().len();
        let outcome = self.fixture.batch.decide(&command, self.fixture.now).expect("in reach");
        if ["not_allowed", "wrong_secret"].contains(&&*outcome.code) {
            assert_eq!(self.fixture.batch.events().len(), events, "{target}: {outcome:?}");
            assert_eq!((outcome.version, outcome.effects.len()), (None, 0), "{target}");
        }
        let told = SecretKey::default().told(&command);
        (outcome, told.into_iter().find(|told| told.0 == "secret").unzip().1.into())
    }

    fn code(&mut self, user: &str, relation: &str, what: &Step) -> String {
        self.send(user, relation, what).0.code.into_owned()
    }
}

fn join(cart: &str, user: &str, secret: &Value) -> Step {
    step(&format!("cart.{cart}.join"), json!({ "user": user, "secret": secret }))
}

fn pay(payment: &str, cart: &str) -> Step {
    step(
        &format!("payment.{payment}.initiate"),
        json!({ "target": { "cart": cart }, "method": "card", "amount": 100 }),
    )
}

fn of(target: &str) -> Step {
    let payload = match target.rsplit('.').next() {
        Some("abandon" | "cancel") => json!({ "reason": "r" }),
        Some("lock") => json!({ "transaction_id": "g", "method": "card" }),
        Some("bind_transaction") => json!({ "transaction_id": "g" }),
        Some("leave" | "commit_cod") => json!({ "user": "bob" }),
        _ => json!({}),
    };
    step(target, payload)
}

#[test]
fn s7_02_a_cart_is_joined_by_its_present_secret_alone() {
    let mut guests = Guests::new(&[open("c3", "menu", "cid", None)]);
    let (opened, secret) = guests.send("ada", "customer", &open("c1", "team", "ada", None));
    assert_eq!((opened.status, secret.as_str().map(str::len)), (201, Some(43)));
    let (_, other) = guests.send("eve", "customer", &open("c2", "team", "eve", None));
    let never_given = json!("A".repeat(43));
    for wrong in [&Value::Null, &other, &never_given] {
        for cart in ["c1", "c3", "c9"] {
            assert_eq!(guests.code("bob", "invited", &join(cart, "bob", wrong)), "wrong_secret");
        }
    }
    assert_eq!(guests.code("bob", "invited", &join("c1", "bob", &secret)), "ok");
    assert_eq!(guests.code("bob", "invited", &join("c1", "bob", &secret)), "already_member");
    // Only the owner gives another one, and the one before is none any more.
    let invite = of("cart.c1.invite");
    assert_eq!(guests.code("bob", "owner", &invite), "not_allowed");
    let (invited, new) = guests.send("ada", "owner", &invite);
    assert_eq!((invited.status, invited.effects), (200, vec!["cart.c1@3".to_owned()]));
    assert_ne!(new, secret);
    assert_eq!(guests.code("eve", "invited", &join("c1", "eve", &secret)), "wrong_secret");
    assert_eq!(guests.code("eve", "invited", &join("c1", "eve", &new)), "ok");
    assert_eq!(guests.code("cid", "owner", &of("cart.c3.invite")), "not_a_team_cart");
    // A program is trusted.
    assert_eq!(guests.fixture.send("cart.c1.join", &json!({ "user": "cid" })).status, 200);
    // Nothing tells the secret.
    let seen = format!("{:?}", guests.fixture.batch);
    for secret in [secret, new, other] {
        assert!(!seen.contains(secret.as_str().unwrap()));
    }
}

#[test]
fn s7_02_only_the_owner_ends_a_cart_and_what_became_of_it() {
    let mut guests = Guests::new(&[
        open("c1", "team", "ada", None),
        step("cart.c1.join", json!({ "user": "bob" })),
        add("c1", "i1", 1000),
    ]);
    for verb in ["lock", "abandon", "invite"] {
        let what = of(&format!("cart.c1.{verb}"));
        for user in ["bob", "eve"] {
            assert_eq!(guests.code(user, "owner", &what), "not_allowed", "{user} {verb}");
        }
    }
    let check_out = step("cart.c1.check_out", json!({ "order_id": "o1" }));
    assert_eq!(guests.code("bob", "owner", &check_out), "not_allowed");
    assert_eq!(guests.code("eve", "participant", &of("cart.c1.leave")), "not_allowed");
    assert_eq!(guests.code("bob", "participant", &add("c1", "i2", 1)), "ok");
    assert_eq!(guests.code("ada", "owner", &check_out), "ok");
    let cancel = of("order.o1.cancel");
    assert_eq!(guests.code("bob", "owner", &cancel), "not_allowed");
    assert_eq!(guests.code("ada", "owner", &of("order.o2.cancel")), "not_allowed");
    assert_eq!(guests.code("ada", "owner", &cancel), "ok");
}

#[test]
fn s7_02_a_payment_is_bound_and_cancelled_by_who_pays_it_and_by_the_owner() {
    let mut guests = Guests::new(&[
        open("c1", "team", "ada", None),
        step("cart.c1.join", json!({ "user": "bob" })),
        step("cart.c1.join", json!({ "user": "cid" })),
        add("c1", "i1", 1000),
    ]);
    // A customer who names nobody is the payer.
    assert_eq!(guests.code("bob", "participant", &pay("p1", "c1")), "created");
    assert_eq!(guests.code("eve", "participant", &pay("p2", "c1")), "not_allowed");
    let payments = |guests: &Guests| {
        let address = crate::testing::address(brigade_contracts::Aggregate::Payment, "p1");
        guests.fixture.batch.loaded.states[&address].payment().unwrap().user.clone()
    };
    assert_eq!(payments(&guests), Some(token("bob")));
    for verb in ["bind_transaction", "cancel"] {
        let what = of(&format!("payment.p1.{verb}"));
        for user in ["cid", "eve"] {
            assert_eq!(guests.code(user, "payer", &what), "not_allowed", "{user} {verb}");
        }
        assert_eq!(guests.code("ada", "payer", &of(&format!("payment.p9.{verb}"))), "not_allowed");
    }
    assert_eq!(guests.code("bob", "payer", &of("payment.p1.bind_transaction")), "ok");
    assert_eq!(guests.code("ada", "payer", &of("payment.p1.bind_transaction")), "ok");
    // Also when the cart is an order, which a member may pay as well.
    let check_out = step("cart.c1.check_out", json!({ "order_id": "o1", "token": 1 }));
    assert_eq!(guests.code("ada", "owner", &check_out), "ok");
    let order = json!({ "target": { "order": "o1" }, "method": "card", "amount": 10 });
    let of_order = step("payment.p3.initiate", order);
    assert_eq!(guests.code("eve", "participant", &of_order), "not_allowed");
    assert_eq!(guests.code("cid", "participant", &of_order), "created");
    assert_eq!(guests.code("cid", "payer", &of("payment.p1.cancel")), "not_allowed");
    assert_eq!(guests.code("bob", "payer", &of("payment.p3.cancel")), "not_allowed");
    assert_eq!(guests.code("ada", "payer", &of("payment.p3.cancel")), "ok");
    assert_eq!(guests.code("bob", "payer", &of("payment.p1.cancel")), "ok");
    // A payment of nobody's order belongs to who pays it.
    let place = json!({ "currency": "EUR", "items": [
        { "sku": "s", "name": "n", "unit_price": 100, "quantity": 1 }] });
    assert_eq!(guests.fixture.send("order.o5.place", &place).status, 201);
    let pays = json!({ "target": { "order": "o5" }, "method": "card", "user": "eve" });
    assert_eq!(guests.fixture.send("payment.p5.initiate", &pays).status, 201);
    assert_eq!(guests.code("ada", "payer", &of("payment.p5.cancel")), "not_allowed");
    assert_eq!(guests.code("eve", "payer", &of("payment.p5.cancel")), "ok");
}

#[test]
fn s7_02_a_session_is_claimed_by_its_secret_and_its_name_is_no_users() {
    let mut guests = Guests::new(&[
        open("c1", "menu", "s1", Some("s1")),
        open("c2", "team", "s1", Some("s1")),
        add("c1", "i1", 1000),
        with(pay("p1", "c1"), json!({ "user": "s1" })),
    ]);
    let secret = |session: &str| {
        json!(SecretKey::default().of_session(&token("t1"), &token(session)).expose())
    };
    let claim = |cart: &str, secret: &Value| {
        step(&format!("cart.{cart}.claim"), json!({ "user": "ada", "session_secret": secret }))
    };
    for wrong in [Value::Null, secret("s2"), json!("x")] {
        assert_eq!(guests.code("ada", "claimant", &claim("c1", &wrong)), "wrong_secret");
        assert_eq!(guests.code("ada", "claimant", &claim("c9", &wrong)), "wrong_secret");
    }
    // A user of the session's name is nobody to it.
    assert_eq!(guests.code("s1", "participant", &add("c1", "i2", 1)), "not_allowed");
    assert_eq!(guests.code("s1", "owner", &of("cart.c2.abandon")), "not_allowed");
    assert_eq!(guests.code("s1", "payer", &of("payment.p1.cancel")), "not_allowed");
    assert_eq!(guests.code("ada", "claimant", &claim("c2", &secret("s1"))), "ok");
    // What is the user's by now he claims again without it; others come too late.
    assert_eq!(guests.code("ada", "claimant", &claim("c1", &Value::Null)), "ok");
    let late = with(claim("c1", &secret("s1")), json!({ "user": "eve" }));
    assert_eq!(guests.code("eve", "claimant", &late), "already_claimed");
    assert_eq!(guests.code("s1", "payer", &of("payment.p1.cancel")), "not_allowed");
    assert_eq!(guests.code("ada", "payer", &of("payment.p1.cancel")), "ok");
    // A program is trusted.
    let mut guests = Guests::new(&[open("c1", "menu", "s1", Some("s1"))]);
    assert_eq!(guests.fixture.send("cart.c1.claim", &json!({ "user": "ada" })).status, 200);
}

#[test]
fn s7_02_a_customer_names_a_table_with_the_turn_that_is_open_there() {
    let mut guests = Guests::new(&[
        step("table.t1.register", json!({ "label": "1", "seats": 4 })),
        step("table.t1.open_turn", json!({ "turn_id": "u1" })),
        step("table.t1.close_turn", json!({ "turn_id": "u1" })),
        step("table.t1.open_turn", json!({ "turn_id": "u2" })),
        step("table.t2.register", json!({ "label": "2", "seats": 4 })),
        step("table.t2.open_turn", json!({ "turn_id": "u3" })),
        open("c1", "menu", "ada", None),
        add("c1", "i1", 1000),
        open("c2", "menu", "bob", None),
        add("c2", "i1", 1000),
    ]);
    for (turn, code) in [
        (Value::Null, "turn_required"),
        (json!("u1"), "turn_closed"),
        (json!("u3"), "turn_not_found"),
        (json!("u9"), "turn_not_found"),
    ] {
        let seat = json!({ "order_id": "o1", "table_id": "t1", "turn_id": turn });
        let check_out = step("cart.c1.check_out", seat.clone());
        assert_eq!(guests.code("ada", "owner", &check_out), code);
        assert_eq!(guests.code("ada", "participant", &with(pay("p1", "c1"), seat)), code);
    }
    let seat = json!({ "order_id": "o1", "table_id": "t1", "turn_id": "u2" });
    let begun = with(pay("p1", "c1"), with(step("", seat.clone()), json!({ "amount": 1000 })).1);
    assert_eq!(guests.code("ada", "participant", &begun), "created");
    // A party that has left has not paid for the next one.
    for leaves in [
        step("table.t1.close_turn", json!({ "turn_id": "u2" })),
        step("table.t1.open_turn", json!({ "turn_id": "u4" })),
    ] {
        assert_eq!(guests.fixture.send(&leaves.0, &leaves.1).status, 200);
    }
    let captured = result("p1", "captured", "g1", 1000);
    let captured = guests.fixture.when(&captured);
    assert_eq!(captured["outcome"]["data"]["check_out"], "turn_closed");
    let now = json!({ "order_id": "o1", "turn_id": "u4" });
    assert_eq!(guests.code("ada", "owner", &step("cart.c1.check_out", now)), "ok");
    // Who is trusted names the table alone.
    let seat = json!({ "order_id": "o2", "table_id": "t2" });
    assert_eq!(guests.fixture.send("cart.c2.check_out", &seat).status, 200);
}

#[test]
fn s7_02_whoever_is_nobody_has_no_relation() {
    let mut guests = Guests::new(&[open("c1", "team", "ada", None)]);
    let headers = [("Command-Id", "k"), ("Actor-Relation", "owner")];
    let payload = br#"{"reason":"r"}"#;
    let command =
        Command::decode("req.t1.cart.c1.abandon", headers.into_iter(), payload.as_slice());
    let outcome = guests.fixture.batch.decide(&command.unwrap(), guests.fixture.now).unwrap();
    assert_eq!(outcome.code, "not_allowed");
    // A relation is one to a cart.
    for relation in ["owner", "participant", "payer", "invited", "claimant"] {
        let what = step("table.t1.register", json!({ "label": "1", "seats": 4 }));
        assert_ne!(guests.code("ada", relation, &what), "created", "{relation}");
    }
}

const USERS: [&str; 3] = ["ada", "bob", "eve"];
/// The last one is of a session.
const CARTS: [&str; 3] = ["c1", "c2", "c3"];

/// Who may do what, kept beside the fleet's own books.
#[derive(Default)]
struct Expected {
    owners: BTreeMap<&'static str, &'static str>,
    members: BTreeSet<(&'static str, &'static str)>,
    /// The secrets of the team carts, the present one last.
    secrets: BTreeMap<&'static str, Vec<Value>>,
    payments: BTreeMap<String, (&'static str, &'static str)>,
}

impl Expected {
    fn takes_part(&self, cart: &'static str, user: &'static str) -> bool {
        self.owners.get(cart) == Some(&user) || self.members.contains(&(cart, user))
    }

    fn owns(&self, cart: &str, user: &str) -> bool {
        self.owners.get(cart) == Some(&user)
    }

    fn pays(&self, payment: &str, user: &str) -> bool {
        let payment = self.payments.get(payment);
        payment.is_some_and(|(cart, payer)| *payer == user || self.owns(cart, user))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever customers send in whatever order, what is not theirs stays as it is, and nothing
    /// that is theirs is kept from them.
    #[test]
    fn s7_02_no_sequence_of_customers_changes_what_is_not_theirs(
        choices in prop::collection::vec(any::<[u8; 4]>(), 1..80),
    ) {
        let mut guests = Guests::new(&[open("c3", "menu", "s1", Some("s1"))]);
        guests.fixture.send("cart.c3.add_item", &add("c3", "i0", 1000).1);
        let mut expected = Expected::default();
        for (cart, owner) in [("c1", "ada"), ("c2", "bob")] {
            let opened = guests.send(owner, "customer", &open(cart, "team", owner, None));
            expected.owners.insert(cart, owner);
            expected.secrets.insert(cart, vec![opened.1]);
            guests.fixture.send(&format!("cart.{cart}.add_item"), &add(cart, "i0", 1000).1);
        }
        for [kind, about, a, b] in choices {
            let user = USERS[usize::from(a) % 3];
            let cart = CARTS[usize::from(about) % 3];
            let payment = format!("p{}", 1 + b % 6);
            let verb = |verb: &str, payload: Value| step(&format!("cart.{cart}.{verb}"), payload);
            let (relation, what, may) = match kind % 12 {
                0 | 1 => {
                    let known = expected.secrets.values().flatten();
                    let secret = known.cycle().nth(usize::from(b)).unwrap().clone();
                    let present = expected.secrets.get(cart).and_then(|all| all.last());
                    let is_right = present == Some(&secret);
                    ("invited", join(cart, user, &secret), is_right)
                }
                2 => ("participant", verb("leave", json!({ "user": user })),
                      expected.takes_part(cart, user)),
                3 | 4 => ("participant", add(cart, &format!("i{b}"), 1),
                          expected.takes_part(cart, user)),
                5 => ("owner", of(&format!("cart.{cart}.invite")), expected.owns(cart, user)),
                6 => {
                    let session = ["s1", "s2"][usize::from(b) % 2];
                    let secret = SecretKey::default().of_session(&token("t1"), &token(session));
                    let payload = json!({ "user": user, "session_secret": secret.expose() });
                    let may = expected.owns(cart, user) || (cart == "c3" && session == "s1");
                    ("claimant", verb("claim", payload), may)
                }
                7 | 8 => ("participant", pay(&payment, cart), expected.takes_part(cart, user)),
                9 => ("payer", of(&format!("payment.{payment}.cancel")),
                      expected.pays(&payment, user)),
                10 => ("payer", of(&format!("payment.{payment}.bind_transaction")),
                       expected.pays(&payment, user)),
                _ => ("owner", of(&format!("cart.{cart}.lock")), expected.owns(cart, user)),
            };
            let (outcome, told) = guests.send(user, relation, &what);
            prop_assert_eq!(outcome.status != 403, may, "{} {:?}: {:?}", user, what, outcome);
            guests.fixture.wait(60_000);
            if outcome.status >= 300 {
                continue;
            }
            match kind % 12 {
                0 | 1 => {
                    expected.members.insert((cart, user));
                }
                2 => {
                    expected.members.remove(&(cart, user));
                }
                5 => expected.secrets.get_mut(cart).unwrap().push(told),
                6 => {
                    expected.owners.insert(cart, user);
                }
                7 | 8 => {
                    expected.payments.insert(payment, (cart, user));
                }
                _ => {}
            }
        }
    }
}
