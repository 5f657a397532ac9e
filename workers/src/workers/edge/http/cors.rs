use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::CorsLayer;

/// How long a browser may remember what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// What a page may send besides what browsers let it.
const SENT: [&str; 13] = [
    "authorization",
    "command-id",
    "confirm",
    "content-type",
    "deadline",
    "expected-version",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "min-version",
    "prefer",
    "resume",
    "traceparent",
];
/// What a page may read besides what browsers let it.
const READ: [&str; 6] = [
    "brigade-confirmed-by",
    "etag",
    "preference-applied",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];

/// Lets pages of these origins send and read; none: nobody's.
pub(super) fn layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let layer = || {
        CorsLayer::new()
            .allow_origin(origins.to_vec())
            .allow_methods([Method::GET, Method::HEAD, Method::POST])
            .allow_headers(SENT.map(HeaderName::from_static))
            .expose_headers(READ.map(HeaderName::from_static))
            .max_age(REMEMBERED)
    };
    (!origins.is_empty()).then(layer)
}
