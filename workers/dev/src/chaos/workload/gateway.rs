//! A payment gateway that is late, wrong, and repeats itself, and the ledger of what it said.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, oneshot},
    time::sleep,
};

use crate::chaos::client::ChaosClient;

/// Something that a gateway said: a result of a payment, or cash that is in the till; or a person in
/// the gateway's place, who settled a payment without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayFact {
    pub tenant: String,
    pub payment: String,
    pub command_id: String,
    /// None of cash.
    pub transaction: Option<String>,
    pub captured: bool,
    pub amount: i64,
    pub currency: String,
}

impl GatewayFact {
    /// Returns what a command tells of money that came in.
    pub fn told_by(tenant: &str, id: &str, key: &str, verb: &str, payload: &Value) -> Option<Self> {
        let (_, payment) = key.split_once('.').filter(|(aggregate, _)| *aggregate == "payment")?;
        let (captured, payload) = match verb {
            "record_result" => (payload["result"] == "captured", payload),
            "confirm_cash" => (true, payload),
            "settle" => (true, payload["settlement"].get("captured")?),
            _ => return None,
        };
        let text = |name: &str| payload[name].as_str().map(str::to_owned);
        Some(Self {
            tenant: tenant.to_owned(),
            payment: payment.to_owned(),
            command_id: id.to_owned(),
            transaction: text("transaction_id"),
            captured,
            amount: payload["amount"].as_i64()?,
            currency: text("currency")?,
        })
    }
}

/// The gateway of a restaurant.
#[derive(Clone)]
pub struct ChaosGateway {
    client: Arc<Mutex<ChaosClient>>,
    /// Charges that it has not told of yet.
    open: Arc<AtomicUsize>,
}

impl ChaosGateway {
    pub fn new(client: ChaosClient) -> Self {
        Self { client: Arc::new(Mutex::new(client)), open: Arc::default() }
    }

    /// Charges a card. The result is told in its time; what is returned waits for the first word.
    pub fn charge(
        &self,
        payment: &str,
        transaction: &str,
        amount: i64,
    ) -> impl Future<Output = ()> + use<> {
        let (gateway, payment) = (self.clone(), payment.to_owned());
        let transaction = transaction.to_owned();
        let (told, heard) = oneshot::channel();
        self.open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            gateway.tell(&payment, &transaction, amount, told).await;
            gateway.open.fetch_sub(1, Ordering::SeqCst);
        });
        async move {
            let _told = heard.await;
        }
    }

    async fn tell(&self, payment: &str, transaction: &str, amount: i64, told: oneshot::Sender<()>) {
        let (delay, words) = {
            let mut client = self.client.lock().await;
            let random = &mut client.random;
            // Some come when the lock is long gone.
            let longest = if random.random_ratio(1, 6) { 6000 } else { 300 };
            let delay = Duration::from_millis(random.random_range(0..longest));
            (delay, words(random.random_range(0..12), transaction, amount))
        };
        sleep(delay).await;
        let mut told = Some(told);
        for Word { result, transaction, amount, currency } in words {
            let said = json!({
                "result": result, "transaction_id": transaction, "amount": amount,
                "currency": currency, "occurred_at": "2026-01-02T03:04:05.678Z",
            });
            let mut client = self.client.lock().await.another();
            client.command(&format!("payment.{payment}"), "record_result", &said).await;
            if let Some(told) = told.take() {
                let _left = told.send(());
            }
        }
    }

    /// Waits until it has told everything.
    pub async fn finish(&self) {
        while self.open.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One thing that a gateway says about a charge.
struct Word {
    result: &'static str,
    transaction: String,
    amount: i64,
    currency: &'static str,
}

/// Returns what it says of a charge, in this order: mostly the truth.
fn words(kind: u32, transaction: &str, amount: i64) -> Vec<Word> {
    let word = |result, amount| Word {
        result,
        transaction: transaction.to_owned(),
        amount,
        currency: "EUR",
    };
    let captured = || word("captured", amount);
    let other = format!("{transaction}-2");
    match kind {
        0 => vec![word("failed", amount)],
        1 => vec![word("unknown", 0), captured()],
        2 => vec![captured(), word("failed", amount)],
        3 => vec![captured(), captured(), Word { transaction: other, ..captured() }],
        4 => vec![word("captured", amount + 137)],
        5 => vec![word("captured", (amount / 2).max(1))],
        6 => vec![Word { currency: "USD", ..captured() }],
        7 => vec![word("failed", amount), captured()],
        _ => vec![captured()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_settles_as_captured_is_said() {
        let told = |verb: &str, payload: Value| {
            let fact = GatewayFact::told_by("t1", "k1", "payment.p1", verb, &payload)?;
            Some((fact.transaction, fact.captured, fact.amount, fact.currency))
        };
        let capture = json!({ "transaction_id": "g1", "amount": 5, "currency": "EUR" });
        let settled = json!({ "settlement": { "captured": capture }, "reason": "r" });
        let expected = Some((Some("g1".to_owned()), true, 5, "EUR".to_owned()));
        assert_eq!(told("settle", settled), expected);
        for other in [json!("failed"), json!({ "refund_task": "p1.1" })] {
            assert_eq!(told("settle", json!({ "settlement": other, "reason": "r" })), None);
        }
    }
}
