//! A payment gateway that tells of payments over HTTP, as Stripe does.

use brigade::{
    operations::gateways::{add, parse},
    store::gateway_secrets::GatewayFormat,
};
use brigade_contracts::Token;
use brigade_dev::simulated_gateway::{event, signature};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{HttpClient, HttpResponse, TestFleet};

/// A gateway of the restaurant `t1`, which is registered there.
pub struct Gateway {
    pub http: HttpClient,
    pub name: String,
    pub secret: String,
}

impl Gateway {
    /// Registers a gateway.
    ///
    /// # Panics
    /// Where that is refused.
    pub async fn register(fleet: &TestFleet, name: &str, secret: &str) -> Self {
        let (tenant, gateway) = (Token::new("t1").expect("a token"), parse(name).expect("a name"));
        let stripe = GatewayFormat::Stripe;
        add(&fleet.sql, &tenant, &gateway, stripe, secret, "a test").await.expect("registered");
        let http = fleet.http_client().await;
        Self { http, name: name.to_owned(), secret: secret.to_owned() }
    }

    /// Returns the same gateway once more.
    #[must_use]
    pub fn again(&self) -> Self {
        let Self { http, name, secret } = self;
        Self { http: http.clone(), name: name.clone(), secret: secret.clone() }
    }

    /// Sends a body with this signature.
    pub async fn send(&self, signature: Option<&str>, body: &[u8]) -> HttpResponse {
        let request = self.http.request(Method::POST, &format!("gateways/{}", self.name));
        let request = request.header("Content-Type", "application/json").body(body.to_vec());
        let request = match signature {
            Some(signature) => request.header("Stripe-Signature", signature),
            None => request,
        };
        self.http.send(request).await
    }

    /// Sends an event, signed now.
    pub async fn tell(&self, body: &[u8]) -> HttpResponse {
        self.send(Some(&signature(&self.secret, now(), body)), body).await
    }
}

/// Returns the Unix time in seconds, as the gateway's clock has it.
#[expect(clippy::disallowed_methods, reason = "a gateway has a clock of its own")]
#[must_use]
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Returns an event about the payment intent of a payment.
#[must_use]
pub fn intent(id: &str, kind: &str, payment: &str, transaction: &str, amount: i64) -> Vec<u8> {
    let object = json!({
        "id": transaction, "object": "payment_intent", "amount": amount,
        "amount_received": amount, "currency": "eur", "metadata": { "brigade_payment": payment },
    });
    bytes(id, &format!("payment_intent.{kind}"), &object)
}

/// Returns an event about a charge of which so much has gone back.
#[must_use]
pub fn refunded(id: &str, payment: &str, transaction: &str, amount: i64) -> Vec<u8> {
    let object = json!({
        "id": "ch_1", "object": "charge", "amount": 1000, "amount_refunded": amount,
        "currency": "eur", "payment_intent": transaction,
        "metadata": { "brigade_payment": payment },
    });
    bytes(id, "charge.refunded", &object)
}

/// Returns an event as it is sent. The same event has the same bytes.
#[must_use]
pub fn bytes(id: &str, kind: &str, object: &Value) -> Vec<u8> {
    event(id, kind, 1_790_000_000, object).to_string().into_bytes()
}
