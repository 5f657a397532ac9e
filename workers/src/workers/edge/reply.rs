//! Answers to queries, and the one place that turns them into headers.

use std::borrow::Cow;

use async_nats::{
    HeaderMap,
    service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE},
};
use brigade_contracts::{Refusal, header, query::QueryError};
use bytes::Bytes;

/// An answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// The code, of an error.
    pub error: Option<Cow<'static, str>>,
    /// With its quotation marks.
    pub etag: Option<String>,
    /// The counters in KV confirmed it, not SQL.
    pub by_kv: bool,
    pub body: Bytes,
}

impl Reply {
    #[must_use]
    pub fn ok(body: Bytes) -> Self {
        Self { status: 200, error: None, etag: None, by_kv: false, body }
    }

    #[must_use]
    pub fn not_modified(etag: String) -> Self {
        Self { status: 304, etag: Some(etag), ..Self::ok(Bytes::new()) }
    }

    /// The version is not the one that was waited for; the body tells which it is.
    #[must_use]
    pub fn not_reached(present: u64) -> Self {
        let message = "the version asked for is not reached; the present one stands in `version`";
        let refusal = Refusal::new(504, "version_not_reached", message);
        Self::error(QueryError { version: Some(present), ..refusal.into() })
    }

    #[must_use]
    pub fn unconfirmed() -> Self {
        let message = "Postgres does not answer, so nothing is certain; ask again";
        let refusal = Refusal::new(503, "unconfirmed", message);
        Refusal { retry_after_ms: Some(200), ..refusal }.into()
    }

    #[must_use]
    pub fn busy() -> Self {
        let refusal = Refusal::new(503, "busy", "too many queries are waiting");
        Refusal { retry_after_ms: Some(500), ..refusal }.into()
    }

    /// Of a tenant that has its share of the places.
    #[must_use]
    pub fn too_many() -> Self {
        let message = "too many queries of this tenant are in hand";
        let refusal = Refusal::new(429, "too_many", message);
        Refusal { retry_after_ms: Some(500), ..refusal }.into()
    }

    #[must_use]
    pub fn bad_subject(expected: &'static str) -> Self {
        Refusal::new(400, "bad_subject", expected).into()
    }

    fn error(error: QueryError) -> Self {
        let body = serde_json::to_vec(&error).expect("a status and text serialise");
        Self { status: error.status, error: Some(error.code), ..Self::ok(body.into()) }
    }

    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let status = self.status.to_string();
        headers.insert(header::STATUS, status.as_str());
        if let Some(etag) = &self.etag {
            headers.insert(header::ETAG, etag.as_str());
        }
        if self.by_kv {
            headers.insert(header::CONFIRMED_BY, "kv");
        }
        if let Some(code) = &self.error {
            headers.insert(NATS_SERVICE_ERROR_CODE, status.as_str());
            headers.insert(NATS_SERVICE_ERROR, code.as_ref());
        }
        headers
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::error(refusal.into())
    }
}
