//! Sequences of commands on a few carts, payments, orders and tables, made of random choices. The
//! same sequences can be played against the pure core and against a running fleet.

use brigade_contracts::Outcome;
use serde_json::{Value, json};

/// One step of a sequence.
#[derive(Clone, Debug)]
pub enum Step {
    /// Time passes, in minutes of the default lock policy.
    Wait(u64),
    Command {
        /// `<aggregate>.<id>.<verb>`
        target: String,
        payload: Value,
    },
}

/// Turns choices into steps. It remembers the fencing tokens that it has seen, so that some of its
/// steps use the right token, and some an old one.
#[derive(Clone, Debug, Default)]
pub struct Player {
    tokens: Vec<i64>,
}

/// Which kind of step, what it is about, two variations.
pub type Choice = [u8; 4];

const USERS: [&str; 4] = ["ada", "bob", "cid", "s1"];

impl Player {
    /// The carts c1 (team) and c4 of ada, c2 of bob and c3 of the session s1, each with an item
    /// and, in the team cart, a second member; the tables t1, with the party u1, and t2; the product
    /// d1.
    #[must_use]
    pub fn prelude() -> Vec<Step> {
        let carts = [
            ("c1", "team", "ada", Value::Null),
            ("c2", "ticket", "bob", Value::Null),
            ("c3", "team", "s1", json!("s1")),
            ("c4", "menu", "ada", Value::Null),
        ];
        let mut steps = Vec::new();
        for (cart, kind, owner, session) in carts {
            let open =
                json!({ "kind": kind, "owner": owner, "session": session, "currency": "EUR" });
            steps.push(command(format!("cart.{cart}.open"), open));
            steps.push(add_item(cart, 1, 1000));
        }
        steps.push(command("cart.c1.join".to_owned(), json!({ "user": "bob" })));
        for table in ["t1", "t2"] {
            let register = json!({ "label": table, "seats": 4 });
            steps.push(command(format!("table.{table}.register"), register));
        }
        steps.push(command("table.t1.open_turn".to_owned(), json!({ "turn_id": "u1" })));
        steps.push(set_product(1000));
        steps
    }

    /// Remembers the fencing token in an outcome.
    pub fn observe(&mut self, outcome: &Outcome) {
        let data = serde_json::from_str::<Value>(outcome.data.get()).unwrap_or_default();
        self.tokens.extend(data["token"].as_i64());
    }

    /// Remembers a fencing token.
    pub fn remember(&mut self, token: i64) {
        self.tokens.push(token);
    }

    #[must_use]
    pub fn step(&self, [kind, about, a, b]: Choice) -> Step {
        let cart = format!("c{}", 1 + about % 4);
        let payment = format!("p{}", 1 + about % 6);
        let order = format!("o{}", 1 + a % 3);
        match kind % 40 {
            0..=2 => Step::Wait([1, 4, 11, 31][usize::from(a % 4)]),
            3..=7 => self.content(&cart, kind, a, b),
            8..=13 => self.lock(&cart, kind, a, b),
            14 | 15 => {
                let token = b.is_multiple_of(2).then(|| self.token(a));
                let table = about.is_multiple_of(3).then(|| table(b));
                let turn = (b % 4 == 3).then(|| format!("u{}", 1 + a % 9));
                let payload = json!({
                    "order_id": order, "token": token, "table_id": table, "turn_id": turn,
                });
                command(format!("cart.{cart}.check_out"), payload)
            }
            16 => of_order(&order, b),
            32..=39 => at_table(kind, about, a, b),
            17..=20 => self.initiate(&payment, a, b),
            _ => result(&payment, kind, a, b),
        }
    }

