use prometheus::{IntCounter, IntCounterVec};

use super::{expire::ExpiryDecision, idle::AbandonDecision};
use crate::{
    infra::metrics::{MetricGroup, MetricsRegistry},
    runtime::NotDecided,
};

/// The metrics of cart-lock-expiry.
pub struct ExpiryMetrics {
    pub lock_expiries: IntCounterVec,
    pub locks_overdue: IntCounter,
    pub idle_carts: IntCounterVec,
}

impl MetricGroup for ExpiryMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            lock_expiries: registry.counters(
                "brigade_lock_expiries_total",
                "Times that cart-lock-expiry asked for a lock to be ended, by what came of it: \
                 decided, stale, not_due, away (asked again), refused (a fault)",
                &["outcome"],
            ),
            locks_overdue: registry.counter(
                "brigade_locks_overdue_total",
                "Locks past their deadline that the look into SQL found, because their timers did \
                 not come; should find nothing but after an outage",
            ),
            idle_carts: registry.counters(
                "brigade_idle_carts_total",
                "Times that cart-lock-expiry asked for a cart to be abandoned that nobody had \
                 changed for long, by what came of it: abandoned, changed (it was not idle any \
                 more), away (asked again), refused (a fault)",
                &["outcome"],
            ),
        };
        for outcome in ExpiryDecision::LABELS.into_iter().chain(NotDecided::LABELS) {
            metrics.lock_expiries.with_label_values(&[outcome]);
        }
        for outcome in AbandonDecision::LABELS.into_iter().chain(NotDecided::LABELS) {
            metrics.idle_carts.with_label_values(&[outcome]);
        }
        metrics
    }
}
