use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use brigade_contracts::WorkerName;
use prometheus::{IntCounterVec, IntGaugeVec};

use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// The metrics of the process that runs workers.
pub struct FleetMetrics {
    pub restarts: IntCounterVec,
    pub alive: IntGaugeVec,
    away: IntGaugeVec,
    /// What is shown as away, by worker.
    shown_away: Mutex<BTreeSet<(WorkerName, &'static str)>>,
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
        let away = registry.gauges(
            "brigade_dependency_away",
            "1 where a worker of this process cannot use what it needs: nats, postgres, a stream; \
             its /readyz says why",
            &["worker", "dependency"],
        );
        for worker in WorkerName::ALL {
            restarts.with_label_values(&[worker.as_str()]);
        }
        Self { restarts, alive, away, shown_away: Mutex::default() }
    }
}

impl FleetMetrics {
    /// Shows which dependencies of a worker are away, and none besides.
    pub fn show_away(&self, worker: WorkerName, dependencies: &[&'static str]) {
        let mut shown = self.shown_away.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|(of, dependency)| {
            let stays = *of != worker || dependencies.contains(dependency);
            if !stays {
                // There is none where somebody else has taken it away.
                let _removed = self.away.remove_label_values(&[of.as_str(), dependency]);
            }
            stays
        });
        for dependency in dependencies {
            self.away.with_label_values(&[worker.as_str(), dependency]).set(1);
            shown.insert((worker, dependency));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_shown_until_it_is_back() {
        let registry = MetricsRegistry::default();
        let metrics = registry.group::<FleetMetrics>();
        let shown = || {
            let text = registry.render();
            let lines = text.lines().filter(|line| line.starts_with("brigade_dependency_away{"));
            lines.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        metrics.show_away(WorkerName::Edge, &["nats", "postgres"]);
        metrics.show_away(WorkerName::OutboxRelay, &["nats"]);
        assert_eq!(shown().len(), 3);
        metrics.show_away(WorkerName::Edge, &["postgres"]);
        metrics.show_away(WorkerName::OutboxRelay, &[]);
        let left = "brigade_dependency_away{dependency=\"postgres\",worker=\"edge\"} 1";
        assert_eq!(shown(), [left]);
    }
}