    fn content(&self, cart: &str, kind: u8, a: u8, b: u8) -> Step {
        let user = json!({ "user": USERS[usize::from(a % 4)] });
        let item = format!("i{}", 1 + a % 3);
        match (kind % 40, b % 4) {
            (3, 0) => command(format!("cart.{cart}.join"), user),
            (3, 1) => command(format!("cart.{cart}.leave"), user),
            (6, 1) => command(format!("cart.{cart}.invite"), json!({})),
            (3, 2) => command(format!("cart.{cart}.commit_cod"), user),
            (3, _) => command(format!("cart.{cart}.claim"), user),
            // At the price of the list.
            (4 | 5, _) if b % 8 == 7 => {
                let payload = json!({ "item_id": item, "sku": "d1", "quantity": 1 });
                command(format!("cart.{cart}.add_item"), payload)
            }
            (4 | 5, _) => add_item(cart, a % 4, i64::from(b)),
            (6, 0) => command(format!("cart.{cart}.remove_item"), json!({ "item_id": item })),
            (7, 0) => command(format!("cart.{cart}.abandon"), json!({ "reason": "r" })),
            _ => {
                let payload = json!({ "item_id": item, "quantity": 1 + b % 3 });
                command(format!("cart.{cart}.set_item"), payload)
            }
        }
    }

    fn lock(&self, cart: &str, kind: u8, a: u8, b: u8) -> Step {
        let token = self.token(a);
        let (verb, payload) = match kind % 40 {
            8 | 9 => ("lock", json!({ "transaction_id": format!("t{b}"), "method": method(a) })),
            10 => ("bind_transaction", json!({ "token": token, "transaction_id": "g1" })),
            11 => ("extend", json!({ "token": token, "seconds": 60 * (1 + u32::from(b % 20)) })),
            12 => ("unlock", json!({ "token": token, "reason": "r" })),
            _ => ("expire_lock", json!({ "token": token })),
        };
        command(format!("cart.{cart}.{verb}"), payload)
    }

    fn initiate(&self, payment: &str, a: u8, b: u8) -> Step {
        let target = match a % 6 {
            0..=3 => json!({ "cart": format!("c{}", 1 + a % 4) }),
            _ => json!({ "order": format!("o{}", 1 + b % 6) }),
        };
        let payload = json!({
            "target": target,
            "method": method(b),
            "amount": b.is_multiple_of(3).then(|| 100 + 4 * i64::from(b)),
            "user": b.is_multiple_of(5).then(|| USERS[usize::from(a % 4)]),
            "token": a.is_multiple_of(2).then(|| self.token(b)),
            "order_id": b.is_multiple_of(4).then(|| format!("o{}", 1 + a % 3)),
            "table_id": b.is_multiple_of(8).then(|| table(a)),
            "turn_id": b.is_multiple_of(32).then(|| format!("u{}", 1 + a % 9)),
        });
        command(format!("payment.{payment}.initiate"), payload)
    }

    /// Mostly the newest token.
    fn token(&self, choice: u8) -> i64 {
        let back = usize::from(choice % 4 == 3) + usize::from(choice % 16 == 15);
        self.tokens.iter().rev().nth(back).copied().unwrap_or(0)
    }
}

fn result(payment: &str, kind: u8, a: u8, b: u8) -> Step {
    let currency = if b % 16 == 15 { "USD" } else { "EUR" };
    let amount = [0, 100, 500, 1000, 1000, 1000, 1300, 2000][usize::from(b % 8)];
    let gateway = |result: &str| {
        json!({
            "result": result, "transaction_id": format!("g{}", a % 3), "amount": amount,
            "currency": currency, "occurred_at": "2026-01-02T03:04:05Z",
        })
    };
    let (verb, payload) = match kind % 40 {
        21..=24 => ("record_result", gateway("captured")),
        25 => ("record_result", gateway("failed")),
        26 if b.is_multiple_of(2) => ("record_result", gateway("unknown")),
        26 => ("record_result", gateway("refunded")),
        27 => ("confirm_cash", json!({ "amount": amount, "currency": currency })),
        28 => ("cancel", json!({ "reason": "r" })),
        29 => ("bind_transaction", json!({ "transaction_id": format!("g{}", a % 3) })),
        30 => ("settle", json!({ "settlement": settlement(payment, a, b), "reason": "r" })),
        _ => ("refund", json!({ "amount": a.is_multiple_of(2).then_some(amount), "reason": "r" })),
    };
    command(format!("payment.{payment}.{verb}"), payload)
}

