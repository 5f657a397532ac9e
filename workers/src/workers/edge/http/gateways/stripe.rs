//! Events of Stripe (<https://docs.stripe.com/api/events>), of which four are understood:
//!
//! | event | result |
//! |---|---|
//! | `payment_intent.succeeded` | captured |
//! | `payment_intent.payment_failed`, `payment_intent.canceled` | failed |
//! | `charge.refunded` | refunded, with all that has gone back of the charge so far |
//!
//! The payment that an event is about stands in the metadata of the payment intent, which the
//! restaurant's program makes for one payment: `brigade_payment`. Stripe copies it to the charge. The
//! transaction is the payment intent. Events of other kinds, and those without that name, are about
//! nothing of ours.

use brigade_contracts::{
    Currency, Money, Refusal, Timestamp, Token,
    payment::{GatewayResult, RecordResult},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;

use super::GatewayMessage;

/// The header of the signature.
pub(super) const SIGNATURE: &str = "Stripe-Signature";
/// Where the payment intent or the charge stands in an event.
const OBJECT: &str = "data.object.";

#[derive(Deserialize)]
struct Event {
    id: Token,
    #[serde(rename = "type")]
    kind: String,
    /// In seconds of the Unix time.
    created: i64,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Value,
}

#[derive(Deserialize)]
struct Intent {
    id: Token,
    amount: Money,
    amount_received: Option<Money>,
    currency: String,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Charge {
    id: Token,
    payment_intent: Option<Token>,
    amount_refunded: Money,
    currency: String,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    brigade_payment: Option<Token>,
}

/// The result of a payment, as an event tells it.
struct Told {
    metadata: Option<Metadata>,
    result: GatewayResult,
    transaction_id: Token,
    amount: Money,
    currency: String,
}

/// Reads an event.
///
/// # Errors
/// 400 for what is no event of Stripe, 422 for an impossible one.
pub(super) fn read(body: &[u8]) -> Result<GatewayMessage, Refusal> {
    let event: Event = parse(body, "")?;
    let object = event.data.object.to_string();
    let object = object.as_bytes();
    let told = match event.kind.as_str() {
        "payment_intent.succeeded" => {
            Some(of_intent(parse(object, OBJECT)?, GatewayResult::Captured))
        }
        "payment_intent.payment_failed" | "payment_intent.canceled" => {
            Some(of_intent(parse(object, OBJECT)?, GatewayResult::Failed))
        }
        "charge.refunded" => Some(of_charge(parse(object, OBJECT)?)),
        _ => None,
    };
    let payment = told.as_ref().and_then(|told| told.metadata.as_ref()?.brigade_payment.clone());
    let result = match (told, payment) {
        (Some(told), Some(payment)) => Some((payment, told.result(event.created)?)),
        _ => None,
    };
    Ok(GatewayMessage { id: event.id, result })
}

fn of_intent(intent: Intent, result: GatewayResult) -> Told {
    let Intent { id, amount, amount_received, currency, metadata } = intent;
    let received = amount_received.filter(|_| result == GatewayResult::Captured);
    let amount = received.unwrap_or(amount);
    Told { metadata, result, transaction_id: id, amount, currency }
}

fn of_charge(charge: Charge) -> Told {
    let Charge { id, payment_intent, amount_refunded, currency, metadata } = charge;
    Told {
        metadata,
        result: GatewayResult::Refunded,
        transaction_id: payment_intent.unwrap_or(id),
        amount: amount_refunded,
        currency,
    }
}

impl Told {
    fn result(self, created: i64) -> Result<RecordResult, Refusal> {
        let Self { result, transaction_id, amount, currency, .. } = self;
        let currency = Currency::new(&currency.to_ascii_uppercase())?;
        let occurred_at = OffsetDateTime::from_unix_timestamp(created)
            .map_err(|_| Refusal::new(400, "malformed", "created: expected seconds"))?;
        Ok(RecordResult {
            result,
            transaction_id,
            amount: in_minor_unit(amount, currency)?,
            currency,
            occurred_at: Timestamp::from(occurred_at),
        })
    }
}

/// Returns an amount of Stripe in the minor unit of ISO 4217. The two differ in these currencies
/// (<https://docs.stripe.com/currencies#special-cases>).
fn in_minor_unit(amount: Money, currency: Currency) -> Result<Money, Refusal> {
    let told = amount.minor_units();
    match currency.as_str() {
        "ISK" | "UGX" if told % 100 != 0 => {
            let message = "amounts in this currency are whole ones, told with two decimals";
            Err(Refusal::new(400, "malformed", message))
        }
        "ISK" | "UGX" => Money::new(told / 100),
        // Ariary are told without decimals, and have two.
        "MGA" => Money::new(told.saturating_mul(100))?.bounded(),
        _ => Ok(amount),
    }
}

/// Reads what stands in an event behind a path.
fn parse<T: DeserializeOwned>(text: &[u8], path: &str) -> Result<T, Refusal> {
    serde_json::from_slice(text).map_err(|error| {
        let field = Refusal::of_payload::<T>(text, &error).param;
        let refusal = Refusal::new(400, "malformed", "the body is no event of this gateway");
        let Some(field) = field else { return refusal };
        let field = format!("{path}{field}");
        let message = format!("{field} is missing in the event, or not what it should be");
        Refusal { message: message.into(), ..refusal }.of_param(field)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, object: Value) -> Vec<u8> {
        let event = json!({
            "id": "evt_1", "object": "event", "api_version": "2024-06-20", "created": 1_790_000_000,
            "data": { "object": object }, "livemode": false, "pending_webhooks": 1,
            "request": { "id": "req_1", "idempotency_key": null }, "type": kind,
        });
        event.to_string().into_bytes()
    }

    fn intent() -> Value {
        json!({
            "id": "pi_1", "object": "payment_intent", "amount": 1250, "amount_received": 1200,
            "currency": "eur", "metadata": { "brigade_payment": "p1", "table": "5" },
            "status": "succeeded", "last_payment_error": null,
        })
    }

    fn charge() -> Value {
        json!({
            "id": "ch_1", "object": "charge", "amount": 1250, "amount_refunded": 400,
            "currency": "usd", "payment_intent": "pi_1", "refunded": false,
            "metadata": { "brigade_payment": "p1" },
        })
    }

    fn without(mut object: Value, field: &str) -> Value {
        object.as_object_mut().expect("an object").remove(field);
        object
    }

    fn told(body: &[u8]) -> Option<(String, GatewayResult, String, i64, &'static str)> {
        let message = read(body).expect("an event");
        assert_eq!(message.id.as_str(), "evt_1");
        let (payment, result) = message.result?;
        assert_eq!(result.occurred_at.to_string(), "2026-09-21T14:13:20.000Z");
        let RecordResult { result, transaction_id, amount, currency, .. } = result;
        let of = (payment.to_string(), transaction_id.to_string());
        Some((of.0, result, of.1, amount.minor_units(), currency.as_str()))
    }

    #[test]
    fn each_event_says_what_became_of_its_payment() {
        use GatewayResult::{Captured, Failed, Refunded};
        let expected = |result, amount, currency| {
            Some(("p1".to_owned(), result, "pi_1".to_owned(), amount, currency))
        };
        let cases = [
            ("payment_intent.succeeded", intent(), expected(Captured, 1200, "EUR")),
            ("payment_intent.payment_failed", intent(), expected(Failed, 1250, "EUR")),
            ("payment_intent.canceled", intent(), expected(Failed, 1250, "EUR")),
            ("charge.refunded", charge(), expected(Refunded, 400, "USD")),
            ("payment_intent.created", intent(), None),
            ("payment_intent.processing", intent(), None),
            ("charge.succeeded", charge(), None),
            ("invoice.paid", json!({ "id": 7 }), None),
            ("payment_intent.succeeded", without(intent(), "metadata"), None),
            ("charge.refunded", without(charge(), "metadata"), None),
        ];
        for (kind, object, expected) in cases {
            assert_eq!(told(&event(kind, object)), expected, "{kind}");
        }
        let old = told(&event("charge.refunded", without(charge(), "payment_intent")));
        assert_eq!(old.map(|told| told.2), Some("ch_1".to_owned()));
        let asked = told(&event("payment_intent.succeeded", without(intent(), "amount_received")));
        assert_eq!(asked.map(|told| told.3), Some(1250));
    }

    #[test]
    fn amounts_are_in_the_minor_unit_though_stripe_counts_otherwise() {
        let of = |currency: &str, amount: i64| {
            let mut object = intent();
            (object["currency"], object["amount_received"]) = (json!(currency), json!(amount));
            read(&event("payment_intent.succeeded", object))
                .map(|message| message.result.expect("a payment").1.amount.minor_units())
        };
        let cases =
            [("isk", 500_000, 5000), ("ugx", 700, 7), ("jpy", 500, 500), ("kwd", 5120, 5120)];
        for (currency, told, expected) in cases {
            assert_eq!(of(currency, told).ok(), Some(expected), "{currency}");
        }
        assert_eq!(of("mga", 5000).ok(), Some(500_000));
        assert_eq!(of("isk", 500_050).expect_err("refused").code, "malformed");
        assert_eq!(of("mga", i64::MAX).expect_err("refused").code, "amount_overflow");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let succeeded = |field: &str, value: Value| {
            let mut object = intent();
            object[field] = value;
            event("payment_intent.succeeded", object)
        };
        let code = |body: &[u8]| read(body).expect_err("refused").code.into_owned();
        for body in [
            b"".to_vec(),
            b"[]".to_vec(),
            b"{}".to_vec(),
            b"\xff".to_vec(),
            succeeded("id", json!("pi 1")),
            succeeded("amount_received", json!(-1)),
            succeeded("amount_received", json!(1.5)),
            succeeded("metadata", json!({ "brigade_payment": "a.b" })),
        ] {
            assert_eq!(code(&body), "malformed", "{}", String::from_utf8_lossy(&body));
        }
        for (body, field) in [
            (b"".to_vec(), None),
            (b"{}".to_vec(), Some("id")),
            (br#"{"id":"e","type":"x","created":1,"data":7}"#.to_vec(), Some("data")),
            (event("charge.refunded", json!({})), Some("data.object.id")),
            (event("charge.refunded", json!([])), None),
            (succeeded("amount_received", json!(1.5)), Some("data.object.amount_received")),
            (
                succeeded("metadata", json!({ "brigade_payment": "a.b" })),
                Some("data.object.metadata.brigade_payment"),
            ),
        ] {
            let refusal = read(&body).expect_err("refused");
            assert_eq!(refusal.param.as_deref(), field, "{}", String::from_utf8_lossy(&body));
            for leaked in ["line", "column", "`", "expected", "invalid type"] {
                assert!(!refusal.message.contains(leaked), "{}", refusal.message);
            }
        }
        assert_eq!(code(&succeeded("currency", json!("xyz"))), "unknown_currency");
    }
}
