//! Cross-origin requests: which pages of other origins a browser lets read the API.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::CorsLayer;

/// The time for which a browser may remember the permissions.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// The headers that a page may send, beside those that browsers always allow.
const REQUEST_HEADERS: [&str; 14] = [
    "authorization",
    "brigade-csrf",
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
/// The headers that a page may read, beside those that browsers always allow.
const RESPONSE_HEADERS: [&str; 10] = [
    "brigade-confirmed-by",
    "etag",
    "idempotency-replayed",
    "link",
    "preference-applied",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];

/// Returns the layer that lets pages of these origins use the API; `None` without any.
pub(super) fn layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let layer = || {
        CorsLayer::new()
            .allow_origin(origins.to_vec())
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
            .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
            .max_age(MAX_AGE)
    };
    (!origins.is_empty()).then(layer)
}
