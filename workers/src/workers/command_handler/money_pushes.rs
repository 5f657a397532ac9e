//! Pushes about money that waits for a person: a refund task that appears, changes or is done, and
//! a payment whose result becomes unknown, or is known at last.
//!
//! They are sent once, after the commit. One that is missed (this process dies, nobody listens) does
//! not come again: events tell the same for certain, and so do lists and metrics.

use brigade_contracts::subject;
use brigade_domain::{BatchState, Payment};
use bytes::Bytes;
use serde_json::{Value, json};

/// A message to whoever may see the money of a tenant.
#[derive(Debug)]
pub struct MoneyPush {
    pub subject: String,
    pub payload: Bytes,
}

/// Returns what a batch has to tell.
#[must_use]
pub fn of(state: &BatchState) -> Vec<MoneyPush> {
    let tasks = state.refund_tasks().map(|(tenant, task)| {
        MoneyPush::new(subject::live_refund_task(tenant, &task.payment_id), &json!(task))
    });
    let payments = state.doubted().map(|payment| {
        let address = &payment.head.address;
        MoneyPush::new(subject::live_unknown_payment(address), &of_payment(payment))
    });
    tasks.chain(payments).collect()
}

fn of_payment(payment: &Payment) -> Value {
    let Payment { head, status, amount, currency, transaction_id, .. } = payment;
    json!({
        "payment": head.address.id, "version": head.version, "at": head.at, "status": status,
        "amount": amount, "currency": currency, "transaction_id": transaction_id,
    })
}

impl MoneyPush {
    fn new(subject: String, payload: &Value) -> Self {
        Self { subject, payload: payload.to_string().into() }
    }
}
