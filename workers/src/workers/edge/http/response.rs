//! Responses over HTTP, made of the replies to queries.

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY},
    },
};
use brigade_contracts::{Refusal, header::CONFIRMED_BY};

use crate::{
    runtime::http::Problem,
    workers::edge::{admission::AdmissionError, query::QueryReply},
};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// A response that may be stored, but is revalidated by its ETag each time.
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");
/// A response that is the same for everybody and changes with a release only.
pub(super) const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=300");
/// A response that must not be stored.
pub(super) const NOT_STORED: HeaderValue = HeaderValue::from_static("no-store");

/// Returns a reply with the headers of HTTP. `wait` is the preference that was applied.
pub(super) fn query_response(reply: QueryReply, wait: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    if reply.status != 304 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(CACHE_CONTROL, if reply.etag.is_some() { REVALIDATED } else { NOT_STORED });
    headers.insert(VARY, HeaderValue::from_static("Authorization"));
    if let Some(etag) = reply.etag.and_then(|etag| etag.try_into().ok()) {
        headers.insert(ETAG, etag);
    }
    if reply.by_kv {
        headers.insert(CONFIRMED_BY, HeaderValue::from_static("kv"));
    }
    if let Some(applied) = wait.and_then(|wait| format!("wait={}", wait.as_secs()).try_into().ok())
    {
        headers.insert(PREFERENCE_APPLIED, applied);
    }
    response
}

/// Converts a reply that is an error.
impl From<QueryReply> for Problem {
    fn from(reply: QueryReply) -> Self {
        Self::from_json(&reply.body).unwrap_or_else(|| {
            Refusal::new(500, "internal", "an answer that cannot be told").into()
        })
    }
}

impl From<AdmissionError> for Problem {
    fn from(error: AdmissionError) -> Self {
        QueryReply::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_becomes_a_response() {
        let found = QueryReply { etag: Some("\"7\"".to_owned()), ..QueryReply::ok("{}".into()) };
        let response = query_response(found, Some(Duration::from_secs(5)));
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header("etag"), Some("\"7\""));
        assert_eq!(header("cache-control"), Some("no-cache"));
        assert_eq!(header("preference-applied"), Some("wait=5"));
        assert_eq!(header("content-type"), Some("application/json"));
        let same = query_response(QueryReply::not_modified("\"7\"".to_owned()), None);
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(same.headers().get("content-type"), None);
    }
}
