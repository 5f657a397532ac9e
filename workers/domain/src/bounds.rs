//! The bounds of carts, orders, turns and owners.

mod largest;
mod orders;
mod sequences;

use brigade_contracts::{
    Aggregate, MAX_CONTENTS, MAX_EVENT, MAX_OPEN_CARTS, MAX_ORDERS_OF_TURN, MAX_PAYMENTS, Money,
    Outcome, Part,
    lock::Action,
    payment::{Status, TaskStatus},
};
use serde_json::{Value, json};

use super::{
    BatchState, Cart, Event, LockPolicy, LockSet, Mode, Order, State,
    testing::{self, Fixture, Step, add, initiate, open, result, step, token},
};

/// A Token of 64 characters.
fn long(letter: &str, n: usize) -> String {
    format!("{letter}{n:0>63}")
}

/// A text of as many characters, of which each takes as many bytes in JSON as any can.
fn wide(characters: usize) -> String {
    "\u{1f372}".repeat(characters)
}

/// Everything whose name begins with these letters, 300 of each.
fn reach() -> LockSet {
    let names = |letter: &'static str| {
        (0..300).flat_map(move |n| [format!("{letter}{n}"), long(letter, n)])
    };
    let of = |(aggregate, letter)| names(letter).map(move |id| testing::address(aggregate, &id));
    let kinds = [
        (Aggregate::Cart, "c"),
        (Aggregate::Payment, "p"),
        (Aggregate::Order, "o"),
        (Aggregate::Table, "t"),
        (Aggregate::Product, "d"),
    ];
    let owners = || names("a").chain(names("s"));
    let t1 = || token("t1");
    LockSet {
        addresses: kinds.into_iter().flat_map(of).collect(),
        owners: owners()
            .map(|owner| (testing::address(Aggregate::Lock, &owner), Mode::Exclusive))
            .collect(),
        sessions: names("s").map(|id| ((t1(), token(&id)), Vec::new())).collect(),
        open_carts: owners().map(|id| ((t1(), token(&id)), 0)).collect(),
        pending_orders: owners().map(|id| ((t1(), token(&id)), 0)).collect(),
        turns: names("u").map(|id| ((t1(), token(&id)), None)).collect(),
        lock_floors: [(t1(), 0)].into(),
        ..LockSet::default()
    }
}

fn fixture(states: impl IntoIterator<Item = State>) -> Fixture {
    let batch = BatchState::new(states, reach(), LockPolicy::default(), 1..100_000);
    Fixture { batch, now: testing::start() }
}

impl Fixture {
    /// Commands that are done.
    fn done(&mut self, steps: impl IntoIterator<Item = Step>) {
        for (target, payload) in steps {
            let outcome = self.send(&target, &payload);
            assert!(outcome.status < 300, "{target}: {outcome:?}");
        }
    }

    /// A command that may be refused.
    fn code(&mut self, (target, payload): &Step) -> (u16, String) {
        let Outcome { status, code, .. } = self.send(target, payload);
        (status, code.into_owned())
    }

    fn cart(&self, id: &str) -> &Cart {
        self.batch.loaded.states[&testing::address(Aggregate::Cart, id)].cart().expect("a cart")
    }

