use brigade_contracts::table::Finding;
use prometheus::IntCounterVec;

use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// The metrics of table-status-reconciler.
pub struct ReconcilerMetrics {
    pub tables_found: IntCounterVec,
    pub tables_repaired: IntCounterVec,
}

impl MetricGroup for ReconcilerMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            tables_found: registry.counters(
                "brigade_tables_found_total",
                "Tables that were not what their turns say, each time one was seen; stays 0",
                &["finding"],
            ),
            tables_repaired: registry.counters(
                "brigade_tables_repaired_total",
                "Tables that were repaired, by what was wrong",
                &["finding"],
            ),
        };
        for finding in Finding::ALL {
            metrics.tables_found.with_label_values(&[finding.as_str()]);
            metrics.tables_repaired.with_label_values(&[finding.as_str()]);
        }
        metrics
    }
}
