//! A small batch in which everything is in reach, for tests.

use std::{collections::HashMap, time::Duration};

use brigade_contracts::{Address, Aggregate, Command, Outcome, Part, Timestamp, Token};
use serde_json::{Map, Value, json};

use super::{BatchState, LockPolicy, LockSet, Mode, State};

pub const OWNERS: [&str; 6] = ["ada", "bob", "cid", "eve", "s1", "s2"];

pub fn start() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

pub fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

pub fn address(aggregate: Aggregate, id: &str) -> Address {
    Address::new("t1", aggregate, id).unwrap()
}

/// Ids 1 to 9 of each kind and of turns, all owners exclusively, both sessions.
pub fn reach() -> LockSet {
    let ids = [
        (Aggregate::Cart, 'c'),
        (Aggregate::Payment, 'p'),
        (Aggregate::Order, 'o'),
        (Aggregate::Table, 't'),
        (Aggregate::Product, 'd'),
    ];
    let numbered =
        |(aggregate, letter)| (1..10).map(move |n| address(aggregate, &format!("{letter}{n}")));
    let owner = |owner| (address(Aggregate::Lock, owner), Mode::Exclusive);
    let session = |session| ((token("t1"), token(session)), Vec::new());
    LockSet {
        addresses: ids.into_iter().flat_map(numbered).collect(),
        owners: OWNERS.into_iter().map(owner).collect(),
        lock_floors: HashMap::from([(token("t1"), 0)]),
        sessions: ["s1", "s2"].into_iter().map(session).collect(),
        open_carts: OWNERS.map(|owner| ((token("t1"), token(owner)), 0)).into_iter().collect(),
        pending_orders: OWNERS.map(|owner| ((token("t1"), token(owner)), 0)).into_iter().collect(),
        turns: (1..10).map(|n| ((token("t1"), token(&format!("u{n}"))), None)).collect(),
        ..LockSet::default()
    }
}

pub fn batch(states: impl IntoIterator<Item = State>) -> BatchState {
    BatchState::new(states, reach(), LockPolicy::default(), 1..10_000)
}

pub fn command(target: &str, headers: &[(&str, &str)], payload: &Value) -> Command {
    let headers = [("Command-Id", "k"), ("Actor", "staff")].iter().chain(headers).copied();
    Command::decode(&format!("req.t1.{target}"), headers, payload.to_string().as_bytes()).unwrap()
}

/// `cart.c1.open`, or `+` and milliseconds to wait; and the payload.
pub type Step = (String, Value);

/// A batch and its clock.
pub struct Fixture {
    pub batch: BatchState,
    pub now: Timestamp,
}

impl Fixture {
    pub fn new(steps: &[Step]) -> Self {
        let mut fixture = Self { batch: batch([]), now: start() };
        for (target, payload) in steps {
            if let Some(millis) = target.strip_prefix('+') {
                fixture.wait(millis.parse().unwrap());
                continue;
            }
            let outcome = fixture.send(target, payload);
            assert!(outcome.status < 300, "{target} {payload}: {outcome:?}");
        }
        fixture
    }

    pub fn wait(&mut self, millis: u64) {
        self.now = self.now.plus(Duration::from_millis(millis));
    }

    pub fn send(&mut self, target: &str, payload: &Value) -> Outcome {
        let command = command(target, &[], payload);
        self.batch.decide(&command, self.now).unwrap_or_else(|| {
            panic!("{target} {payload} is postponed: {:?}", self.batch.missing())
        })
    }

