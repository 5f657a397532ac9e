//! The metrics of edge. The words of their labels are the enums below, which the places that count
//! use as well.
//!
//! A new metric is a field of [`EdgeMetrics`], its registration, and, if it has labels, a loop in
//! `create_labels`.

use brigade_contracts::Timestamp;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};
use time::OffsetDateTime;

use super::endpoint::Endpoint;
use crate::infra::metrics::{LATENCY_SECONDS, MetricGroup, MetricsRegistry, seconds_since};

/// The label `status` of a query that was dropped without a response.
const UNANSWERED: &str = "unanswered";
/// The label `route` of a request to a path that does not exist.
pub const NO_ROUTE: &str = "none";

/// A label whose values are the variants of an enum.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$about])* $variant,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the value of the label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

label! {
    /// The source of the content of a response.
    ContentSource {
        Memory = "memory",
        Kv = "kv",
        Sql = "sql",
    }
}

label! {
    /// The result of one message of the watch on active orders.
    WatchedRow {
        /// The row in memory is complete and newer now.
        Row = "row",
        /// The other part of the row is still to come.
        Half = "half",
        /// Memory had it already.
        Known = "known",
        /// The key expired or was removed.
        Gone = "gone",
        /// Not what this build would write.
        Refused = "refused",
    }
}

label! {
    /// The reason why the watch on active orders was lost.
    WatchLoss {
        Connection = "connection",
        Silent = "silent",
        Gap = "gap",
        Ended = "ended",
        Refused = "refused",
    }
}

label! {
    /// The end of a message of a gateway.
    GatewayMessages {
        /// It was recorded.
        Taken = "taken",
        /// It was recorded before.
        Repeated = "repeated",
        /// It tells nothing of a payment of the restaurant.
        Ignored = "ignored",
        /// It was signed with no secret of the gateway, or too long ago.
        Forged = "forged",
        /// It is not recorded, and is not if it comes again.
        Refused = "refused",
        /// It is not recorded, as far as is known: the gateway has to send it again.
        Failed = "failed",
    }
}

label! {
    /// The reason why edge ended a stream.
    StreamEnd {
        /// The reader was too far behind.
        Slow = "slow",
        /// The connection took nothing any more.
        Stalled = "stalled",
        /// The reader may not read any more.
        Refused = "refused",
        Drained = "drained",
    }
}

/// The metrics of edge. The texts are the help texts of `/metrics`.
pub struct EdgeMetrics {
    pub queries: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub http_seconds: HistogramVec,
    pub http_rate_limited: IntCounterVec,
    pub gateway_messages: IntCounterVec,
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

impl MetricGroup for EdgeMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            registry.histograms(name, help, labels, LATENCY_SECONDS)
        };
        let metrics = Self {
            queries: registry.counters(
                "brigade_queries_total",
                "Queries by kind and status",
                &["query", "status"],
            ),
            http_requests: registry.counters(
                "brigade_http_requests_total",
                "Requests over HTTP by route and status; `none` for paths that there are not",
                &["route", "status"],
            ),
            http_seconds: seconds(
                "brigade_http_request_seconds",
                "Time from a request's head to the head of its answer",
                &["route"],
            ),
            http_rate_limited: registry.counters(
                "brigade_http_rate_limited_total",
                "Requests over HTTP that were refused by a bucket: address, token, login, user, strangers, guests or tenant",
                &["policy"],
            ),
            gateway_messages: registry.counters(
                "brigade_gateway_messages_total",
                "Messages of payment gateways by what became of them: taken, repeated, ignored \
                 (nothing of a payment of ours), forged (not signed, or too long ago), refused (and \
                 refused again), failed (to be sent again)",
                &["result"],
            ),
            queries_waiting: registry
                .gauge("brigade_queries_waiting", "Queries that wait for a version or an outcome"),
            stale_304: registry.counter(
                "brigade_stale_304_total",
                "Answers 304 for a version below one that this edge had already seen; stays 0",
            ),
            content_from: registry.counters(
                "brigade_view_content_total",
                "Where the content of an answered view came from",
                &["from"],
            ),
            list_rows: registry.counters(
                "brigade_list_rows_total",
                "Where the rows of answered lists came from",
                &["from"],
            ),
            list_watched: registry.counters(
                "brigade_list_watched_total",
                "What the watch on active orders brought: row (memory has it whole and newer), \
                 half (its other part is to come), known (nothing newer), gone (expired or \
                 removed), refused (not as this build writes it)",
                &["what"],
            ),
            list_watch_lost: registry.counters(
                "brigade_list_watch_lost_total",
                "Times that the watch on active orders was lost and had to be made again, by why: \
                 connection, silent, gap, ended, refused",
                &["why"],
            ),
            list_watch_revision: registry.gauge(
                "brigade_list_watch_revision",
                "The last revision of active orders that the watch brought",
            ),
            list_watch_lag: registry.gauge(
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
            confirm_statements: registry.counter(
                "brigade_confirm_statements_total",
                "Statements that confirmed versions with SQL, each for all queries that waited",
            ),
            stream_readers: registry.gauge("brigade_stream_readers", "Readers of streams"),
            stream_hubs: registry.gauge(
                "brigade_stream_hubs",
                "Lists and views that are asked about for the readers of their streams",
            ),
            stream_changes: registry.counter(
                "brigade_stream_changes_total",
                "Changes sent to the readers of streams, each once however many they are",
            ),
            stream_ends: registry.counters(
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
        };
        metrics.create_labels();
        metrics
    }
}

