use brigade_contracts::key::Bucket;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use time::OffsetDateTime;

use super::{checkpoints::StreamLoss, discrepancy::KeyDiscrepancy, sessions::SessionFinding};
use crate::infra::metrics::{MetricGroup, MetricsRegistry};

/// The metrics of cache-verifier.
pub struct VerifierMetrics {
    pub heals: IntCounterVec,
    pub server_restarts: IntCounter,
    healed: IntCounterVec,
    pub heal_left: IntGauge,
    pub heals_unfinished: IntGauge,
    pub stream_filled: IntGaugeVec,
    pub audited: IntCounter,
    pub audit_findings: IntCounterVec,
    audit_round: IntGauge,
    audit_round_seconds: IntGauge,
    pub audit_unreadable: IntCounter,
    pub session_checks: IntCounterVec,
    pub rebuilds_requested: IntCounter,
}

/// The rows that healing writes into SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealedRows {
    /// Entries of the heal backlog.
    Aggregates,
    /// Last events of projected parts, in the outbox.
    Parts,
    /// Events that the stream lost, in the outbox.
    Events,
}

impl HealedRows {
    const ALL: [Self; 3] = [Self::Aggregates, Self::Parts, Self::Events];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aggregates => "aggregates",
            Self::Parts => "parts",
            Self::Events => "events",
        }
    }
}

impl MetricGroup for VerifierMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            heals: registry.counters(
                "brigade_heals_total",
                "Losses of JetStream that were healed, by stream and kind of loss; stays 0 in good \
                 order, so an alarm can stand on it",
                &["stream", "loss"],
            ),
            server_restarts: registry.counter(
                "brigade_server_restarts_total",
                "Starts of nats-server after which the newest messages and keys were checked: a \
                 suspicion, no loss",
            ),
            healed: registry.counters(
                "brigade_healed_total",
                "What healing put into SQL: aggregates to be projected, events to be published \
                 again",
                &["what"],
            ),
            heal_left: registry.gauge(
                "brigade_heal_left",
                "How many aggregates healing put into the heal backlog that were not projected yet \
                 when it last looked; no more than some 12,000 at a time",
            ),
            heals_unfinished: registry.gauge(
                "brigade_heals_unfinished",
                "Heals and rebuilds that are under way or wait, as their leader sees it",
            ),
            stream_filled: registry.gauges(
                "brigade_stream_filled_percent",
                "How much of its max_bytes a stream holds; from 50 on somebody has to look: dead \
                 letters nobody settles, commands nobody decides",
                &["stream"],
            ),
            audited: registry.counter(
                "brigade_audited_total",
                "Aggregates that the rolling audit compared with SQL",
            ),
            audit_findings: registry.counters(
                "brigade_audit_findings_total",
                "Keys that differ from SQL, confirmed twice: missing, stale, ahead (reported \
                 only), different",
                &["bucket", "finding"],
            ),
            audit_round: registry.gauge(
                "brigade_audit_round_time_seconds",
                "When the audit last went through all aggregates, as Unix time, as its leader sees \
                 it; 0: not yet",
            ),
            audit_round_seconds: registry.gauge(
                "brigade_audit_round_seconds",
                "How long the audit last took to go through all aggregates",
            ),
            audit_unreadable: registry.counter(
                "brigade_audit_unreadable_total",
                "Aggregates that the audit could not read from SQL, and passed by",
            ),
            session_checks: registry.counters(
                "brigade_session_checks_total",
                "What is cached of a user's session, compared with each event of it: ok, missing, \
                 stale, ahead",
                &["finding"],
            ),
            rebuilds_requested: registry.counter(
                "brigade_rebuilds_asked_total",
                "Commands by which cache-verifier had a user's session projected again; stays 0 \
                 without faults",
            ),
        };
        for rows in HealedRows::ALL {
            metrics.healed.with_label_values(&[rows.as_str()]);
        }
        for bucket in Bucket::ALL.into_iter().filter(|bucket| bucket.has_canary()) {
            for discrepancy in KeyDiscrepancy::ALL {
                metrics.audit_findings.with_label_values(&[bucket.as_str(), discrepancy.as_str()]);
            }
        }
        for finding in SessionFinding::ALL {
            metrics.session_checks.with_label_values(&[finding.as_str()]);
        }
        metrics
    }
}

impl VerifierMetrics {
    /// Shows a zero for each loss that a stream can have: an alarm on the growth of a counter does
    /// not see one that begins with 1.
    pub fn expect_losses<'a>(&self, streams: impl IntoIterator<Item = &'a String>) {
        for stream in streams {
            let losses = StreamLoss::ALL.into_iter().filter(|loss| loss.counts_for(stream));
            for loss in losses.filter(|loss| *loss != StreamLoss::ServerRestarted) {
                self.heals.with_label_values(&[stream, loss.as_str()]);
            }
        }
    }

    /// Counts rows that healing has written.
    pub fn count_healed(&self, rows: HealedRows, count: u64) {
        self.healed.with_label_values(&[rows.as_str()]).inc_by(count);
    }

    /// Records when the audit last went through all aggregates.
    pub fn audit_went_round(&self, began: OffsetDateTime, finished: OffsetDateTime) {
        self.audit_round.set(finished.unix_timestamp());
        self.audit_round_seconds.set((finished - began).whole_seconds());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_shown_before_there_is_one() {
        let registry = MetricsRegistry::default();
        let metrics = registry.group::<VerifierMetrics>();
        metrics.expect_losses(&["EVENTS", "COMMANDS"].map(ToOwned::to_owned));
        let text = registry.render();
        let shown = |stream: &str, loss: &str| {
            text.contains(&format!(
                "brigade_heals_total{{loss=\"{loss}\",stream=\"{stream}\"}} 0\n"
            ))
        };
        for loss in ["missing", "made_again", "purged", "behind"] {
            assert!(shown("EVENTS", loss), "{loss}: {text}");
        }
        // What can be no loss of the stream is not shown, nor a start of the server.
        assert!(!shown("COMMANDS", "purged") && !shown("EVENTS", "server_started"));
    }
}
