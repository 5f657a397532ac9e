//! The ways into the fleet: both doors and queries over NATS, and HTTP.

use std::{net::SocketAddr, sync::PoisonError, time::Duration};

use async_nats::{
    HeaderMap, Request,
    jetstream::{self, stream::LastRawMessageErrorKind},
};
use brigade::infra::unstamp;
use brigade_contracts::EraVersion;
use rand::Rng;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    answers::Reply,
    fleet::{Edges, PreviousRelease},
    history::OperationResult,
};

/// The connections of one client.
#[derive(Clone)]
pub struct Doors {
    /// The connection of the restaurant's backend.
    pub backend: async_nats::Client,
    /// The connection of an operator, who may send the verbs of the system.
    pub operator: async_nats::Client,
    pub http: reqwest::Client,
    pub edges: Edges,
    pub previous: Option<PreviousRelease>,
}

impl Doors {
    /// Returns true if every process of the fleet knows a command, by key, verb and payload.
    #[must_use]
    pub fn know(&self, key: &str, verb: &str, payload: &Value) -> bool {
        let aggregate = key.split('.').next().unwrap_or_default();
        let verb = format!("{aggregate}.{verb}");
        self.previous.as_ref().is_none_or(|previous| (previous.knows)(&verb, payload))
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(
        &self,
        subject: String,
        headers: &[(&str, &str)],
        body: String,
        as_operator: bool,
        patience: Duration,
    ) -> Option<Reply> {
        let client = if as_operator { &self.operator } else { &self.backend };
        let request =
            Request::new().headers(map(headers)).payload(body.into()).timeout(Some(patience));
        // Also where the client waits for a connection.
        let reply = timeout(patience, client.send_request(subject, request)).await.ok()?.ok()?;
        let headers = reply.headers?;
        let status = headers.get("Brigade-Status")?.as_str().parse().ok()?;
        let etag = headers.get("ETag").map(|etag| etag.as_str().to_owned());
        Some(Reply { status, etag, body: reply.payload })
    }

    /// Publishes a command and waits for the acknowledgement of its stream.
    pub async fn store(
        &self,
        tenant: &str,
        what: &str,
        id: &str,
        body: String,
        patience: Duration,
    ) -> OperationResult {
        let stored = async {
            let js = jetstream::new(self.backend.clone());
            let headers = map(&[("Command-Id", id)]);
            let subject = format!("cmd.{tenant}.{what}");
            let sent = js.publish_with_headers(subject, headers, body.into()).await.ok()?;
            sent.await.ok()
        };
        match timeout(patience, stored).await {
            Ok(Some(ack)) => OperationResult::Stored { stream: ack.stream, sequence: ack.sequence },
            _ => OperationResult::Nothing,
        }
    }

    /// Reads a counter of the bucket `versions` from the leader; 0 if it is not there.
    pub async fn counter(&self, tenant: &str, key: &str) -> Option<EraVersion> {
        let read = async {
            let js = jetstream::new(self.operator.clone());
            let stream = js.get_stream_no_info("KV_versions").await.ok()?;
            let subject = format!("$KV.versions.{tenant}.{key}");
            let last = stream.get_last_raw_message_by_subject(&subject).await;
            match last {
                Ok(message) => {
                    let (era, value) = unstamp(&message.payload);
                    let value: Value = serde_json::from_slice(&value).ok()?;
                    Some(era.at(value["version"].as_u64()?))
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    Some(EraVersion::default())
                }
                Err(_) => None,
            }
        };
        timeout(Duration::from_secs(1), read).await.ok()?
    }

    /// Sends a command over HTTP, to any edge.
    pub async fn post(
        &self,
        tenant: &str,
        what: &str,
        id: &str,
        body: String,
        patience: Duration,
    ) -> Option<Reply> {
        let url =
            format!("http://{}/v1/{tenant}/{}", any_edge(&self.edges)?, what.replace('.', "/"));
        let request = self.http.post(url).timeout(patience).header("Idempotency-Key", id);
        of_http(request.header("Content-Type", "application/json").body(body)).await
    }

    /// Gets something over HTTP, from any edge.
    pub async fn get(
        &self,
        tenant: &str,
        path: &str,
        etag: Option<&str>,
        patience: Duration,
    ) -> Option<Reply> {
        let url = format!("http://{}/v1/{tenant}/{path}", any_edge(&self.edges)?);
        let request = self.http.get(url).timeout(patience);
        of_http(etag.into_iter().fold(request, |with, etag| with.header("If-None-Match", etag)))
            .await
    }
}

async fn of_http(request: reqwest::RequestBuilder) -> Option<Reply> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let etag = response.headers().get("ETag").and_then(|etag| etag.to_str().ok());
    Some(Reply { status, etag: etag.map(str::to_owned), body: response.bytes().await.ok()? })
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    map
}

/// Returns an edge that is up, as far as is known.
pub fn any_edge(edges: &Edges) -> Option<SocketAddr> {
    let edges = edges.lock().unwrap_or_else(PoisonError::into_inner);
    (!edges.is_empty()).then(|| edges[rand::rng().random_range(0..edges.len())])
}
