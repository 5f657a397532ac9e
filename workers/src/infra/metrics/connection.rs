use brigade_contracts::WorkerName;
use prometheus::IntCounterVec;

use super::{MetricGroup, MetricsRegistry};

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
        for worker in WorkerName::ALL.map(WorkerName::as_str) {
            metrics.violations.with_label_values(&[worker]);
            metrics.replies_refused.with_label_values(&[worker]);
        }
        metrics
    }
}
