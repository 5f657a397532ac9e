use brigade_contracts::{
    Part, Timestamp, WorkerName, lock::Action, payment::Method, table::Finding,
};
use brigade_domain::LockMetric;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

mod registry;

pub use registry::{Buckets, LATENCY_SECONDS, LONG_SECONDS, MetricGroup, MetricsRegistry};

/// The metrics of a process. The texts are the help texts of `/metrics`.
pub struct Metrics {
    registry: MetricsRegistry,
    pub verdicts: IntCounterVec,
    pub redelivered: IntCounterVec,
    pub waiting: IntGaugeVec,
    pub batch_seconds: HistogramVec,
    pub commands: IntCounterVec,
    pub held_up: IntGauge,
    pub overtaking: IntGauge,
    pub commands_overtaking: IntCounter,
    pub lock_attempts: IntCounterVec,
    pub lock_held_seconds: HistogramVec,
    pub violations: IntCounterVec,
    pub replies_refused: IntCounterVec,
    pub restarts: IntCounterVec,
    pub dead_letters: IntCounterVec,
    pub dead_letters_in_sql: IntCounterVec,
    pub dead_letters_without_payload: IntCounterVec,
    pub dead_letters_not_kept: IntCounterVec,
    pub stream_filled: IntGaugeVec,
    pub visible_seconds: HistogramVec,
    pub shown_again: IntCounter,
    pub relayed: IntCounter,
    pub events_parked: IntCounter,
    pub relay_batches: IntCounterVec,
    pub relay_lag_seconds: HistogramVec,
    pub outbox_shards: IntGaugeVec,
    pub lock_expiries: IntCounterVec,
    pub locks_overdue: IntCounter,
    pub idle_carts: IntCounterVec,
    pub tables_found: IntCounterVec,
    pub tables_repaired: IntCounterVec,
    pub queries: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub http_seconds: HistogramVec,
    pub queries_waiting: IntGauge,
    pub stale_304: IntCounter,
    pub content_from: IntCounterVec,
    pub list_rows: IntCounterVec,
    pub list_watched: IntCounterVec,
    pub list_watch_lost: IntCounterVec,
    pub list_watch_revision: IntGauge,
    pub list_watch_lag: IntGauge,
    pub list_watch_recovery_seconds: HistogramVec,
    pub list_display_seconds: HistogramVec,
    pub confirm_statements: IntCounter,
    pub stream_readers: IntGauge,
    pub stream_hubs: IntGauge,
    pub stream_changes: IntCounter,
    pub stream_ends: IntCounterVec,
    pub stream_display_seconds: HistogramVec,
    pub heals: IntCounterVec,
    pub server_restarts: IntCounter,
    pub healed: IntCounterVec,
    pub heal_left: IntGauge,
    pub audited: IntCounter,
    pub audit_findings: IntCounterVec,
    pub audit_round: IntGauge,
    pub audit_unreadable: IntCounter,
    pub session_checks: IntCounterVec,
    pub rebuilds_asked: IntCounter,
}

const VERDICTS: [&str; 6] = ["done", "retry", "away", "held", "dead", "left"];
const QUERIES: &[(&str, &[&str])] = &[
    ("view", &["200", "304", "400", "404", "413", "429", "503", "504", "unanswered"]),
    ("outcome", &["200", "400", "404", "413", "429", "503", "unanswered"]),
    ("active_orders", &["200", "304", "400", "413", "429", "503", "unanswered"]),
    ("lock", &["200", "400", "404", "413", "429", "503", "unanswered"]),
    ("lock_history", &["200", "400", "413", "429", "503", "unanswered"]),
    ("user_validate", &["200", "400", "401", "413", "429", "503", "unanswered"]),
    ("user_state", &["200", "400", "404", "413", "429", "503", "unanswered"]),
];

