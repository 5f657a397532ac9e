use brigade_contracts::Timestamp;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

mod registry;
mod visibility;

pub use registry::{
    Buckets, LATENCY_SECONDS, LONG_SECONDS, MetricGroup, MetricsRegistry, seconds_since,
};
pub use visibility::VisibilityMetrics;

/// The metrics of a process. The texts are the help texts of `/metrics`.
pub struct Metrics {
    registry: MetricsRegistry,
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
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        let metrics = Self {
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
