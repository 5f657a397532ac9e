use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use brigade_contracts::Timestamp;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The metrics of one module, such as a worker or the consuming loop. They stand beside
/// the code that counts, and are registered when it first asks for them.
pub trait MetricGroup: Send + Sync + 'static {
    /// Registers each metric, with the label values that are known beforehand, so that `/metrics`
    /// shows zeros rather than nothing.
    fn register(registry: &MetricsRegistry) -> Self;
}

/// Buckets of a histogram: the upper bound of the first one, and how many there are. Each is twice
/// as large as the one before.
pub type BucketBounds = (f64, usize);

/// From half a millisecond to a quarter of a minute.
pub const LATENCY_SECONDS: BucketBounds = (0.000_5, 16);

/// From a quarter of a second to more than an hour.
pub const LONG_SECONDS: BucketBounds = (0.25, 15);

/// Returns the seconds since a time on the database's clock, 0 for one that is still to come here.
#[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
#[must_use]
pub fn seconds_since(at: Timestamp) -> f64 {
    at.millis_until(Timestamp::from(time::OffsetDateTime::now_utc())) as f64 / 1000.0
}

/// All metrics of a process.
///
/// # Panics
/// The methods that register a metric panic on a name or label that is not valid, and on a name
/// that exists already. Both are constants of the code, so every test run proves them.
#[derive(Default)]
pub struct MetricsRegistry {
    registry: Registry,
    groups: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl MetricsRegistry {
    /// Returns the group `G`, the same one for all workers of the process.
    #[must_use]
    pub fn group<G: MetricGroup>(&self) -> Arc<G> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.entry(TypeId::of::<G>()).or_insert_with(|| Arc::new(G::register(self)));
        Arc::clone(group).downcast().expect("stored under its own type")
    }

    /// Registers a counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help).expect("valid"))
    }

    /// Registers counters that are told apart by `labels`.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels).expect("valid"))
    }

    /// Registers a gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help).expect("valid"))
    }

    /// Registers gauges that are told apart by `labels`.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).expect("valid"))
    }

    /// Registers gauges of seconds that are told apart by `labels`.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels).expect("valid"))
    }

    /// Registers histograms that are told apart by `labels`.
    #[must_use]
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        (first, count): BucketBounds,
    ) -> HistogramVec {
        let buckets = prometheus::exponential_buckets(first, 2.0, count).expect("valid");
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.add(HistogramVec::new(opts, labels).expect("valid"))
    }

    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> C {
        self.registry.register(Box::new(metric.clone())).expect("distinct");
        metric
    }

    /// Returns all metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
