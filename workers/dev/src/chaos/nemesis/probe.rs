//! The probe: commands of some carts of its own, until they are decided, seen and projected.

use std::time::Duration;

use anyhow::Result;
use async_nats::{HeaderMap, Request, jetstream};
use brigade_contracts::{Token, permissions};
use futures::future::join_all;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::chaos::fleet::{ChaosFleet, TENANTS, connect};

/// A fleet that has not recovered by then does not.
const LIMIT: Duration = Duration::from_secs(60);
/// So many carts at once, since the work on them is divided among processes.
const CARTS: u32 = 4;
const ONE_TRY: Duration = Duration::from_secs(5);
/// The time after which it asks once more.
const AGAIN: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(10);

/// The seconds that the fleet needed.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// Until a command was decided and a query saw it.
    pub visible: f64,
    /// Until the parts of both its writers stood in KV as well.
    pub projected: f64,
}

pub struct Prober {
    backend: async_nats::Client,
    operator: jetstream::Context,
    sent: u32,
}

impl Prober {
    /// # Errors
    /// If nats-server does not let it in.
    pub async fn connect(fleet: &ChaosFleet) -> Result<Self> {
        let user = permissions::producer(&Token::new(TENANTS[0])?).name;
        let backend = connect(&fleet.stack, &user).await?;
        Ok(Self { backend, operator: fleet.operator.clone(), sent: 0 })
    }

    /// Waits until the fleet has recovered; `None` if it does not.
    pub async fn recovered(&mut self) -> Option<Recovery> {
        let began = Instant::now();
        self.sent += CARTS;
        let carts: Vec<_> = (0..CARTS).map(|n| format!("probe-{}", self.sent - n)).collect();
        let probed = async {
            join_all(carts.iter().map(|cart| self.until_seen(cart))).await;
            let visible = began.elapsed().as_secs_f64();
            join_all(carts.iter().map(|cart| self.until_projected(cart))).await;
            Recovery { visible, projected: began.elapsed().as_secs_f64() }
        };
        timeout(LIMIT, probed).await.ok()
    }

    async fn until_seen(&self, cart: &str) {
        let open = format!(r#"{{"kind":"menu","owner":"{cart}","currency":"EUR"}}"#);
        let subject = format!("req.{}.cart.{cart}.open", TENANTS[0]);
        self.until_answered(201, &subject, &open, cart).await;
        let subject = format!("q.{}.view.cart.{cart}", TENANTS[0]);
        self.until_answered(200, &subject, "", cart).await;
    }

    /// Asks again and again, without giving up those that were asked before: what a killed process
    /// had in hand is never answered, and on a busy machine an answer takes its time.
    async fn until_answered(&self, status: u16, subject: &str, body: &str, id: &str) {
        let mut asked = JoinSet::new();
        loop {
            let (client, subject) = (self.backend.clone(), subject.to_owned());
            let (body, id) = (body.to_owned(), id.to_owned());
            asked.spawn(async move { ask(&client, subject, body, &id).await });
            let next = Instant::now() + AGAIN;
            while let Ok(Some(answered)) = timeout_at(next, asked.join_next()).await {
                if answered.is_ok_and(|answer| answer == Some(status)) {
                    return;
                }
            }
            sleep_until(next).await;
        }
    }

    async fn until_projected(&self, cart: &str) {
        for part in ["core", "payments"] {
            let subject = format!("$KV.views.{}.cart.{cart}.{part}", TENANTS[0]);
            let is_there = async || {
                let stream = self.operator.get_stream_no_info("KV_views").await.ok()?;
                let read = stream.get_last_raw_message_by_subject(&subject);
                timeout(ONE_TRY, read).await.ok()?.ok()
            };
            while is_there().await.is_none() {
                sleep(PAUSE).await;
            }
        }
    }
}

async fn ask(client: &async_nats::Client, subject: String, body: String, id: &str) -> Option<u16> {
    let mut headers = HeaderMap::new();
    headers.insert("Command-Id", id);
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(ONE_TRY));
    let asked = timeout(ONE_TRY, client.send_request(subject, request));
    let reply = asked.await.ok()?.ok()?;
    reply.headers?.get("Brigade-Status")?.as_str().parse().ok()
}
