//! Responses to queries, in the words of the contract: any transport can write them.

use std::borrow::Cow;

use brigade_contracts::{Refusal, query::QueryError};
use bytes::Bytes;
use serde::Serialize;

use super::database::LoadError;
use crate::workers::edge::{admission::AdmissionError, response_budget::BudgetExceeded};

/// A response to a query. Errors are responses too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryReply {
    /// The status, as in HTTP.
    pub status: u16,
    /// The code of an error.
    pub error: Option<Cow<'static, str>>,
    /// The entity tag, with its quotation marks.
    pub etag: Option<String>,
    /// The beginning of the next page, if it is a page and there is one.
    pub next: Option<String>,
    /// The counters in KV confirmed it, not SQL.
    pub by_kv: bool,
    /// JSON, or nothing.
    pub body: Bytes,
}

impl QueryReply {
    /// Returns `200` with a body.
    #[must_use]
    pub fn ok(body: Bytes) -> Self {
        Self { status: 200, error: None, etag: None, next: None, by_kv: false, body }
    }

    /// Returns `200` with a body that is written as JSON.
    ///
    /// # Panics
    /// If the body does not serialise; those of queries do.
    #[must_use]
    pub fn json(body: &impl Serialize) -> Self {
        Self::ok(serde_json::to_vec(body).expect("shapes of the contract serialise").into())
    }

    /// Returns `304` with the present entity tag.
    #[must_use]
    pub fn not_modified(etag: String) -> Self {
        Self { status: 304, etag: Some(etag), ..Self::ok(Bytes::new()) }
    }

    /// Returns `504`: the version that was waited for is not reached. The body has the present one.
    #[must_use]
    pub fn not_reached(present: u64) -> Self {
        let message = "the version asked for is not reached; the present one stands in `version`";
        let refusal = Refusal::new(504, "version_not_reached", message);
        Self::error(QueryError { version: Some(present), ..refusal.into() })
    }

    /// Returns `503`: nothing can be confirmed with SQL.
    #[must_use]
    pub fn unconfirmed() -> Self {
        let message = "Postgres does not answer, so nothing is certain; ask again";
        let refusal = Refusal::new(503, "unconfirmed", message);
        Refusal { retry_after_ms: Some(200), ..refusal }.into()
    }

    /// Returns `503`: what SQL holds cannot be read, which is in the log. It may be the release that
    /// cannot, so it is worth asking again.
    #[must_use]
    pub fn unreadable() -> Self {
        let message = "what is stored cannot be read by this edge, so nothing is certain; it is in \
                       its log";
        let refusal = Refusal::new(503, "unconfirmed", message);
        Refusal { retry_after_ms: Some(1000), ..refusal }.into()
    }

    /// Returns `503`: edge has no capacity left for anybody.
    #[must_use]
    pub fn busy() -> Self {
        let refusal = Refusal::new(503, "busy", "too many queries are waiting");
        Refusal { retry_after_ms: Some(500), ..refusal }.into()
    }

    /// Returns `429`: the tenant has its share of the queries in flight.
    #[must_use]
    pub fn too_many() -> Self {
        let message = "too many queries of this tenant are in hand";
        let refusal = Refusal::new(429, "too_many", message);
        Refusal { retry_after_ms: Some(500), ..refusal }.into()
    }

    /// Returns `429`: the tenant's clients have not read what they were sent.
    #[must_use]
    pub fn too_many_unread() -> Self {
        let message = "large answers of this tenant wait to be read by its clients";
        let refusal = Refusal::new(429, "too_many", message);
        Refusal { retry_after_ms: Some(1000), ..refusal }.into()
    }

    /// Returns `400`: the subject is not one of a query.
    #[must_use]
    pub fn bad_subject(expected: &'static str) -> Self {
        Refusal::new(400, "bad_subject", expected).into()
    }

    fn error(error: QueryError) -> Self {
        let body = serde_json::to_vec(&error).expect("a status and text serialise");
        Self { status: error.status, error: Some(error.code), ..Self::ok(body.into()) }
    }
}

impl From<Refusal> for QueryReply {
    fn from(refusal: Refusal) -> Self {
        Self::error(refusal.into())
    }
}

impl From<LoadError> for QueryReply {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unavailable => Self::unconfirmed(),
            LoadError::Fault => Self::unreadable(),
        }
    }
}

impl From<AdmissionError> for QueryReply {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::Full => Self::busy(),
            AdmissionError::ShareExceeded => Self::too_many(),
        }
    }
}

impl From<BudgetExceeded> for QueryReply {
    fn from(exceeded: BudgetExceeded) -> Self {
        match exceeded {
            BudgetExceeded::Total => Self::busy(),
            BudgetExceeded::Share => Self::too_many_unread(),
        }
    }
}
