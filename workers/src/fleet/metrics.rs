use brigade_contracts::WorkerName;
use prometheus::{IntCounterVec, IntGaugeVec};

use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// The metrics of the process that runs workers.
pub struct FleetMetrics {
    pub restarts: IntCounterVec,
    pub alive: IntGaugeVec,
}

impl MetricGroup for FleetMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let restarts = registry.counters(
            "brigade_worker_restarts_total",
            "Workers that ended before they were told to, and were started again",
            &["worker"],
        );
        // No zeros beforehand: they would be taken for workers that have died.
        let alive = registry.gauges(
            "brigade_workers_alive",
            "Instances of each worker that gave a sign of life in the last 6 s, as any process sees \
             it that reaches Postgres; the same in all, so take the maximum and no sum",
            &["worker"],
        );
        for worker in WorkerName::ALL {
            restarts.with_label_values(&[worker.as_str()]);
        }
        Self { restarts, alive }
    }
}
