//! The metrics of the consuming loop, and those of dead letters.

use brigade_contracts::WorkerName;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::infra::metrics::{LATENCY_SECONDS, MetricGroup, MetricsRegistry};

/// A value of the label `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictLabel {
    Done,
    Retry,
    Away,
    Held,
    Dead,
    /// The message came ahead of its turn, and is left to the consumer that delivers it too.
    Left,
}

impl VerdictLabel {
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Retry, Self::Away, Self::Held, Self::Dead, Self::Left];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Away => "away",
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// The metrics of the consuming loops of all workers.
pub struct ConsumeMetrics {
    pub verdicts: IntCounterVec,
    pub redelivered: IntCounterVec,
    pub waiting: IntGaugeVec,
    pub batch_seconds: HistogramVec,
    pub overtaking: IntCounter,
}

impl MetricGroup for ConsumeMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            verdicts: registry.counters(
                "brigade_messages_total",
                "Messages by worker and verdict; `left` came ahead of its turn and waits for it now",
                &["worker", "verdict"],
            ),
            redelivered: registry.counters(
                "brigade_redelivered_total",
                "Messages that came again: their worker died, or asked for it",
                &["worker"],
            ),
            waiting: registry.gauges(
                "brigade_messages_waiting",
                "Messages in hand that no batch has taken yet",
                &["worker"],
            ),
            batch_seconds: registry.histograms(
                "brigade_batch_seconds",
                "Time from taking a batch to settling it",
                &["worker"],
                LATENCY_SECONDS,
            ),
            overtaking: registry.counter(
                "brigade_overtaking_total",
                "Commands that came ahead of their turn in the stream",
            ),
        };
        for worker in WorkerName::ALL.map(WorkerName::as_str) {
            for verdict in VerdictLabel::ALL {
                metrics.verdicts.with_label_values(&[worker, verdict.as_str()]);
            }
            metrics.redelivered.with_label_values(&[worker]);
            metrics.waiting.with_label_values(&[worker]);
        }
        metrics
    }
}

impl ConsumeMetrics {
    /// Returns the metrics of one worker.
    #[must_use]
    pub fn of(&self, worker: WorkerName) -> WorkerConsumeMetrics {
        let worker = worker.as_str();
        let verdict =
            |label: VerdictLabel| self.verdicts.with_label_values(&[worker, label.as_str()]);
        WorkerConsumeMetrics {
            verdicts: VerdictLabel::ALL.map(verdict),
            redelivered: self.redelivered.with_label_values(&[worker]),
            waiting: self.waiting.with_label_values(&[worker]),
            batch_seconds: self.batch_seconds.with_label_values(&[worker]),
            overtaking: self.overtaking.clone(),
        }
    }
}

/// The metrics of one worker's consuming loop, whose labels are looked up once and not for each
/// message.
pub struct WorkerConsumeMetrics {
    /// In the order of [`VerdictLabel::ALL`].
    verdicts: [IntCounter; VerdictLabel::ALL.len()],
    pub redelivered: IntCounter,
    pub waiting: IntGauge,
    pub batch_seconds: Histogram,
    pub overtaking: IntCounter,
}

impl WorkerConsumeMetrics {
    #[must_use]
    pub fn verdict(&self, label: VerdictLabel) -> &IntCounter {
        &self.verdicts[label as usize]
    }
}

/// The metrics of dead letters.
pub struct DeadLetterMetrics {
    pub stored: IntCounterVec,
    pub in_sql: IntCounterVec,
    pub without_payload: IntCounterVec,
    pub not_kept: IntCounterVec,
}

impl MetricGroup for DeadLetterMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            stored: registry.counters(
                "brigade_dead_letters_total",
                "Messages copied to the dead letters",
                &["worker"],
            ),
            in_sql: registry.counters(
                "brigade_dead_letters_in_sql_total",
                "Those of them that the stream DLQ did not take: it is full, or they are too large",
                &["worker"],
            ),
            without_payload: registry.counters(
                "brigade_dead_letters_without_payload_total",
                "Those of them whose payload is not kept: too many of their tenant are in SQL, which \
                 nobody replays or drops",
                &["worker"],
            ),
            not_kept: registry.counters(
                "brigade_dead_letters_not_kept_total",
                "Those of them that are only counted: far too many of their tenant are in SQL; their \
                 commands were answered `500 dropped`",
                &["worker"],
            ),
        };
        for worker in WorkerName::ALL.map(WorkerName::as_str) {
            metrics.stored.with_label_values(&[worker]);
            metrics.in_sql.with_label_values(&[worker]);
            metrics.without_payload.with_label_values(&[worker]);
            metrics.not_kept.with_label_values(&[worker]);
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_counted_under_its_own_label() {
        let metrics = ConsumeMetrics::register(&MetricsRegistry::default());
        let worker = metrics.of(WorkerName::CommandHandler);
        for label in VerdictLabel::ALL {
            worker.verdict(label).inc();
            let counter = metrics.verdicts.with_label_values(&["command-handler", label.as_str()]);
            assert_eq!(counter.get(), 1, "{label:?}");
        }
    }
}