impl EdgeMetrics {
    /// Creates every series that is known beforehand, so that it is exported as 0.
    fn create_labels(&self) {
        for endpoint in Endpoint::ALL {
            for status in endpoint.statuses() {
                self.queries.with_label_values(&[endpoint.as_str(), &status.to_string()]);
            }
            self.queries.with_label_values(&[endpoint.as_str(), UNANSWERED]);
        }
        for source in ContentSource::ALL {
            self.content_from.with_label_values(&[source.as_str()]);
        }
        for source in [ContentSource::Memory, ContentSource::Sql] {
            self.list_rows.with_label_values(&[source.as_str()]);
        }
        for row in WatchedRow::ALL {
            self.list_watched.with_label_values(&[row.as_str()]);
        }
        for loss in WatchLoss::ALL {
            self.list_watch_lost.with_label_values(&[loss.as_str()]);
        }
        for policy in ["address", "login", "user", "tenant"] {
            self.http_rate_limited.with_label_values(&[policy]);
        }
        for result in GatewayMessages::ALL {
            self.gateway_messages.with_label_values(&[result.as_str()]);
        }
        for end in StreamEnd::ALL {
            self.stream_ends.with_label_values(&[end.as_str()]);
        }
        self.list_watch_recovery_seconds.with_label_values::<&str>(&[]);
        self.list_display_seconds.with_label_values::<&str>(&[]);
        self.stream_display_seconds.with_label_values::<&str>(&[]);
    }

    /// Counts a response to a query over NATS.
    pub fn count_query(&self, endpoint: Endpoint, status: u16) {
        self.queries.with_label_values(&[endpoint.as_str(), &status.to_string()]).inc();
    }

    /// Counts a query that was dropped without a response.
    pub fn count_unanswered(&self, endpoint: Endpoint) {
        self.queries.with_label_values(&[endpoint.as_str(), UNANSWERED]).inc();
    }

    /// Records that a row that was changed at `at` (database clock) is in the memory of edge now.
    pub fn record_displayed(&self, at: Timestamp) {
        self.list_display_seconds.with_label_values::<&str>(&[]).observe(seconds_since(at));
    }

    /// Records that rows that changed at `ats` (milliseconds of the Unix time, database clock) are
    /// handed to readers of streams now.
    #[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
    pub fn record_pushed(&self, ats: impl Iterator<Item = i64>) {
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        for at in ats {
            let seconds = (now - i128::from(at)).max(0) as f64 / 1000.0;
            self.stream_display_seconds.with_label_values::<&str>(&[]).observe(seconds);
        }
    }
}

/// Counts itself in a gauge until it is dropped.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// Adds one to the gauge.
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
