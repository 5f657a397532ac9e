use brigade_contracts::{Part, Timestamp, WorkerName, lock::Action, payment::Method};
use brigade_domain::LockMetric;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

mod registry;

pub use registry::{
    Buckets, LATENCY_SECONDS, LONG_SECONDS, MetricGroup, MetricsRegistry, seconds_since,
};

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
    pub dead_letters: IntCounterVec,
    pub dead_letters_in_sql: IntCounterVec,
    pub dead_letters_without_payload: IntCounterVec,
    pub visible_seconds: HistogramVec,
    pub shown_again: IntCounter,
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
            visible_seconds: seconds(
                "brigade_commit_to_visible_seconds",
                "Time from the change (database clock) to its part standing in KV",
                &["part"],
            ),
            shown_again: counter(
                "brigade_shown_again_total",
                "Aggregates shown again because their first show was not noted as done",
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
            registry,
        };
        for worker in WorkerName::ALL {
            for verdict in VERDICTS {
                metrics.verdicts.with_label_values(&[worker.as_str(), verdict]);
            }
            metrics.redelivered.with_label_values(&[worker.as_str()]);
            metrics.waiting.with_label_values(&[worker.as_str()]);
            metrics.dead_letters.with_label_values(&[worker.as_str()]);
            metrics.dead_letters_in_sql.with_label_values(&[worker.as_str()]);
            metrics.dead_letters_without_payload.with_label_values(&[worker.as_str()]);
        }
        for method in Method::ALL {
            for result in ["acquired", "cart_locked", "cart_changed", "cart_empty"] {
                metrics.lock_attempts.with_label_values(&[method.as_str(), result]);
            }
            for ended in ["released", "expired"] {
                metrics.lock_held_seconds.with_label_values(&[method.as_str(), ended]);
            }
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
