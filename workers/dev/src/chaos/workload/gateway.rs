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
use serde_json::json;
use tokio::{sync::Mutex, time::sleep};

use crate::chaos::client::ChaosClient;

/// Something that a gateway said: a result of a payment, or cash that is in the till.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub tenant: String,
    pub payment: String,
    pub command_id: String,
    /// None of cash.
    pub transaction: Option<String>,
    pub captured: bool,
    pub amount: i64,
    pub currency: String,
}

/// The gateway of a restaurant.
#[derive(Clone)]
pub struct Gateway {
    client: Arc<Mutex<ChaosClient>>,
    /// Charges that it has not told of yet.
    open: Arc<AtomicUsize>,
}

impl Gateway {
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
        let (told, heard) = tokio::sync::oneshot::channel();
        self.open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            gateway.tell(&payment, &transaction, amount, told).await;
            gateway.open.fetch_sub(1, Ordering::SeqCst);
        });
        async move {
            let _told = heard.await;
        }
    }

    async fn tell(
        &self,
        payment: &str,
        transaction: &str,
        amount: i64,
        told: tokio::sync::oneshot::Sender<()>,
    ) {
        let (delay, words) = {
            let mut client = self.client.lock().await;
            let random = &mut client.random;
            // Some come when the lock is long gone.
            let delay = if random.random_ratio(1, 6) { 6000 } else { 300 };
            let delay = Duration::from_millis(random.random_range(0..delay));
            let other = format!("{transaction}-2");
            let words = match random.random_range(0..12) {
                0 => vec![("failed", transaction.to_owned(), amount, "EUR")],
                1 => vec![
                    ("unknown", transaction.to_owned(), 0, "EUR"),
                    ("captured", transaction.to_owned(), amount, "EUR"),
                ],
                2 => vec![
                    ("captured", transaction.to_owned(), amount, "EUR"),
                    ("failed", transaction.to_owned(), amount, "EUR"),
                ],
                3 => vec![
                    ("captured", transaction.to_owned(), amount, "EUR"),
                    ("captured", transaction.to_owned(), amount, "EUR"),
                    ("captured", other, amount, "EUR"),
                ],
                4 => vec![("captured", transaction.to_owned(), amount + 137, "EUR")],
                5 => vec![("captured", transaction.to_owned(), (amount / 2).max(1), "EUR")],
                6 => vec![("captured", transaction.to_owned(), amount, "USD")],
                7 => vec![
                    ("failed", transaction.to_owned(), amount, "EUR"),
                    ("captured", transaction.to_owned(), amount, "EUR"),
                ],
                _ => vec![("captured", transaction.to_owned(), amount, "EUR")],
            };
            (delay, words)
        };
        sleep(delay).await;
        let mut told = Some(told);
        for (result, transaction, amount, currency) in words {
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
