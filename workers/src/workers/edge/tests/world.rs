//! Real servers with the schema, the streams and the users of the product.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_nats::{Client, HeaderMap};
use brigade_contracts::{
    Address, Aggregate, Part, Token, WorkerName,
    key::{self, Bucket},
    subject,
};
use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::{
    fleet::Instance,
    infra::{FailPoints, Metrics, connect_options},
    testing::Stack,
};

/// Ends a test that would wait for ever; none comes near it.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct World {
    pub stack: Stack,
    pub metrics: Arc<Metrics>,
    pub fail: FailPoints,
    pub producer: Client,
    _dir: TempDir,
}

/// An answer to a query.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub by_kv: bool,
    pub error: Option<(String, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl World {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stack = Stack::start(dir.path(), "t1").await?;
        let producer = connect(&stack, "t1-producer").await?;
        let metrics = Arc::new(Metrics::new());
        // A unit without the feature `fail-points`, which has no constructor to call.
        let fail = Default::default();
        Ok(Self { stack, metrics, fail, producer, _dir: dir })
    }

    /// Starts a worker and waits until it is ready.
    pub async fn worker(&self, worker: WorkerName) -> Result<Instance> {
        let servers = self.stack.servers(worker);
        let instance = Instance::start(worker, servers, self.metrics.clone(), self.fail.clone());
        until("the worker is ready", async || instance.health.ready().is_ok()).await;
        if worker == WorkerName::CommandHandler {
            // It may be ready before the server knows what it listens to.
            until("commands are decided", async || {
                self.command("nobody", "join", json!({"user": "ada"})).await.is_ok()
            })
            .await;
        }
        Ok(instance)
    }

    pub async fn edge(&self) -> Result<Instance> {
        self.worker(WorkerName::Edge).await
    }

    /// Sends a command and returns its outcome.
    pub async fn command(&self, id: &str, verb: &str, payload: Value) -> Result<Value> {
        let command_id = uuid::Uuid::now_v7().to_string();
        self.command_as(&command_id, id, verb, payload).await
    }

    pub async fn command_as(
        &self,
        command_id: &str,
        id: &str,
        verb: &str,
        payload: Value,
    ) -> Result<Value> {
        let subject = format!("req.{}.{verb}", address(id));
        let headers = [("Command-Id", command_id)];
        let answer = self.request(subject, &headers, payload.to_string().as_bytes()).await?;
        Ok(answer.json())
    }

    /// A team cart with an item: version 2.
    pub async fn cart(&self, id: &str) -> Result<()> {
        let open = json!({"kind": "team", "owner": "ada", "session": null, "currency": "EUR"});
        let opened = self.command(id, "open", open).await?;
        assert_eq!(opened["status"], 201, "{opened}");
        let added = self.add_item(id, "i1").await?;
        assert_eq!(added["version"], 2, "{added}");
        Ok(())
    }

    pub async fn add_item(&self, id: &str, item: &str) -> Result<Value> {
        let item = json!({"item_id": item, "sku": "s", "name": "Crème \"brûlée\" \u{1f36e}",
                          "unit_price": 650, "quantity": 2, "user": null});
        self.command(id, "add_item", item).await
    }

    pub async fn view(&self, id: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.request(subject::query_view(&address(id)), headers, b"").await
    }

    pub async fn outcome(&self, command_id: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let subject = subject::query_outcome(&Token::new("t1")?, &Token::new(command_id)?);
        self.request(subject, headers, b"").await
    }

    pub async fn request(
        &self,
        subject: String,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<Answer> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let payload = Bytes::copy_from_slice(payload);
        let reply = self.producer.request_with_headers(subject, map, payload).await?;
        let headers = reply.headers.unwrap_or_default();
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Ok(Answer {
            status: header("Brigade-Status").context("no status")?.parse()?,
            etag: header("ETag"),
            by_kv: header("Brigade-Confirmed-By").as_deref() == Some("kv"),
            error: header("Nats-Service-Error-Code").zip(header("Nats-Service-Error")),
            body: reply.payload,
        })
    }

    pub async fn sql(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.stack.superuser_url()).await?)
    }

    /// Writes a part into KV as its own writer does.
    pub async fn put(&self, id: &str, part: Part, value: impl Into<Bytes>) -> Result<()> {
        let writer = match part {
            Part::Core => "command-handler",
            _ => "payment-projector",
        };
        let jetstream = async_nats::jetstream::new(connect(&self.stack, writer).await?);
        let subject = Bucket::Views.subject(&key::view(&address(id), part));
        jetstream.publish(subject, value.into()).await?.await?;
        Ok(())
    }

    /// What the events say of the part `payments`, as the projector gets it.
    pub async fn projected(&self, what: &str) -> Result<String> {
        let id = address(what).id;
        let query = "select (payload->'after'->'payments')::text from brigade.events
                     where id = $1 and payload->'after'->'payments' is not null
                     order by version desc limit 1";
        Ok(sqlx::query_scalar(query).bind(id.as_str()).fetch_one(&mut self.sql().await?).await?)
    }

    pub async fn operator(&self) -> Result<Client> {
        connect(&self.stack, "operator").await
    }

    pub fn content_from(&self, from: &str) -> u64 {
        self.metrics.content_from.with_label_values(&[from]).get()
    }
}

/// `c1` is a cart, `order.o1` an order.
pub fn address(what: &str) -> Address {
    let (aggregate, id) = what.split_once('.').unwrap_or(("cart", what));
    Address::new("t1", Aggregate::parse(aggregate).expect("known"), id).expect("tokens")
}

/// Polls a condition.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

async fn connect(stack: &Stack, user: &str) -> Result<Client> {
    let (options, address) = connect_options(&stack.nats_url(user))?;
    Ok(options.connect(address).await?)
}