fn settlement(payment: &str, a: u8, b: u8) -> Value {
    match a % 4 {
        0 => json!("failed"),
        1 => {
            let transaction = format!("g{}", b % 3);
            let amount = [500, 1000, 1300][usize::from(b % 3)];
            let captured =
                json!({ "transaction_id": transaction, "amount": amount, "currency": "EUR" });
            json!({ "captured": captured })
        }
        _ => json!({ "refund_task": format!("{payment}.{}", 1 + b % 2) }),
    }
}

fn of_order(order: &str, choice: u8) -> Step {
    let item = json!({ "sku": "s", "name": "n", "unit_price": 700, "quantity": 1 });
    if choice.is_multiple_of(5) {
        return match choice % 4 {
            0 => command("product.d1.withdraw".to_owned(), json!({})),
            _ => set_product(i64::from(choice)),
        };
    }
    let (verb, payload) = match choice % 3 {
        0 => ("place", json!({ "currency": "EUR", "items": [item] })),
        1 => ("cancel", json!({ "reason": "r" })),
        _ => ("accept", json!({})),
    };
    command(format!("order.{order}.{verb}"), payload)
}

fn table(choice: u8) -> String {
    format!("t{}", 1 + choice % 2)
}

fn at_table(kind: u8, about: u8, a: u8, b: u8) -> Step {
    const STATUSES: [&str; 4] = ["available", "reserved", "out_of_service", "occupied"];
    const FINDINGS: [&str; 4] =
        ["ghost_no_turn", "ghost_all_paid", "phantom_open_turn", "phantom_unpaid"];
    let turn = format!("u{}", 1 + a % 9);
    let order = format!("o{}", 1 + a % 6);
    let item = json!({ "sku": "s", "name": "n", "unit_price": 1000 * i64::from(!b.is_multiple_of(9)),
                       "quantity": 1 });
    let (verb, payload) = match kind % 40 {
        32 | 33 => ("open_turn", json!({ "turn_id": turn })),
        34 => ("close_turn", json!({ "turn_id": turn })),
        35 => {
            let (status, force) = (STATUSES[usize::from(a % 4)], b.is_multiple_of(2));
            ("set_status", json!({ "status": status, "force": force, "reason": "r" }))
        }
        36 => {
            let (version, finding) = (1 + b % 8, FINDINGS[usize::from(a % 4)]);
            let payload =
                json!({ "expected_version": version, "finding": finding, "evidence": null });
            ("reconcile", payload)
        }
        37 => return command(format!("order.{order}.cancel"), json!({ "reason": "r" })),
        _ => {
            let table = (!b.is_multiple_of(5)).then(|| table(about));
            let turn = b.is_multiple_of(5).then_some(turn);
            let payload = json!({
                "table_id": table, "turn_id": turn, "currency": "EUR", "items": [item],
            });
            return command(format!("order.{order}.place"), payload);
        }
    };
    command(format!("table.{}.{verb}", table(about)), payload)
}

fn add_item(cart: &str, id: u8, price: i64) -> Step {
    let payload = json!({
        "item_id": format!("i{id}"), "sku": "s", "name": "n", "unit_price": price, "quantity": 1,
    });
    command(format!("cart.{cart}.add_item"), payload)
}

fn set_product(price: i64) -> Step {
    let payload = json!({ "name": "n", "unit_price": price, "currency": "EUR" });
    command("product.d1.set".to_owned(), payload)
}

fn method(choice: u8) -> &'static str {
    ["card", "wallet", "qr", "cash"][usize::from(choice % 4)]
}

fn command(target: String, payload: Value) -> Step {
    Step::Command { target, payload }
}

#[cfg(test)]
mod tests;