impl Metrics {
    /// # Panics
    /// Never: the names are constant, valid and distinct, which every test run proves.
    #[must_use]
    pub fn new() -> Self {
        let registry = MetricsRegistry::default();
        let counters =
            |name: &str, help: &str, labels: &[&str]| registry.counters(name, help, labels);
        let counter = |name: &str, help: &str| registry.counter(name, help);
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            registry.histograms(name, help, labels, LATENCY_SECONDS)
        };
        let held_seconds = |name: &str, help: &str, labels: &[&str]| {
            registry.histograms(name, help, labels, LONG_SECONDS)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| registry.gauges(name, help, labels);
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        let metrics = Self {
            verdicts: counters(
                "brigade_messages_total",
                "Messages by worker and verdict; `left` came ahead of its turn and waits for it now",
                &["worker", "verdict"],
            ),
            redelivered: counters(
                "brigade_redelivered_total",
                "Messages that came again: their worker died, or asked for it",
                &["worker"],
            ),
            waiting: gauges(
                "brigade_messages_waiting",
                "Messages in hand that no batch has taken yet",
                &["worker"],
            ),
            batch_seconds: seconds(
                "brigade_batch_seconds",
                "Time from taking a batch to settling it",
                &["worker"],
            ),
            commands: counters(
                "brigade_commands_total",
                "Outcomes given, by status; repetitions answered from the inbox are `again`",
                &["status"],
            ),
            held_up: gauge(
                "brigade_aggregates_held_up",
                "Aggregates that somebody else has locked for longer than a batch waits; their \
                 commands wait aside: look for transactions that stay open",
            ),
            overtaking: gauge(
                "brigade_overtaking_consumers",
                "Consumers of COMMANDS by which commands overtake what another tenant floods the \
                 stream with, by the command-handler that makes them",
            ),
            commands_overtaking: counter(
                "brigade_overtaking_total",
                "Commands that came ahead of their turn in the stream",
            ),
            lock_attempts: counters(
                "brigade_lock_attempts_total",
                "Attempts to take the lock of a cart's owner, by method and result: acquired, or \
                 the code of the refusal",
                &["method", "result"],
            ),
            lock_held_seconds: held_seconds(
                "brigade_lock_held_seconds",
                "How long locks were held, by method and how that ended: released or expired",
                &["method", "ended"],
            ),
            violations: counters(
                "brigade_permission_violations_total",
                "Refusals by the server of what a worker's permissions do not cover; stays 0",
                &["worker"],
            ),
            replies_refused: counters(
                "brigade_replies_refused_total",
                "Answers that the server did not let go where their senders wanted them",
                &["worker"],
            ),
            restarts: counters(
                "brigade_worker_restarts_total",
                "Workers that ended before they were told to, and were started again",
                &["worker"],
            ),
            dead_letters: counters(
                "brigade_dead_letters_total",
                "Messages copied to the dead letters",
                &["worker"],
            ),
            dead_letters_in_sql: counters(
                "brigade_dead_letters_in_sql_total",
                "Those of them that the stream DLQ did not take: it is full, or they are too large",
                &["worker"],
            ),
            dead_letters_without_payload: counters(
                "brigade_dead_letters_without_payload_total",
                "Those of them whose payload is not kept: too many of their tenant are in SQL, which \
                 nobody replays or drops",
                &["worker"],
            ),
            dead_letters_not_kept: counters(
                "brigade_dead_letters_not_kept_total",
                "Those of them that are only counted: far too many of their tenant are in SQL; their \
                 commands were answered `500 dropped`",
                &["worker"],
            ),
            stream_filled: gauges(
                "brigade_stream_filled_percent",
                "How much of its max_bytes a stream holds; from 50 on somebody has to look: dead \
                 letters nobody settles, commands nobody decides",
                &["stream"],
            ),
            visible_seconds: seconds(
                "brigade_commit_to_visible_seconds",
                "Time from the change (database clock) to its part standing in KV",
                &["part"],
            ),
            shown_again: counter(
                "brigade_shown_again_total",
                "Aggregates shown again because their first show was not noted as done",
            ),
            relayed: counter(
                "brigade_events_relayed_total",
                "Events acknowledged by JetStream and deleted from the outbox",
            ),
            events_parked: counter(
                "brigade_events_parked_total",
                "Events that the stream refuses by themselves: dead letters of the relay, which \
                 somebody has to look at",
            ),
            relay_batches: counters(
                "brigade_relay_batches_total",
                "Batches of the relay by how they were published: atomic, single, or one_by_one \
                 after a lost acknowledgement",
                &["how"],
            ),
            relay_lag_seconds: seconds(
                "brigade_relay_lag_seconds",
                "Time from the change (database clock) to its event acknowledged by JetStream, \
                 of the oldest event of each batch",
                &[],
            ),
            outbox_shards: gauges(
                "brigade_relay_shards",
                "Shards of the outbox that this relay holds",
                &["worker"],
            ),
            lock_expiries: counters(
                "brigade_lock_expiries_total",
                "Times that cart-lock-expiry asked for a lock to be ended, by what came of it: \
                 decided, stale, not_due, away (asked again), refused (a fault)",
                &["outcome"],
            ),
            tables_found: counters(
                "brigade_tables_found_total",
                "Tables that were not what their turns say, each time one was seen; stays 0",
                &["finding"],
            ),
            tables_repaired: counters(
                "brigade_tables_repaired_total",
                "Tables that were repaired, by what was wrong",
                &["finding"],
            ),
            locks_overdue: counter(
                "brigade_locks_overdue_total",
                "Locks past their deadline that the look into SQL found, because their timers did \
                 not come; should find nothing but after an outage",
            ),
            idle_carts: counters(
                "brigade_idle_carts_total",
                "Times that cart-lock-expiry asked for a cart to be abandoned that nobody had \
                 changed for long, by what came of it: abandoned, changed (it was not idle any \
                 more), away (asked again), refused (a fault)",
                &["outcome"],
            ),
            queries: counters(
                "brigade_queries_total",
                "Queries by kind and status",
                &["query", "status"],
            ),
            http_requests: counters(
                "brigade_http_requests_total",
                "Requests over HTTP by route and status; `none` for paths that there are not",
                &["route", "status"],
            ),
            http_seconds: seconds(
                "brigade_http_request_seconds",
                "Time from a request's head to the head of its answer",
                &["route"],
            ),
            queries_waiting: gauge(
                "brigade_queries_waiting",
                "Queries that wait for a version or an outcome",
            ),
            stale_304: counter(
                "brigade_stale_304_total",
                "Answers 304 for a version below one that this edge had already seen; stays 0",
            ),
            content_from: counters(
                "brigade_view_content_total",
                "Where the content of an answered view came from",
                &["from"],
            ),
            list_rows: counters(
                "brigade_list_rows_total",
                "Where the rows of answered lists came from",
                &["from"],
            ),
            list_watched: counters(
                "brigade_list_watched_total",
                "What the watch on active orders brought: row (memory has it whole and newer), \
                 half (its other part is to come), known (nothing newer), gone (expired or \
                 removed), refused (not as this build writes it)",
                &["what"],
            ),
            list_watch_lost: counters(
                "brigade_list_watch_lost_total",
                "Times that the watch on active orders was lost and had to be made again, by why: \
                 connection, silent, gap, ended, refused",
                &["why"],
            ),
            list_watch_revision: gauge(
                "brigade_list_watch_revision",
                "The last revision of active orders that the watch brought",
            ),
            list_watch_lag: gauge(
                "brigade_list_watch_lag",
                "Revisions of active orders that the watch has still to bring; -1 while it is lost",
            ),
            list_watch_recovery_seconds: seconds(
                "brigade_list_watch_recovery_seconds",
                "Time from the start of edge, or from noticing that the watch on active orders \
                 was lost, until it had brought everything",
                &[],
            ),
            list_display_seconds: seconds(
                "brigade_list_display_seconds",
                "Time from a change of an active order (database clock) to its row standing in \
                 the memory of edge for its readers",
                &[],
            ),
            confirm_statements: counter(
                "brigade_confirm_statements_total",
                "Statements that confirmed versions with SQL, each for all queries that waited",
            ),
            stream_readers: gauge("brigade_stream_readers", "Readers of streams"),
            stream_hubs: gauge(
                "brigade_stream_hubs",
                "Lists and views that are asked about for the readers of their streams",
            ),
            stream_changes: counter(
                "brigade_stream_changes_total",
                "Changes told to the readers of streams, each once however many they are",
            ),
            stream_ends: counters(
                "brigade_stream_ends_total",
                "Streams that edge ended, by why: slow or stalled (the reader was cut off), \
                 refused (it may not read any more), drained",
                &["why"],
            ),
            stream_display_seconds: seconds(
                "brigade_stream_display_seconds",
                "Time from the change of an order (database clock) to its row being handed to the \
                 readers of the list",
                &[],
            ),
            heals: counters(
                "brigade_heals_total",
                "Losses of JetStream that were healed, by stream and kind of loss; stays 0 in good \
                 order, so an alarm can stand on it",
                &["stream", "loss"],
            ),
            server_restarts: counter(
                "brigade_server_restarts_total",
                "Starts of nats-server after which the newest messages and keys were checked: a \
                 suspicion, no loss",
            ),
            healed: counters(
                "brigade_healed_total",
                "What healing noted in SQL: aggregates to be shown, events to be published again",
                &["what"],
            ),
            heal_left: gauge(
                "brigade_heal_left",
                "About how many aggregates a heal under way has noted that are not shown yet",
            ),
            audited: counter(
                "brigade_audited_total",
                "Aggregates that the rolling audit compared with SQL",
            ),
            audit_findings: counters(
                "brigade_audit_findings_total",
                "Keys that differ from SQL, confirmed twice: missing, stale, ahead (reported \
                 only), different",
                &["bucket", "finding"],
            ),
            audit_round: gauge(
                "brigade_audit_round_time_seconds",
                "When the audit last went through all aggregates, as Unix time; 0: not yet",
            ),
            audit_unreadable: counter(
                "brigade_audit_unreadable_total",
                "Aggregates that the audit could not read from SQL, and passed by",
            ),
            session_checks: counters(
                "brigade_session_checks_total",
                "What is cached of a user's session, compared with each event of it: ok, missing, \
                 stale, ahead",
                &["finding"],
            ),
            rebuilds_asked: counter(
                "brigade_rebuilds_asked_total",
                "Commands by which cache-verifier had a user's session shown again; stays 0 \
                 without faults",
            ),
            registry,
        };
        for worker in WorkerName::ALL {
            for verdict in VERDICTS {
                metrics.verdicts.with_label_values(&[worker.as_str(), verdict]);
            }
            metrics.redelivered.with_label_values(&[worker.as_str()]);
            metrics.waiting.with_label_values(&[worker.as_str()]);
            metrics.violations.with_label_values(&[worker.as_str()]);
            metrics.replies_refused.with_label_values(&[worker.as_str()]);
            metrics.restarts.with_label_values(&[worker.as_str()]);
            metrics.dead_letters.with_label_values(&[worker.as_str()]);
            metrics.dead_letters_in_sql.with_label_values(&[worker.as_str()]);
            metrics.dead_letters_without_payload.with_label_values(&[worker.as_str()]);
            metrics.dead_letters_not_kept.with_label_values(&[worker.as_str()]);
        }
        for method in Method::ALL {
            for result in ["acquired", "cart_locked", "cart_changed", "cart_empty"] {
                metrics.lock_attempts.with_label_values(&[method.as_str(), result]);
            }
            for ended in ["released", "expired"] {
                metrics.lock_held_seconds.with_label_values(&[method.as_str(), ended]);
            }
        }
        for finding in Finding::ALL {
            metrics.tables_found.with_label_values(&[finding.as_str()]);
            metrics.tables_repaired.with_label_values(&[finding.as_str()]);
        }
        for what in ["aggregates", "parts", "events"] {
            metrics.healed.with_label_values(&[what]);
        }
        for outcome in ["decided", "stale", "not_due", "away", "refused"] {
            metrics.lock_expiries.with_label_values(&[outcome]);
        }
        for outcome in ["abandoned", "changed", "away", "refused"] {
            metrics.idle_carts.with_label_values(&[outcome]);
        }
        for bucket in ["versions", "views", "active_orders", "cart_locks", "user_state"] {
            for finding in ["missing", "stale", "ahead", "different"] {
                metrics.audit_findings.with_label_values(&[bucket, finding]);
            }
        }
        for finding in ["ok", "missing", "stale", "ahead"] {
            metrics.session_checks.with_label_values(&[finding]);
        }
        for how in ["atomic", "single", "one_by_one"] {
            metrics.relay_batches.with_label_values(&[how]);
        }
        for from in ["memory", "kv", "sql"] {
            metrics.content_from.with_label_values(&[from]);
        }
        for from in ["memory", "sql"] {
            metrics.list_rows.with_label_values(&[from]);
        }
        for what in ["row", "half", "known", "gone", "refused"] {
            metrics.list_watched.with_label_values(&[what]);
        }
        for why in ["connection", "silent", "gap", "ended", "refused"] {
            metrics.list_watch_lost.with_label_values(&[why]);
        }
        metrics.list_watch_recovery_seconds.with_label_values::<&str>(&[]);
        metrics.list_display_seconds.with_label_values::<&str>(&[]);
        metrics.stream_display_seconds.with_label_values::<&str>(&[]);
        for why in ["slow", "stalled", "refused", "drained"] {
            metrics.stream_ends.with_label_values(&[why]);
        }
        for (query, statuses) in QUERIES {
            for status in *statuses {
                metrics.queries.with_label_values(&[query, status]);
            }
        }
        metrics
    }

