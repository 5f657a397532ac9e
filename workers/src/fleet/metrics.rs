use brigade_contracts::WorkerName;
use prometheus::IntCounterVec;

use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// The metrics of the process that runs workers.
pub struct FleetMetrics {
    pub restarts: IntCounterVec,
}

impl MetricGroup for FleetMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let restarts = registry.counters(
            "brigade_worker_restarts_total",
            "Workers that ended before they were told to, and were started again",
            &["worker"],
        );
        for worker in WorkerName::ALL {
            restarts.with_label_values(&[worker.as_str()]);
        }
        Self { restarts }
    }
}
