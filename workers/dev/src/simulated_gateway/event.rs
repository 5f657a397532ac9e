//! Events as Stripe writes and signs them.

use ring::hmac::{self, HMAC_SHA256, Key};
use serde_json::{Value, json};

/// Returns an event.
#[must_use]
pub fn event(id: &str, kind: &str, created: i64, object: &Value) -> Value {
    json!({
        "id": id, "object": "event", "api_version": "2024-06-20", "created": created,
        "type": kind, "livemode": false, "pending_webhooks": 1, "data": { "object": object },
    })
}

/// Returns the signature of a body at a time in seconds of the Unix time, in hex.
#[must_use]
pub fn sign(secret: &str, time: i64, body: &[u8]) -> String {
    let key = Key::new(HMAC_SHA256, secret.as_bytes());
    hex::encode(hmac::sign(&key, &[time.to_string().as_bytes(), b".", body].concat()))
}

/// Returns the value of the header `Stripe-Signature`.
#[must_use]
pub fn signature(secret: &str, time: i64, body: &[u8]) -> String {
    format!("t={time},v1={}", sign(secret, time, body))
}
