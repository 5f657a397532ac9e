//! The metrics of a process. Those of each module stand beside it, as a [`MetricGroup`].

use std::sync::Arc;

mod registry;
mod visibility;

pub use registry::{
    BucketBounds, LATENCY_SECONDS, LONG_SECONDS, MetricGroup, MetricsRegistry, seconds_since,
};
pub use visibility::VisibilityMetrics;

/// The metrics of a process.
#[derive(Default)]
pub struct Metrics {
    registry: MetricsRegistry,
}

impl Metrics {
    /// Creates a registry without metrics; each group is registered when it is first asked for.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the metrics `G` of one module, the same ones for all workers of the process.
    #[must_use]
    pub fn group<G: MetricGroup>(&self) -> Arc<G> {
        self.registry.group()
    }

    /// Returns all metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.registry.render()
    }
}
