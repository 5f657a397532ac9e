use brigade_contracts::WorkerName;
use prometheus::{GaugeVec, IntGaugeVec};

use super::{InstanceState, QueueName, Rows, Streams};
use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// What the watch on the fleet saw. All of them are gauges that only the instance serves which looks.
pub struct FleetWatchMetrics {
    looked_at: IntGaugeVec,
    instances: IntGaugeVec,
    instances_missed: IntGaugeVec,
    instances_unready: IntGaugeVec,
    pending: IntGaugeVec,
    ack_pending: IntGaugeVec,
    redelivered: IntGaugeVec,
    pulls: IntGaugeVec,
    consumer_oldest: GaugeVec,
    rows: IntGaugeVec,
    rows_oldest: GaugeVec,
    letters: IntGaugeVec,
    leases: IntGaugeVec,
    shards_without_owner: IntGaugeVec,
}

const CONSUMER: [&str; 2] = ["stream", "consumer"];

impl MetricGroup for FleetWatchMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        Self {
            looked_at: registry.gauges(
                "brigade_fleet_looked_time_seconds",
                "When the fleet was last looked at, as Unix time",
                &[],
            ),
            instances: registry.gauges(
                "brigade_instances",
                "Instances of each worker that gave a sign of life in the last 6 s, by version",
                &["worker", "version"],
            ),
            instances_missed: registry.gauges(
                "brigade_instances_missed",
                "Instances that gave no sign of life for 6 s, did not drain, and have no successor",
                &["worker"],
            ),
            instances_unready: registry.gauges(
                "brigade_instances_unready",
                "Instances that live and are not ready; `brigade status` says why",
                &["worker"],
            ),
            pending: registry.gauges(
                "brigade_consumer_pending",
                "Messages that a consumer has not delivered yet",
                &CONSUMER,
            ),
            ack_pending: registry.gauges(
                "brigade_consumer_ack_pending",
                "Messages that a consumer has delivered and that are not acknowledged",
                &CONSUMER,
            ),
            redelivered: registry.gauges(
                "brigade_consumer_redelivered",
                "Those of them that were delivered more than once",
                &CONSUMER,
            ),
            pulls: registry.gauges(
                "brigade_consumer_pulls",
                "Open pulls of a consumer: 0 where nobody asks for messages, or whoever does has \
                 its hands full",
                &CONSUMER,
            ),
            consumer_oldest: registry.seconds(
                "brigade_consumer_oldest_seconds",
                "Age of the oldest message that a consumer waits for; 0: there is none",
                &CONSUMER,
            ),
            rows: registry.gauges(
                "brigade_rows",
                "Rows that wait in SQL, or are there for now, at most 100,000 of each",
                &["what"],
            ),
            rows_oldest: registry.seconds(
                "brigade_rows_oldest_seconds",
                "Age of the oldest of them; 0: there is none",
                &["what"],
            ),
            letters: registry.gauges(
                "brigade_dead_letters_outstanding",
                "Dead letters that nobody replayed or dropped, by worker and beginning of the reason",
                &["worker", "reason"],
            ),
            leases: registry.gauges(
                "brigade_lease_held",
                "1 for each lease and who holds it, 0 where its holder did not renew it",
                &["lease", "holder"],
            ),
            shards_without_owner: registry.gauges(
                "brigade_shards_without_owner",
                "Shards of the outbox that no live relay holds",
                &[],
            ),
        }
    }
}

impl FleetWatchMetrics {
    /// Shows nothing: another instance looks.
    pub fn forget(&self) {
        for gauges in [
            &self.looked_at,
            &self.instances,
            &self.instances_missed,
            &self.instances_unready,
            &self.pending,
            &self.ack_pending,
            &self.redelivered,
            &self.pulls,
            &self.rows,
            &self.letters,
            &self.leases,
            &self.shards_without_owner,
        ] {
            gauges.reset();
        }
        self.consumer_oldest.reset();
        self.rows_oldest.reset();
    }

    /// Shows what was seen.
    #[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
    pub fn show(&self, rows: &Rows, streams: &Streams) {
        self.forget();
        self.show_instances(&rows.instances);
        for at in &streams.consumers {
            let labels = [&*at.stream, &*at.consumer];
            for (gauges, value) in [
                (&self.pending, at.pending),
                (&self.ack_pending, at.ack_pending),
                (&self.redelivered, at.redelivered),
                (&self.pulls, at.pulls),
            ] {
                gauges.with_label_values(&labels).set(value.cast_signed());
            }
            self.consumer_oldest.with_label_values(&labels).set(at.oldest_seconds);
        }
        for queue in QueueName::ALL.map(|name| rows.queue(name)) {
            let what = [queue.name.as_str()];
            self.rows.with_label_values(&what).set(queue.rows);
            self.rows_oldest.with_label_values(&what).set(queue.oldest_seconds);
        }
        for of in rows.letters.iter().chain(&streams.letters) {
            self.letters.with_label_values(&[&*of.worker, &*of.reason]).add(of.letters);
        }
        for lease in rows.leases.iter().filter(|lease| lease.is_of_a_duty()) {
            let is_held = i64::from(lease.expired_seconds.is_none());
            self.leases.with_label_values(&[&*lease.name, &*lease.holder]).set(is_held);
        }
        self.shards_without_owner.with_label_values::<&str>(&[]).set(rows.shards_without_owner);
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        self.looked_at.with_label_values::<&str>(&[]).set(now);
    }

    fn show_instances(&self, all: &[InstanceState]) {
        for worker in WorkerName::ALL.map(WorkerName::as_str) {
            let missed = InstanceState::missed(all, worker).len() as i64;
            self.instances_missed.with_label_values(&[worker]).set(missed);
            self.instances_unready.with_label_values(&[worker]).set(0);
        }
        for instance in all.iter().filter(|instance| instance.is_alive()) {
            self.instances.with_label_values(&[&*instance.worker, &*instance.version]).inc();
            if instance.unready().is_some() {
                self.instances_unready.with_label_values(&[&*instance.worker]).inc();
            }
        }
    }
}
