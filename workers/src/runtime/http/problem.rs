//! Errors over HTTP, as RFC 9457 writes them.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use brigade_contracts::{Refusal, query::QueryError};
use serde_json::{Map, Value};

/// The media type of RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error as RFC 9457 writes it: `type` (the path of a page that edge serves), `title`, `status`,
/// `detail` and `instance`, and all fields of the outcome or the reply that it is made of: `code`,
/// `message`, `retry_after_ms` and others.
///
/// A response that is made of one carries it among its extensions, so that the middleware, which
/// knows the number of the request, can add it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
    /// The request that it occurred in, as a URN.
    pub instance: Option<String>,
    /// It is the outcome of an earlier request under the same Command-Id, so waiting does not help.
    pub is_replayed: bool,
}

/// The header of an outcome that was stored before its request came.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

impl Problem {
    /// Reads an outcome or an error reply, which has `status`, `code` and `message`; `None` if the
    /// body is neither.
    #[must_use]
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let members: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let status = members.get("status")?.as_u64().and_then(|status| status.try_into().ok())?;
        let is_text = |name: &str| members.get(name).is_some_and(Value::is_string);
        let status = StatusCode::from_u16(status).ok()?;
        (is_text("code") && is_text("message")).then_some(Self {
            status,
            members,
            instance: None,
            is_replayed: false,
        })
    }

    /// Returns the code: a stable word for the kind of error.
    #[must_use]
    pub fn code(&self) -> &str {
        self.members["code"].as_str().unwrap_or_default()
    }

    /// Returns the field, the header or the parameter that is wrong, where it is one.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        self.members.get("param")?.as_str()
    }

    /// Names another field, header or parameter as the one that is wrong.
    #[must_use]
    pub fn of_param(mut self, param: &str) -> Self {
        self.members.insert("param".to_owned(), param.into());
        self
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Returns the time of `Retry-After` in whole seconds, rounded up.
    fn retry_after(&self) -> Option<u64> {
        let given = self.members.get("retry_after_ms").and_then(Value::as_u64);
        match self.status.as_u16() {
            423 | 429 => given,
            503 => given.or(Some(1000)),
            _ => None,
        }
        .map(|millis| millis.div_ceil(1000).max(1))
    }

    /// Returns the body of the response.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut members = self.members.clone();
        let code = self.code().to_owned();
        let standard = [
            ("type", Some(format!("/v1/errors/{code}"))),
            ("title", Some(code.replace('_', " "))),
            ("detail", members["message"].as_str().map(ToOwned::to_owned)),
            ("instance", self.instance.clone()),
        ];
        for (name, text) in standard {
            if let Some(text) = text {
                members.insert(name.to_owned(), text.into());
            }
        }
        serde_json::to_vec(&members).expect("text and values that were JSON before serialise")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let members = match serde_json::to_value(QueryError::from(refusal)) {
            Ok(Value::Object(members)) => members,
            _ => unreachable!("a struct with text and numbers becomes an object"),
        };
        Self { status, members, instance: None, is_replayed: false }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.is_replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        } else if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let invalid = self.code() == "invalid_token";
            let challenge = if invalid { r#"Bearer error="invalid_token""# } else { "Bearer" };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response.extensions_mut().insert(self);
        response
    }
}
