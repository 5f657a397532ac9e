//! The services API of NATS (ADR-32), which `nats micro ls`, `info` and `stats` use.
//!
//! Written here because async-nats' own `service` sends every error without a body, and drops the
//! requests that are on their way when an endpoint stops.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, Subscriber};
use brigade_contracts::Timestamp;
use futures::StreamExt;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::task::AbortOnDropHandle;

use super::service_info::{endpoint_metadata, service_metadata};
use crate::{
    infra::{
        Intake, Nats,
        intake::{IntakeKind, IntakeSubscription},
    },
    workers::edge::{endpoint::Endpoint, query::QueryReply},
};

/// A service that can be discovered until it is dropped.
pub struct MicroService {
    intake: Intake,
    endpoints: Vec<Arc<ServiceEndpoint>>,
    _discovery: AbortOnDropHandle<()>,
}

/// An endpoint of the service, with its statistics.
pub struct ServiceEndpoint {
    pub endpoint: Endpoint,
    stats: Mutex<EndpointStats>,
}

#[derive(Default)]
struct EndpointStats {
    requests: u64,
    errors: u64,
    last_error: String,
    processing: Duration,
}

/// The fields that are the same in all responses of a service about itself.
struct ServiceIdentity {
    name: &'static str,
    id: String,
    description: &'static str,
    started: Timestamp,
}

impl MicroService {
    /// Starts to answer discovery requests.
    ///
    /// # Errors
    /// If the connection is closed.
    #[expect(clippy::disallowed_methods, reason = "the time of the start is only reported")]
    pub async fn start(
        nats: &Nats,
        name: &'static str,
        description: &'static str,
        id: String,
    ) -> anyhow::Result<Self> {
        let endpoints: Vec<_> =
            Endpoint::ALL.map(|endpoint| Arc::new(ServiceEndpoint::new(endpoint))).into();
        let started = OffsetDateTime::now_utc().into();
        let identity = ServiceIdentity { name, id, description, started };
        let requests = nats.client.subscribe("$SRV.>").await?;
        let discovery =
            answer_discovery(nats.client.clone(), requests, identity, endpoints.clone());
        let _discovery = AbortOnDropHandle::new(tokio::spawn(discovery));
        Ok(Self { intake: nats.intake(IntakeKind::Requests), endpoints, _discovery })
    }

    /// Subscribes to the requests of each endpoint, shared with all instances of the service.
    /// Returns when the server knows of it.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn listen(
        &self,
        group: &str,
    ) -> anyhow::Result<Vec<(Arc<ServiceEndpoint>, IntakeSubscription)>> {
        let mut listening = Vec::new();
        for endpoint in &self.endpoints {
            let requests = self.intake.subscribe(endpoint.endpoint.subject(), Some(group)).await?;
            listening.push((endpoint.clone(), requests));
        }
        Ok(listening)
    }
}

impl ServiceEndpoint {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, stats: Mutex::default() }
    }

    /// Counts a response, and the time since its query came.
    pub fn count(&self, elapsed: Duration, reply: &QueryReply) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.requests += 1;
        stats.processing += elapsed;
        if let Some(code) = &reply.error {
            stats.errors += 1;
            stats.last_error = format!("{}:{code}", reply.status);
        }
    }

    fn info(&self, group: &str) -> Value {
        json!({
            "name": self.endpoint.as_str(),
            "subject": self.endpoint.subject(),
            "queue_group": group,
            "metadata": endpoint_metadata(self.endpoint),
        })
    }

    fn stats(&self, group: &str) -> Value {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let processing = u64::try_from(stats.processing.as_nanos()).unwrap_or(u64::MAX);
        json!({
            "name": self.endpoint.as_str(),
            "subject": self.endpoint.subject(),
            "queue_group": group,
            "num_requests": stats.requests,
            "num_errors": stats.errors,
            "last_error": stats.last_error,
            "processing_time": processing,
            "average_processing_time": processing.checked_div(stats.requests).unwrap_or(0),
        })
    }
}

/// Answers `$SRV.<verb>[.<name>[.<id>]]`.
async fn answer_discovery(
    client: Client,
    mut requests: Subscriber,
    identity: ServiceIdentity,
    endpoints: Vec<Arc<ServiceEndpoint>>,
) {
    while let Some(request) = requests.next().await {
        let mut tokens = request.subject.split('.').skip(1);
        let verb = tokens.next().unwrap_or_default();
        let for_us = tokens.next().is_none_or(|name| name == identity.name)
            && tokens.next().is_none_or(|id| id == identity.id);
        if let (true, Some(reply), Some(response)) =
            (for_us, request.reply, discovery_response(verb, &identity, &endpoints))
        {
            let _closed = client.publish(reply, response.to_string().into()).await;
        }
    }
}

fn discovery_response(
    verb: &str,
    identity: &ServiceIdentity,
    endpoints: &[Arc<ServiceEndpoint>],
) -> Option<Value> {
    let mut response = json!({
        "type": format!("io.nats.micro.v1.{}_response", verb.to_ascii_lowercase()),
        "name": identity.name,
        "id": identity.id,
        "version": env!("CARGO_PKG_VERSION"),
        "metadata": service_metadata(),
    });
    match verb {
        "PING" => {}
        "INFO" => {
            response["description"] = identity.description.into();
            response["endpoints"] = endpoints.iter().map(|e| e.info(identity.name)).collect();
        }
        "STATS" => {
            response["started"] = identity.started.to_string().into();
            response["endpoints"] = endpoints.iter().map(|e| e.stats(identity.name)).collect();
        }
        _ => return None,
    }
    Some(response)
}
