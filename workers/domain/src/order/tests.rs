use brigade_contracts::{Command, Outcome, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{BatchState, State, testing};

const STEPS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];

fn now() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

fn send(batch: &mut BatchState, verb: &str, payload: &Value) -> Outcome {
    let subject = format!("req.t1.order.o1.{verb}");
    let headers = [("Command-Id", "k")];
    let command = Command::decode(&subject, headers.into_iter(), payload.to_string().as_bytes());
    batch.decide(&command.unwrap(), now()).unwrap()
}

fn item(id: Option<&str>, price: i64) -> Value {
    json!({"item_id": id, "sku": "s", "name": "n", "unit_price": price, "quantity": 2, "note": null})
}

fn place(items: &[Value]) -> Value {
    json!({"currency": "EUR", "items": items})
}

fn placed() -> BatchState {
    let mut batch = testing::batch([]);
    assert_eq!(send(&mut batch, "place", &place(&[item(None, 100)])).status, 201);
    batch
}

fn the_order(batch: &BatchState) -> &Order {
    batch.changed().next().unwrap().order().unwrap()
}

#[test]
fn an_order_is_placed_with_its_total_and_walks_its_steps() {
    let mut batch = placed();
    assert_eq!(the_order(&batch).total.minor_units(), 200);
    let mut seen = Vec::new();
    for step in STEPS {
        assert_eq!(send(&mut batch, step, &json!({})).status, 200, "{step}");
        seen.push(the_order(&batch).status.as_str());
    }
    assert_eq!(seen, ["accepted", "preparing", "ready", "served", "completed"]);
    let last = batch.events().last().unwrap();
    assert!(last.payload.after.ended);
    assert!(last.payload.after.core.is_some() && last.payload.after.payments.is_some());
    let row: Value = serde_json::from_str(the_order(&batch).active_core().get()).unwrap();
    assert_eq!(
        row["change"],
        json!({"kind": "removed", "fields": ["status"], "reason": "completed"})
    );
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let many: Vec<_> = (0..201).map(|_| item(None, 1)).collect();
    for (payload, status, code) in [
        (place(&[]), 422, "order_empty"),
        (place(&many), 422, "too_large"),
        (place(&[item(Some("a"), 1), item(Some("a"), 1)]), 422, "item_repeated"),
        (place(&[item(None, i64::MAX)]), 422, "amount_overflow"),
        (
            json!({"table_id": "t9", "currency": "EUR", "items": [item(None, 1)]}),
            404,
            "table_not_found",
        ),
    ] {
        let outcome = send(&mut testing::batch([]), "place", &payload);
        assert_eq!((outcome.status, &*outcome.code), (status, code));
        assert_eq!((outcome.version, outcome.effects.len()), (None, 0));
    }
    assert_eq!(send(&mut testing::batch([]), "accept", &json!({})).code, "not_found");
    assert_eq!(send(&mut placed(), "place", &place(&[item(None, 1)])).code, "already_exists");
}

#[test]
fn an_order_with_money_paid_is_not_cancelled() {
    let mut order = the_order(&placed()).clone();
    order.paid = Money::new(1).unwrap();
    let mut batch = testing::batch([State::Order(order)]);
    assert_eq!(send(&mut batch, "cancel", &json!({"reason": "r"})).code, "order_paid");
}

#[test]
fn a_cancelled_order_tells_its_reason_in_the_active_list() {
    let mut batch = placed();
    assert_eq!(send(&mut batch, "cancel", &json!({"reason": "guest left"})).status, 200);
    let row: Value = serde_json::from_str(the_order(&batch).active_core().get()).unwrap();
    assert_eq!(row["change"]["reason"], "guest left");
}

proptest! {
    /// Whatever is asked in whatever order: one step at a time, an end is an end.
    #[test]
    fn only_the_next_step_is_taken(asked in prop::collection::vec(0..6_usize, 0..30)) {
        let mut batch = placed();
        for at in asked {
            let before = the_order(&batch).status;
            let (verb, allowed) = match STEPS.get(at) {
                Some(step) => (*step, before.is_active() && before as usize == at),
                None => ("cancel", before < Status::Served),
            };
            let payload = if verb == "cancel" { json!({"reason": "r"}) } else { json!({}) };
            let outcome = send(&mut batch, verb, &payload);
            prop_assert_eq!(outcome.status == 200, allowed, "{} at {:?}", verb, before);
            if !allowed {
                prop_assert_eq!(&*outcome.code, "illegal_step");
                prop_assert_eq!(the_order(&batch).status, before);
            }
            prop_assert_eq!(batch.events().len() as u64, the_order(&batch).head.version);
        }
    }
}
