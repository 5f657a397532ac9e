use std::sync::Arc;

use brigade_contracts::WorkerName;
use prometheus::IntCounterVec;

use crate::infra::{
    Health, Metrics,
    metrics::{MetricGroup, MetricsRegistry},
};

/// The metrics of the connections to NATS.
pub struct ConnectionMetrics {
    pub violations: IntCounterVec,
    pub replies_refused: IntCounterVec,
}

impl MetricGroup for ConnectionMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            violations: registry.counters(
                "brigade_permission_violations_total",
                "Refusals by the server of what a worker's permissions do not cover; stays 0",
                &["worker"],
            ),
            replies_refused: registry.counters(
                "brigade_replies_refused_total",
                "Answers that the server did not let go where their senders wanted them",
                &["worker"],
            ),
        };
        for worker in WorkerName::ALL {
            metrics.violations.with_label_values(&[worker.as_str()]);
            metrics.replies_refused.with_label_values(&[worker.as_str()]);
        }
        metrics
    }
}

/// Reports the errors that nats-server sends on a worker's connections.
#[derive(Clone)]
pub struct ServerErrors {
    health: Health,
    metrics: Arc<ConnectionMetrics>,
    user: String,
}

impl ServerErrors {
    #[must_use]
    pub fn new(health: &Health, metrics: &Metrics, user: &str) -> Self {
        Self { health: health.clone(), metrics: metrics.group(), user: user.to_owned() }
    }

    /// Counts and logs an error; one about the worker's own permissions makes it unready.
    pub fn report(&self, text: &str) {
        let worker = self.health.worker.as_str();
        let lower = text.to_ascii_lowercase();
        if !lower.contains("permissions violation") {
            tracing::debug!(worker, text, "nats-server refused something");
        } else if ["_inbox.", "_r_."].iter().any(|of| lower.contains(&format!("publish to \"{of}")))
        {
            // The reply subject is the sender's choice, and so is that it gets no response.
            self.metrics.replies_refused.with_label_values(&[worker]).inc();
            tracing::warn!(worker, text, "nats-server refused the reply subject of a sender");
        } else {
            self.violation(text);
        }
    }

    /// Makes the worker unready, and names its user where that is another worker's.
    pub fn violation(&self, text: &str) {
        let (worker, user) = (self.health.worker.as_str(), self.user.as_str());
        self.metrics.violations.with_label_values(&[worker]).inc();
        if user == worker {
            self.health.violation(text);
        } else {
            self.health.violation(&format!("the NATS user {user} is not that of {worker}: {text}"));
        }
    }
}
