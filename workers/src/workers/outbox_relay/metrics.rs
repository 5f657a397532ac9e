use brigade_contracts::Timestamp;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use crate::infra::metrics::{LATENCY_SECONDS, MetricGroup, MetricsRegistry, seconds_since};

/// The metrics of outbox-relay.
pub struct RelayMetrics {
    pub relayed: IntCounter,
    pub events_parked: IntCounter,
    pub batches: IntCounterVec,
    pub lag_seconds: HistogramVec,
    pub shards: IntGaugeVec,
}

/// The way in which a batch was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// As an atomic batch.
    Atomic,
    /// Message by message, since there were few.
    Single,
    /// Message by message, each after the acknowledgement of the one before, since one was lost.
    OneByOne,
}

impl PublishMode {
    const ALL: [Self; 3] = [Self::Atomic, Self::Single, Self::OneByOne];

    /// Returns the value of the label `how`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::Single => "single",
            Self::OneByOne => "one_by_one",
        }
    }
}

impl MetricGroup for RelayMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            relayed: registry.counter(
                "brigade_events_relayed_total",
                "Events acknowledged by JetStream and deleted from the outbox",
            ),
            events_parked: registry.counter(
                "brigade_events_parked_total",
                "Events that the stream refuses by themselves: dead letters of the relay, which \
                 somebody has to look at",
            ),
            batches: registry.counters(
                "brigade_relay_batches_total",
                "Batches of the relay by how they were published: atomic, single, or one_by_one \
                 after a lost acknowledgement",
                &["how"],
            ),
            lag_seconds: registry.histograms(
                "brigade_relay_lag_seconds",
                "Time from the change (database clock) to its event acknowledged by JetStream, \
                 of the oldest event of each batch; events that repair publishes again do not \
                 count",
                &[],
                LATENCY_SECONDS,
            ),
            shards: registry.gauges(
                "brigade_relay_shards",
                "Shards of the outbox that this relay holds",
                &["worker"],
            ),
        };
        for mode in PublishMode::ALL {
            metrics.batches.with_label_values(&[mode.as_str()]);
        }
        metrics
    }
}

impl RelayMetrics {
    /// Counts a batch of events that stands in JetStream now; `oldest` is the time of its oldest
    /// change on the database's clock, of those that are published for the first time.
    pub fn count_batch(&self, mode: PublishMode, events: usize, oldest: Option<Timestamp>) {
        self.batches.with_label_values(&[mode.as_str()]).inc();
        if let Some(oldest) = oldest {
            self.lag_seconds.with_label_values::<&str>(&[]).observe(seconds_since(oldest));
        }
        self.relayed.inc_by(events as u64);
    }
}
