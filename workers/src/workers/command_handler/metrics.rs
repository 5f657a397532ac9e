use brigade_contracts::{lock::Action, payment::Method};
use brigade_domain::LockMetric;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::infra::metrics::{LONG_SECONDS, MetricGroup, MetricsRegistry};

/// The label `status` of an outcome that was repeated from the inbox.
const REPEATED: &str = "again";
/// The usual refusals of an attempt to take a lock.
const LOCK_REFUSALS: [&str; 3] = ["cart_locked", "cart_changed", "cart_empty"];
/// The ends of a lock.
const LOCK_ENDS: [Action; 2] = [Action::Released, Action::Expired];

/// The metrics of command-handler.
pub struct CommandHandlerMetrics {
    pub commands: IntCounterVec,
    pub held_up: IntGauge,
    pub overtaking: IntGauge,
    pub reprojected: IntCounter,
    lock_attempts: IntCounterVec,
    lock_held_seconds: HistogramVec,
}

impl MetricGroup for CommandHandlerMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            commands: registry.counters(
                "brigade_commands_total",
                "Outcomes given, by status; repetitions answered from the inbox are `again`",
                &["status"],
            ),
            held_up: registry.gauge(
                "brigade_aggregates_held_up",
                "Aggregates that somebody else has locked for longer than a batch waits; their \
                 commands wait aside: look for transactions that stay open",
            ),
            overtaking: registry.gauge(
                "brigade_overtaking_consumers",
                "Consumers of COMMANDS by which commands overtake what another tenant floods the \
                 stream with, by the command-handler that makes them",
            ),
            reprojected: registry.counter(
                "brigade_reprojected_total",
                "Aggregates projected again because their first projection was not recorded as done",
            ),
            lock_attempts: registry.counters(
                "brigade_lock_attempts_total",
                "Attempts to take the lock of a cart's owner, by method and result: acquired, or \
                 the code of the refusal",
                &["method", "result"],
            ),
            lock_held_seconds: registry.histograms(
                "brigade_lock_held_seconds",
                "How long locks were held, by method and how that ended: released or expired",
                &["method", "ended"],
                LONG_SECONDS,
            ),
        };
        for method in Method::ALL.map(Method::as_str) {
            for result in [Action::Acquired.as_str()].into_iter().chain(LOCK_REFUSALS) {
                metrics.lock_attempts.with_label_values(&[method, result]);
            }
            for ended in LOCK_ENDS {
                metrics.lock_held_seconds.with_label_values(&[method, ended.as_str()]);
            }
        }
        metrics
    }
}

impl CommandHandlerMetrics {
    /// Counts an outcome that is given to a sender.
    pub fn count_outcome(&self, status: &str, is_repeated: bool) {
        let label = if is_repeated { REPEATED } else { status };
        self.commands.with_label_values(&[label]).inc();
    }

    /// Counts the decisions about locks that a batch has committed.
    pub fn count_locks(&self, decisions: &[LockMetric]) {
        let attempt = |method: &Method, result: &str| {
            self.lock_attempts.with_label_values(&[method.as_str(), result]).inc();
        };
        for decision in decisions {
            match decision {
                LockMetric::Acquired(method) => attempt(method, Action::Acquired.as_str()),
                LockMetric::Refused(method, code) => attempt(method, code),
                LockMetric::Held { method, millis, ended } => self
                    .lock_held_seconds
                    .with_label_values(&[method.as_str(), ended.as_str()])
                    .observe(*millis as f64 / 1000.0),
            }
        }
    }
}
