//! The replies to commands.

use axum::{
    body::Body,
    http::{
        HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY},
    },
};
use brigade_contracts::{
    Refusal, Secret,
    header::{REPLAYED, STATUS, missing_command_id},
};
use bytes::Bytes;
use serde::Deserialize;

use crate::{
    runtime::http::{IDEMPOTENCY_REPLAYED, Problem},
    workers::edge::http::response::NOT_STORED,
};

/// The reply to a command: its outcome, or why there is none.
pub struct OutcomeReply {
    status: StatusCode,
    /// The outcome was stored before.
    pub is_replayed: bool,
    body: Bytes,
}

impl OutcomeReply {
    /// Reads a reply; `None` if it has no status.
    pub fn read(message: async_nats::Message) -> Option<Self> {
        let headers = message.headers?;
        let status = headers.get(STATUS)?.as_str().parse().ok()?;
        let is_replayed = headers.get(REPLAYED).is_some();
        Some(Self { status, is_replayed, body: message.payload })
    }

    pub fn is_final(&self) -> bool {
        self.status != StatusCode::SERVICE_UNAVAILABLE && !self.is_of_earlier_version()
    }

    /// Returns whether a command-handler has replied that knows no name spaces: it has refused the
    /// Command-Id, which edge has read, and so decided nothing.
    pub fn is_of_earlier_version(&self) -> bool {
        #[derive(Deserialize)]
        struct Code<'a> {
            code: &'a str,
        }
        let code = || serde_json::from_slice(&self.body).map(|Code { code }| code);
        self.status == StatusCode::BAD_REQUEST
            && code().is_ok_and(|code| code == missing_command_id().code)
    }

    /// Returns the access token of a session that has begun or goes on.
    pub fn access_token(&self) -> Option<Secret> {
        #[derive(Deserialize)]
        struct Issued {
            access_token: Secret,
        }
        #[derive(Deserialize)]
        struct Outcome {
            data: Issued,
        }
        let outcome = serde_json::from_slice(&self.body).ok();
        outcome.map(|Outcome { data }| data.access_token).filter(|_| self.status.is_success())
    }

    /// Returns the outcome as JSON.
    ///
    /// # Errors
    /// The refusal, if it is one.
    pub fn success(self) -> Result<Bytes, Problem> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let mut problem = Problem::from_json(&self.body).unwrap_or_else(undecided);
        problem.is_replayed = self.is_replayed;
        Err(problem)
    }

    pub fn into_response(self) -> Result<Response<Body>, Problem> {
        #[derive(Deserialize)]
        struct TaggedOutcome {
            etag: Option<String>,
        }
        let (status, is_replayed) = (self.status, self.is_replayed);
        let body = self.success()?;
        let outcome = serde_json::from_slice(&body).ok();
        let etag =
            outcome.and_then(|outcome: TaggedOutcome| HeaderValue::try_from(outcome.etag?).ok());
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, NOT_STORED);
        headers.insert(VARY, HeaderValue::from_static("Authorization"));
        if let Some(etag) = etag {
            headers.insert(ETAG, etag);
        }
        if is_replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

pub fn undecided() -> Problem {
    let message = "the command is not decided, as far as is known; repeat it under its Command-Id";
    let refusal = Refusal::new(503, "undecided", message);
    Refusal { retry_after_ms: Some(1000), ..refusal }.into()
}