    fn order(&self, id: &str) -> &Order {
        self.batch.loaded.states[&testing::address(Aggregate::Order, id)].order().expect("an order")
    }
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn pay(payment: &str, target: &Value, amount: i64) -> Step {
    testing::with(initiate(payment, target), json!({ "amount": amount }))
}

fn cancel(payment: &str) -> Step {
    step(&format!("payment.{payment}.cancel"), json!({ "reason": "r" }))
}

fn refund(payment: &str, amount: i64) -> Step {
    step(&format!("payment.{payment}.refund"), json!({ "amount": amount, "reason": "r" }))
}

fn item(name: &str) -> Value {
    json!({ "sku": "s", "name": name, "unit_price": 100_000, "quantity": 1 })
}

fn place(order: &str, more: Value) -> Step {
    let payload = json!({ "currency": "EUR", "items": [item("n")] });
    testing::with(step(&format!("order.{order}.place"), payload), more)
}

/// A cart and an order of 1000.00 each, and how they are paid.
fn payable() -> [(Fixture, Value); 2] {
    let (mut cart, mut order) = (fixture([]), fixture([]));
    cart.done([open("c1", "menu", "a1", None), add("c1", "i1", 100_000)]);
    order.done([place("o1", json!({}))]);
    [(cart, json!({ "cart": "c1" })), (order, json!({ "order": "o1" }))]
}

fn entries(fixture: &Fixture, target: &Value) -> Vec<String> {
    let entries = match target["cart"].as_str() {
        Some(id) => &fixture.cart(id).payments,
        None => &fixture.order("o1").payments,
    };
    entries.iter().map(|entry| entry.payment.id.to_string()).collect()
}

#[test]
fn the_51st_payment_is_refused() {
    for (mut fixture, target) in payable() {
        fixture.done((1..=MAX_PAYMENTS).map(|n| pay(&format!("p{n}"), &target, 1)));
        let one_more = pay("p51", &target, 1);
        assert_eq!(fixture.code(&one_more), refused(422, "too_many_payments"));
        // Money that came in stays, though it has gone back.
        fixture.done([result("p1", "captured", "g1", 1), refund("p1", 1)]);
        assert_eq!(fixture.code(&one_more), refused(422, "too_many_payments"));
        // What ended without money makes room.
        fixture.done([cancel("p2"), one_more]);
        let names = entries(&fixture, &target);
        assert_eq!(names.len(), MAX_PAYMENTS);
        assert!(!names.contains(&"p2".to_owned()) && names.contains(&"p51".to_owned()));
    }
}

#[test]
fn a_cart_can_be_paid_after_any_number_of_failures() {
    for (mut fixture, target) in payable() {
        for n in 0..120 {
            let payment = format!("p{n}");
            fixture.done([pay(&payment, &target, 1), result(&payment, "failed", "g", 0)]);
        }
        assert_eq!(entries(&fixture, &target).len(), MAX_PAYMENTS);
        fixture.done([initiate("p200", &target), result("p200", "captured", "g", 100_000)]);
        assert_eq!(entries(&fixture, &target).len(), MAX_PAYMENTS);
    }
}

#[test]
fn money_for_a_payment_that_made_room_is_owed_back_and_counted() {
    for (mut fixture, target) in payable() {
        fixture.done([pay("p0", &target, 1), cancel("p0")]);
        fixture.done((1..=MAX_PAYMENTS).map(|n| pay(&format!("p{n}"), &target, 1)));
        assert!(!entries(&fixture, &target).contains(&"p0".to_owned()));
        // There is no room for it.
        let late = result("p0", "captured", "g0", 7);
        fixture.done([late, refund("p0", 3)]);
        let refunded = |fixture: &Fixture| match target["cart"].as_str() {
            Some(id) => fixture.cart(id).refunded,
            None => fixture.order("o1").refunded,
        };
        assert!(!entries(&fixture, &target).contains(&"p0".to_owned()));
        assert_eq!(refunded(&fixture), Money::new(3).unwrap());
        // Now there is.
        fixture.done([cancel("p1"), refund("p0", 4)]);
        assert!(entries(&fixture, &target).contains(&"p0".to_owned()));
        assert_eq!(refunded(&fixture), Money::new(7).unwrap());
        let tasks: Vec<_> = fixture.batch.refund_tasks().map(|(_, task)| task.status).collect();
        assert_eq!(tasks, [TaskStatus::Done]);
    }
}

#[test]
fn a_cart_and_an_order_of_more_than_64_kib_are_refused() {
    let mut fixture = fixture([]);
    fixture.done([open("c1", "team", "a1", None)]);
    let long_item = |n: usize| {
        let payload = json!({ "item_id": long("i", n), "sku": wide(200), "name": wide(200),
                              "unit_price": 1, "quantity": 1 });
        step("cart.c1.add_item", payload)
    };
    let full = (0..200).find(|n| fixture.code(&long_item(*n)) == refused(422, "too_large"));
    assert!(full.is_some_and(|n| n > 30), "{full:?}");
    let size = |cart: &Cart| cart.part(Part::Core).get().len();
    assert!((MAX_CONTENTS - 4096..MAX_CONTENTS).contains(&size(fixture.cart("c1"))));
    // Members take what is left, and then there is no room for another either.
    let join = |n: usize| step("cart.c1.join", json!({ "user": long("a", n) }));
    let full = (0..200).find(|n| fixture.code(&join(*n)) == refused(422, "too_large"));
    assert!(full.is_some(), "nobody was refused");
    fixture.done([testing::lock("c1")]);
    let token = fixture.send("cart.c1.check_out", &json!({ "order_id": long("o", 1) }));
    assert_eq!(token.code, "cart_locked");
    fixture.done([step("cart.c1.check_out", json!({ "order_id": long("o", 1), "token": 1 }))]);
    assert!(size(fixture.cart("c1")) <= MAX_CONTENTS);
    let order = fixture.order(&long("o", 1));
    assert!(order.part(Part::Core).get().len() <= MAX_CONTENTS);

    // It fits into a payload, and grows by what the payload leaves out.
    let items = |n: usize| json!({ "items": vec![item(&wide(200)); n] });
    assert_eq!(fixture.code(&place("o1", items(74))), refused(422, "too_large"));
    fixture.done([place("o1", items(70))]);
}

#[test]
fn a_turn_has_200_orders_and_not_one_more() {
    let mut fixture = fixture([]);
    fixture.done([
        step("table.t1.register", json!({ "label": "1", "seats": 4 })),
        step("table.t1.open_turn", json!({ "turn_id": "u1" })),
    ]);
    let at = json!({ "table_id": "t1" });
    fixture.done((0..MAX_ORDERS_OF_TURN).map(|n| place(&format!("o{n}"), at.clone())));
    assert_eq!(fixture.code(&place("o200", at.clone())), refused(422, "too_many_orders"));
    fixture.done([open("c1", "menu", "a1", None), add("c1", "i1", 100)]);
    let check_out = step("cart.c1.check_out", json!({ "order_id": "o200", "table_id": "t1" }));
    assert_eq!(fixture.code(&check_out), refused(422, "too_many_orders"));
    // The capture is not refused for it.
    let paid = [
        testing::with(
            initiate("p1", &json!({ "cart": "c1" })),
            json!({ "order_id": "o200", "table_id": "t1" }),
        ),
        result("p1", "captured", "g1", 100),
    ];
    fixture.done(paid);
    assert_eq!(fixture.cart("c1").due(), Money::ZERO);
    // Without a table, or at the next turn, there is room.
    fixture.done([place("o201", json!({}))]);
}

#[test]
fn an_owner_and_a_session_have_50_open_carts_and_not_one_more() {
    let most = MAX_OPEN_CARTS;
    let mut fixture = fixture([]);
    fixture.done((1..=most).map(|n| open(&format!("c{n}"), "menu", "a1", None)));
    assert_eq!(fixture.code(&open("c51", "menu", "a1", None)), refused(409, "too_many_carts"));
    fixture.done([step("cart.c1.abandon", json!({ "reason": "r" }))]);
    fixture.done([open("c51", "menu", "a1", Some("s9"))]);
    assert_eq!(
        fixture.code(&open("c52", "menu", "a1", Some("s9"))),
        refused(409, "too_many_carts")
    );
    // Of a session, whoever owns them.
    fixture.done((61..=most + 59).map(|n| open(&format!("c{n}"), "menu", "a2", Some("s9"))));
    assert_eq!(
        fixture.code(&open("c60", "menu", "a3", Some("s9"))),
        refused(409, "too_many_carts")
    );
    fixture.done([open("c60", "menu", "a3", None)]);
    // Another's session is claimed as long as there is room.
    fixture.done((0..2).map(|n| open(&format!("c{}", 120 + n), "menu", "s1", Some("s1"))));
    let claim =
        |cart: &str, user: &str| step(&format!("cart.{cart}.claim"), json!({ "user": user }));
    assert_eq!(fixture.code(&claim("c120", "a2")), refused(409, "too_many_carts"));
    assert_eq!(fixture.cart("c120").owner.as_str(), "s1");
    fixture.done([step("cart.c61.abandon", json!({ "reason": "r" })), claim("c120", "a2")]);
    assert_eq!(fixture.code(&open("c150", "menu", "a2", None)), refused(409, "too_many_carts"));
}

#[test]
fn a_refusal_without_a_lock_is_written_down_a_thousand_times() {
    let mut fixture = fixture([]);
    fixture.done([open("c1", "menu", "a1", None)]);
    let version = fixture.cart("c1").head.version;
    let rows = |fixture: &Fixture| {
        let rows = fixture.batch.history().iter();
        rows.filter(|row| row.action == Action::Refused).count()
    };
    let empty = testing::lock("c1");
    for _ in 0..1010 {
        assert_eq!(fixture.code(&empty), refused(422, "cart_empty"));
    }
    assert_eq!(rows(&fixture), 1000);
    assert_eq!((fixture.cart("c1").refusals, fixture.cart("c1").head.version), (1000, version));
    let changed: Vec<&State> = fixture.batch.changed().collect();
    assert_eq!(changed.len(), 1, "the count is stored");
    // Those under a lock are counted by its token, as ever.
    fixture.done([add("c1", "i1", 100), testing::lock("c1")]);
    assert_eq!(fixture.code(&testing::lock("c1")), refused(423, "cart_locked"));
    assert_eq!(rows(&fixture), 1001);
}

/// As it may come from before there were limits: nothing that does not fit leaves the core.
#[test]
fn a_decision_whose_event_is_too_large_is_refused() {
    let [(mut before, target), _] = payable();
    before.done([pay("p1", &target, 1)]);
    let mut cart = before.cart("c1").clone();
    let entry = cart.payments[0].clone();
    let spent = |n: usize| {
        let mut entry = entry.clone();
        entry.payment.id = token(&long("q", n));
        entry.payment.status = Status::Failed;
        entry
    };
    cart.payments = (0..3000).map(spent).collect();
    cart.locked_until = None;
    let mut fixture = fixture([State::Cart(cart.clone())]);
    let abandon = step("cart.c1.abandon", json!({ "reason": "r" }));
    assert_eq!(fixture.code(&abandon), refused(422, "too_large"));
    assert!(fixture.batch.events().is_empty());
    assert_eq!(fixture.cart("c1"), &cart);
}

/// The bytes that an event takes as a message: its subject, headers and payload.
pub(super) fn weigh(event: &Event) -> usize {
    let envelope = brigade_contracts::event::Envelope {
        event_id: uuid::Uuid::nil().to_string(),
        republication: u32::MAX,
        address: event.address.clone(),
        name: token(event.kind.name),
        version: u64::MAX,
        at: event.at,
        command_id: token(&long("k", 1)),
        actor: Some(token(&long("a", 1))),
        via: Some(brigade_contracts::Via::Fleet),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    let payload = serde_json::to_string(&event.payload).unwrap().len();
    assert!(event.payload.size() >= payload, "{} is larger than its size", event.kind.name);
    assert!(payload <= MAX_EVENT, "{}: {payload}", event.kind.name);
    let headers = envelope.headers().map(|(name, value)| name.len() + value.len() + 4);
    envelope.subject().len() + headers.sum::<usize>() + payload
}