    /// What was decided about locks, and is committed.
    pub fn locks(&self, decided: &[LockMetric]) {
        let attempt = |method: &Method, result: &str| {
            self.lock_attempts.with_label_values(&[method.as_str(), result]).inc();
        };
        for one in decided {
            match one {
                LockMetric::Acquired(method) => attempt(method, Action::Acquired.as_str()),
                LockMetric::Refused(method, code) => attempt(method, code),
                LockMetric::Held { method, millis, ended } => self
                    .lock_held_seconds
                    .with_label_values(&[method.as_str(), ended.as_str()])
                    .observe(*millis as f64 / 1000.0),
            }
        }
    }

    /// A part that was changed at `at` (database clock) stands in KV now.
    pub fn visible(&self, part: Part, at: Timestamp) {
        self.visible_seconds.with_label_values(&[part.as_str()]).observe(seconds_since(at));
    }

    /// A row that was changed at `at` (database clock) stands in the memory of edge now.
    pub fn displayed(&self, at: Timestamp) {
        self.list_display_seconds.with_label_values::<&str>(&[]).observe(seconds_since(at));
    }

    /// A batch of events, the oldest of them of a change at `at`, stands in JetStream now.
    pub fn relayed(&self, how: &str, events: usize, at: Timestamp) {
        self.relayed.inc_by(events as u64);
        self.relay_batches.with_label_values(&[how]).inc();
        self.relay_lag_seconds.with_label_values::<&str>(&[]).observe(seconds_since(at));
    }

    /// Rows that changed at these times (milliseconds of the Unix time, database clock) are handed
    /// to readers now.
    #[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
    pub fn pushed(&self, ats: impl Iterator<Item = i64>) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        for at in ats {
            let seconds = (now - i128::from(at)).max(0) as f64 / 1000.0;
            self.stream_display_seconds.with_label_values::<&str>(&[]).observe(seconds);
        }
    }

    /// The audit has gone through all aggregates.
    #[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
    pub fn audit_went_round(&self) {
        self.audit_round.set(time::OffsetDateTime::now_utc().unix_timestamp());
    }

    /// Returns the metrics `G` of one room, the same ones for all workers of the process.
    #[must_use]
    pub fn group<G: MetricGroup>(&self) -> std::sync::Arc<G> {
        self.registry.group()
    }

    /// Returns all metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.registry.render()
    }
}

#[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
fn seconds_since(at: Timestamp) -> f64 {
    at.millis_until(Timestamp::from(time::OffsetDateTime::now_utc())) as f64 / 1000.0
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
