use brigade_contracts::{Part, Timestamp};
use prometheus::HistogramVec;

use super::{LATENCY_SECONDS, MetricGroup, MetricsRegistry, seconds_since};

/// The time that projections take. It is measured by every worker that writes parts into KV.
pub struct VisibilityMetrics {
    seconds: HistogramVec,
}

impl MetricGroup for VisibilityMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let seconds = registry.histograms(
            "brigade_commit_to_visible_seconds",
            "Time from the change (database clock) to its part standing in KV",
            &["part"],
            LATENCY_SECONDS,
        );
        Self { seconds }
    }
}

impl VisibilityMetrics {
    /// Measures a part that was changed at `at` (database clock) and is stored in KV now.
    pub fn observe(&self, part: Part, at: Timestamp) {
        self.seconds.with_label_values(&[part.as_str()]).observe(seconds_since(at));
    }
}