    /// Sends one command and returns everything that can be seen of it: the outcome, the
    /// projections now, and its events, audit rows and refund tasks.
    pub fn when(&mut self, (target, payload): &Step) -> Value {
        let (events, rows) = (self.batch.events().len(), self.batch.history().len());
        let outcome = self.send(target, payload);
        let mut seen = Map::new();
        for state in self.batch.changed() {
            let head = &state.head().address;
            let part = |part| serde_json::from_str::<Value>(state.part(part).get()).unwrap();
            let shown = match state {
                State::Cart(_) | State::Order(_) => {
                    json!({ "core": part(Part::Core), "payments": part(Part::Payments) })
                }
                State::Payment(_) | State::Table(_) | State::Product(_) | State::Lock(_) => {
                    part(Part::Core)
                }
                State::User(_) => part(Part::Auth),
            };
            seen.insert(format!("{}.{}", head.aggregate, head.id), shown);
        }
        for (_, table, turn) in self.batch.turns() {
            let reason = turn.close_reason.map(brigade_contracts::table::CloseReason::as_str);
            let turn = (format!("turn.{}", turn.id), json!({ "table": table, "closed": reason }));
            seen.extend([turn]);
        }
        let data: Vec<Value> = self.batch.events()[events..]
            .iter()
            .map(|event| serde_json::from_str(event.payload.data.get()).unwrap())
            .collect();
        seen.insert("data".into(), data.into());
        let events = self.batch.events()[events..].iter();
        let name =
            |e: &super::Event| format!("{}.{} {}", e.address.aggregate, e.address.id, e.kind.name);
        let rows = self.batch.history()[rows..].iter();
        let tasks: HashMap<_, _> = self
            .batch
            .refund_tasks()
            .map(|(_, task)| {
                (task.id.clone(), format!("{} {}", task.amount.minor_units(), task.status.as_str()))
            })
            .collect();
        seen.insert("outcome".into(), serde_json::to_value(&outcome).unwrap());
        seen.insert("events".into(), events.map(name).collect());
        seen.insert(
            "audit".into(),
            rows.map(|row| format!("{} {} {:?}", row.owner, row.action.as_str(), row.token))
                .collect(),
        );
        seen.insert("tasks".into(), json!(tasks));
        Value::Object(seen)
    }
}

/// A row of a table of rules: its name, what went before, what is asked, the status and code, and
/// what is then seen, by JSON pointer.
pub type Case = (&'static str, Vec<Step>, Step, (u16, &'static str), Vec<(&'static str, Value)>);

pub fn check(cases: Vec<Case>) {
    for (name, given, when, (status, code), then) in cases {
        let mut fixture = Fixture::new(&given);
        let seen = fixture.when(&when);
        let outcome = &seen["outcome"];
        assert_eq!(
            (&outcome["status"], &outcome["code"]),
            (&json!(status), &json!(code)),
            "{name}: {outcome:#}"
        );
        for (pointer, expected) in then {
            let found = seen.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(*found, expected, "{name}: {pointer} in {seen:#}");
        }
    }
}

pub fn step(target: &str, payload: Value) -> Step {
    (target.to_owned(), payload)
}

pub fn wait(millis: u64) -> Step {
    (format!("+{millis}"), Value::Null)
}

pub fn open(cart: &str, kind: &str, owner: &str, session: Option<&str>) -> Step {
    let payload = json!({ "kind": kind, "owner": owner, "session": session, "currency": "EUR" });
    step(&format!("cart.{cart}.open"), payload)
}

pub fn add(cart: &str, id: &str, price: i64) -> Step {
    let payload =
        json!({ "item_id": id, "sku": "s", "name": "n", "unit_price": price, "quantity": 1 });
    step(&format!("cart.{cart}.add_item"), payload)
}

pub fn lock(cart: &str) -> Step {
    step(&format!("cart.{cart}.lock"), json!({ "transaction_id": "tmp", "method": "card" }))
}

/// More fields for a step's payload.
pub fn with((target, mut payload): Step, more: Value) -> Step {
    if let (Value::Object(payload), Value::Object(more)) = (&mut payload, more) {
        payload.extend(more);
    }
    (target, payload)
}

pub fn initiate(payment: &str, target: &Value) -> Step {
    step(&format!("payment.{payment}.initiate"), json!({ "target": target, "method": "card" }))
}

pub fn result(payment: &str, result: &str, transaction: &str, amount: i64) -> Step {
    let payload = json!({
        "result": result, "transaction_id": transaction, "amount": amount, "currency": "EUR",
        "occurred_at": "2026-01-02T03:04:05Z",
    });
    step(&format!("payment.{payment}.record_result"), payload)
}
