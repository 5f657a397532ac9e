//! The payment intents of a gateway, and what becomes of them.

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

/// The payment intents, by id.
#[derive(Default)]
pub(super) struct Books {
    intents: HashMap<String, SimulatedIntent>,
}

struct SimulatedIntent {
    tenant: String,
    payment: String,
    amount: i64,
    currency: String,
    status: &'static str,
    refunded: i64,
}

/// A change of a payment intent.
pub(super) struct Happened {
    pub tenant: String,
    /// The kind of the event, and what it is about.
    pub kind: &'static str,
    pub object: Value,
    pub intent: Value,
}

impl Books {
    /// Makes a payment intent.
    ///
    /// # Errors
    /// If something is missing.
    pub fn create(&mut self, asked: &Value) -> Result<Value, String> {
        let text = |name: &str| {
            let text = asked[name].as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(|| format!("{name}: expected a text"))
        };
        let amount = asked["amount"].as_i64().filter(|amount| *amount > 0);
        let intent = SimulatedIntent {
            tenant: text("tenant")?,
            payment: text("payment")?,
            amount: amount.ok_or("amount: expected a whole number above 0")?,
            currency: text("currency")?.to_ascii_lowercase(),
            status: "requires_payment_method",
            refunded: 0,
        };
        let id = format!("pi_{}", Uuid::now_v7().simple());
        let shown = intent.object(&id);
        self.intents.insert(id, intent);
        Ok(shown)
    }

    /// Returns a payment intent.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, id: &str) -> Result<Value, String> {
        self.intents.get(id).map(|intent| intent.object(id)).ok_or_else(|| unknown(id))
    }

    /// Lets something happen to a payment intent.
    ///
    /// # Errors
    /// If there is none, or that cannot happen to it.
    pub fn happen(&mut self, id: &str, what: &str, asked: &Value) -> Result<Happened, String> {
        let intent = self.intents.get_mut(id).ok_or_else(|| unknown(id))?;
        let (kind, status) = match (what, intent.status) {
            ("succeed", "requires_payment_method") => ("payment_intent.succeeded", "succeeded"),
            ("fail", "requires_payment_method") => {
                ("payment_intent.payment_failed", "requires_payment_method")
            }
            ("cancel", "requires_payment_method") => ("payment_intent.canceled", "canceled"),
            ("refund", "succeeded") => {
                let left = intent.amount - intent.refunded;
                let amount = asked["amount"].as_i64().unwrap_or(left);
                if amount <= 0 || amount > left {
                    return Err(format!("amount: at most {left} can go back"));
                }
                intent.refunded += amount;
                ("charge.refunded", "succeeded")
            }
            (what, status) => return Err(format!("a payment intent that is {status}: no {what}")),
        };
        intent.status = status;
        let shown = intent.object(id);
        let object = if kind == "charge.refunded" { intent.charge(id) } else { shown.clone() };
        Ok(Happened { tenant: intent.tenant.clone(), kind, object, intent: shown })
    }
}

impl SimulatedIntent {
    fn object(&self, id: &str) -> Value {
        let received = if self.status == "succeeded" { self.amount } else { 0 };
        json!({
            "id": id, "object": "payment_intent", "amount": self.amount,
            "amount_received": received, "currency": self.currency, "status": self.status,
            "metadata": { "brigade_payment": self.payment },
        })
    }

    fn charge(&self, id: &str) -> Value {
        json!({
            "id": id.replacen("pi_", "ch_", 1), "object": "charge", "amount": self.amount,
            "amount_refunded": self.refunded, "currency": self.currency, "payment_intent": id,
            "refunded": self.refunded == self.amount,
            "metadata": { "brigade_payment": self.payment },
        })
    }
}

fn unknown(id: &str) -> String {
    format!("there is no payment intent {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_told_and_nothing_impossible_happens() {
        let mut books = Books::default();
        let asked = json!({"tenant": "t1", "payment": "p1", "amount": 1000, "currency": "EUR"});
        let id = books.create(&asked).unwrap()["id"].as_str().unwrap().to_owned();
        let mut happen = |what: &str, asked: Value| {
            let happened = books.happen(&id, what, &asked);
            happened.map(|Happened { kind, object, .. }| (kind, object))
        };
        assert!(happen("refund", json!(null)).is_err());
        assert_eq!(happen("fail", json!(null)).unwrap().0, "payment_intent.payment_failed");
        let (kind, object) = happen("succeed", json!(null)).unwrap();
        assert_eq!((kind, &object["amount_received"]), ("payment_intent.succeeded", &json!(1000)));
        assert!(happen("succeed", json!(null)).is_err());
        let (kind, charge) = happen("refund", json!({"amount": 400})).unwrap();
        assert_eq!((kind, &charge["amount_refunded"]), ("charge.refunded", &json!(400)));
        assert_eq!(happen("refund", json!(null)).unwrap().1["amount_refunded"], 1000);
        assert!(happen("refund", json!(null)).is_err());
        assert!(books.create(&json!({"tenant": "t1"})).is_err());
        assert!(books.get("pi_none").is_err());
    }
}
