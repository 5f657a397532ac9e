//! A guest's phone: sends commands, polls with the ETag it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::{HeaderMap, Request};
use brigade_contracts::{
    Address, Aggregate, Part, Token, header,
    key::{self, Bucket},
    permissions, subject,
};
use serde_json::Value;
use sqlx::PgPool;

use crate::LocalStack;

/// The connections of the story: the restaurant's backend, and an operator who looks on.
#[derive(Clone)]
pub struct DemoClient {
    producer: async_nats::Client,
    operator: async_nats::jetstream::Context,
    pub sql: PgPool,
    tenant: Token,
    /// What the ids of its commands begin with.
    name: String,
    sent: Arc<AtomicU32>,
}

/// The response to a command or a query.
pub struct DemoResponse {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Value,
}

impl DemoClient {
    /// Connects a client whose commands have ids of its own, which begin with the name.
    ///
    /// # Errors
    /// If the stack does not let it in.
    pub async fn connect(stack: &LocalStack, name: &str) -> Result<Self> {
        let tenant = stack.tenants.first().context("a tenant")?.clone();
        let producer = stack.connect(&permissions::producer(&tenant).name).await?;
        let operator = stack.connect(&permissions::operator().name).await?;
        Ok(Self {
            producer,
            operator: async_nats::jetstream::new(operator),
            sql: PgPool::connect(&stack.superuser_url()).await?,
            tenant,
            name: name.to_owned(),
            sent: Arc::default(),
        })
    }

    pub fn cart(&self, id: &str) -> Result<Address> {
        self.address(Aggregate::Cart, id)
    }

    pub fn address(&self, aggregate: Aggregate, id: &str) -> Result<Address> {
        Ok(Address::new(self.tenant.as_str(), aggregate, id)?)
    }

    /// Sends a command and waits for its outcome; a refusal is an error.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn command(
        &self,
        about: &Address,
        verb: &str,
        payload: Value,
    ) -> Result<DemoResponse> {
        let seen = self.attempt(about, verb, payload).await?;
        anyhow::ensure!(seen.status < 300, "{verb} was refused: {}", seen.body);
        Ok(seen)
    }

    /// Sends a command and waits for its outcome, whatever that is.
    ///
    /// # Errors
    /// No answer.
    pub async fn attempt(
        &self,
        about: &Address,
        verb: &str,
        payload: Value,
    ) -> Result<DemoResponse> {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, format!("{}-{sent}", self.name));
        let subject = subject::command(brigade_contracts::Door::Request, about, &Token::new(verb)?);
        self.ask(subject, headers, payload.to_string()).await
    }

    /// Stores a command on the durable door, and waits for nothing but the PubAck.
    ///
    /// # Errors
    /// If the stream does not take it.
    pub async fn store(&self, about: &Address, verb: &str, payload: Value) -> Result<()> {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, format!("{}-{sent}", self.name));
        let subject = subject::command(brigade_contracts::Door::Durable, about, &Token::new(verb)?);
        let js = async_nats::jetstream::new(self.producer.clone());
        js.publish_with_headers(subject, headers, payload.to_string().into()).await?.await?;
        Ok(())
    }

    /// Polls the view with the ETag that the phone has.
    ///
    /// # Errors
    /// No answer.
    pub async fn poll(&self, cart: &Address, etag: Option<&str>) -> Result<DemoResponse> {
        let mut headers = HeaderMap::new();
        if let Some(etag) = etag {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        self.ask(subject::query_view(cart), headers, String::new()).await
    }

    /// The version that the projection has written: the counter that a naive read model would
    /// make its ETag from. 0: nothing is projected yet.
    pub async fn projected(&self, cart: &Address) -> u64 {
        let read = async {
            let bucket = self.operator.get_stream_no_info(Bucket::Views.stream()).await.ok()?;
            let subject = Bucket::Views.subject(&key::view(cart, Part::Payments));
            let message = bucket.get_last_raw_message_by_subject(&subject).await.ok()?;
            serde_json::from_slice::<Value>(&message.payload).ok()?["version"].as_u64()
        };
        read.await.unwrap_or(0)
    }

    /// Waits until the projection has written this version.
    ///
    /// # Errors
    /// After 15 s without it.
    pub async fn until_projected(&self, cart: &Address, version: u64) -> Result<()> {
        let projected = async {
            while self.projected(cart).await < version {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), projected)
            .await
            .with_context(|| format!("{cart} was not projected at version {version}"))
    }

    /// An operator deletes a whole bucket.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delete_bucket(&self, bucket: Bucket) -> Result<()> {
        self.operator.delete_stream(bucket.stream()).await?;
        Ok(())
    }

    async fn ask(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: String,
    ) -> Result<DemoResponse> {
        let request = Request::new().headers(headers).payload(payload.into());
        let reply = self.producer.send_request(subject.clone(), request).await;
        let reply = reply.with_context(|| format!("no answer on {subject}"))?;
        let header = |name: &str| Some(reply.headers.as_ref()?.get(name)?.as_str().to_owned());
        Ok(DemoResponse {
            status: header(header::STATUS).and_then(|s| s.parse().ok()).unwrap_or(0),
            etag: header(header::ETAG),
            body: serde_json::from_slice(&reply.payload).unwrap_or_default(),
        })
    }
}
