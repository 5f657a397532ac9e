//! The services API of NATS (ADR-32): what `nats micro ls`, `info` and `stats` show.
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

use super::{reply::Reply, told};
use crate::{
    infra::{
        Intake, Nats,
        intake::{IntakeKind, IntakeSubscription},
    },
    runtime::Delivery,
};

/// A service that shows itself until it is dropped.
pub struct Service {
    intake: Intake,
    endpoints: Vec<Arc<Endpoint>>,
    _told: AbortOnDropHandle<()>,
}

/// One subject that the service answers, with its statistics.
pub struct Endpoint {
    pub name: &'static str,
    subject: &'static str,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    requests: u64,
    errors: u64,
    last_error: String,
    processing: Duration,
}

/// What is the same in all that a service says of itself.
struct Identity {
    name: &'static str,
    id: String,
    description: &'static str,
    started: Timestamp,
}

impl Service {
    /// # Errors
    /// Where the connection is closed.
    #[expect(clippy::disallowed_methods, reason = "when it started is only told, not used")]
    pub async fn start(
        nats: &Nats,
        name: &'static str,
        description: &'static str,
        id: String,
        endpoints: &[(&'static str, &'static str)],
    ) -> anyhow::Result<Self> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|&(name, subject)| Arc::new(Endpoint::new(name, subject)))
            .collect();
        let started = OffsetDateTime::now_utc().into();
        let identity = Identity { name, id, description, started };
        let asked = nats.client.subscribe("$SRV.>").await?;
        let told = tell(nats.client.clone(), asked, identity, endpoints.clone());
        let _told = AbortOnDropHandle::new(tokio::spawn(told));
        Ok(Self { intake: nats.intake(IntakeKind::Requests), endpoints, _told })
    }

    /// Takes requests of each endpoint, shared with all instances of the service. Returns when the
    /// server knows of it.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn listen(
        &self,
        group: &str,
    ) -> anyhow::Result<Vec<(Arc<Endpoint>, IntakeSubscription)>> {
        let mut listening = Vec::new();
        for endpoint in &self.endpoints {
            let requests = self.intake.subscribe(endpoint.subject, Some(group)).await?;
            listening.push((endpoint.clone(), requests));
        }
        Ok(listening)
    }
}

impl Endpoint {
    fn new(name: &'static str, subject: &'static str) -> Self {
        Self { name, subject, counted: Mutex::default() }
    }

    /// Counts an answer that was given.
    pub fn count(&self, query: &Delivery, reply: &Reply) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.requests += 1;
        counted.processing += query.received.elapsed();
        if let Some(code) = &reply.error {
            counted.errors += 1;
            counted.last_error = format!("{}:{code}", reply.status);
        }
    }

    fn info(&self, group: &str) -> Value {
        json!({
            "name": self.name,
            "subject": self.subject,
            "queue_group": group,
            "metadata": told::of_endpoint(self.name),
        })
    }

    fn stats(&self, group: &str) -> Value {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let processing = u64::try_from(counted.processing.as_nanos()).unwrap_or(u64::MAX);
        json!({
            "name": self.name,
            "subject": self.subject,
            "queue_group": group,
            "num_requests": counted.requests,
            "num_errors": counted.errors,
            "last_error": counted.last_error,
            "processing_time": processing,
            "average_processing_time": processing.checked_div(counted.requests).unwrap_or(0),
        })
    }
}

/// Answers `$SRV.<verb>[.<name>[.<id>]]`.
async fn tell(
    client: Client,
    mut asked: Subscriber,
    identity: Identity,
    endpoints: Vec<Arc<Endpoint>>,
) {
    while let Some(asked) = asked.next().await {
        let mut tokens = asked.subject.split('.').skip(1);
        let verb = tokens.next().unwrap_or_default();
        let for_us = tokens.next().is_none_or(|name| name == identity.name)
            && tokens.next().is_none_or(|id| id == identity.id);
        if let (true, Some(reply), Some(answer)) =
            (for_us, asked.reply, answer(verb, &identity, &endpoints))
        {
            let _closed = client.publish(reply, answer.to_string().into()).await;
        }
    }
}

fn answer(verb: &str, identity: &Identity, endpoints: &[Arc<Endpoint>]) -> Option<Value> {
    let mut answer = json!({
        "type": format!("io.nats.micro.v1.{}_response", verb.to_ascii_lowercase()),
        "name": identity.name,
        "id": identity.id,
        "version": env!("CARGO_PKG_VERSION"),
        "metadata": told::of_service(),
    });
    match verb {
        "PING" => {}
        "INFO" => {
            answer["description"] = identity.description.into();
            answer["endpoints"] = endpoints.iter().map(|e| e.info(identity.name)).collect();
        }
        "STATS" => {
            answer["started"] = identity.started.to_string().into();
            answer["endpoints"] = endpoints.iter().map(|e| e.stats(identity.name)).collect();
        }
        _ => return None,
    }
    Some(answer)
}
