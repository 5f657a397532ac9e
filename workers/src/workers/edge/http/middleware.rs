//! The middleware of all requests: it gives each a number and a trace, admits it, bounds its time,
//! counts it, and gives every response its headers and every error one shape.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version,
        header::{
            CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
            REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::IntoResponse,
};
use brigade_contracts::{
    Refusal, Token,
    header::{TRACEPARENT, bad, is_traceparent},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    admission::{ClaimedIdentity, HttpAdmission, RequestPermit},
    parameters::{require_known, told_of_parameter},
};
use crate::{
    runtime::http::{ClientAddress, Problem},
    workers::edge::metrics::{EdgeMetrics, NO_ROUTE},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Another name of it that clients use.
const OTHER_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const HOST_NAME: &str = "Host";
/// Above the longest wait of 30 s and the time that a command is repeated.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);
/// The headers of every response. Responses are data: no browser has to run, frame or guess
/// anything.
const COMMON_HEADERS: [(HeaderName, &str); 3] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
];

/// The parts of edge that the middleware uses.
#[derive(Clone)]
pub(super) struct RequestContext {
    pub admission: HttpAdmission,
    pub drain: CancellationToken,
    pub metrics: Arc<EdgeMetrics>,
}

/// Handles a request: runs its handler, and completes the response.
pub(super) async fn handle_request(
    State(context): State<RequestContext>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let started = Instant::now();
    let id = request_id(request.headers());
    let trace = traceparent(request.headers());
    // HTTP/2 says so by itself.
    let may_be_closed_after = request.version() < Version::HTTP_2;
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or(NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("http", id, trace, method = %request.method(), route);
    if let Ok(trace) = trace.try_into() {
        request.headers_mut().insert(TRACEPARENT, trace);
    }
    let query = request.uri().query().map(str::to_owned);
    let mut response =
        run_handler(&context.admission, request, next).instrument(span.clone()).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        response = into_problem(response, &id, query.as_deref());
    }
    let is_closed_after = may_be_closed_after && context.drain.is_cancelled();
    add_common_headers(response.headers_mut(), &id, is_closed_after);
    record(&context.metrics, &span, &route, response.status().as_u16(), started.elapsed());
    response
}

/// Admits a request and runs its handler, which has to respond in time.
async fn run_handler(
    admission: &HttpAdmission,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let client = request.extensions().get::<ClientAddress>();
    let from = client.map_or(IpAddr::from([0, 0, 0, 0]), |client| client.0);
    let claimed = ClaimedIdentity::of(&request);
    let permit = match RequestPermit::unconfirmed(admission, from, claimed) {
        Ok(permit) => permit,
        Err(error) => return Problem::from(error).into_response(),
    };
    request.extensions_mut().insert(permit.clone());
    let responded = async {
        permit.take_first()?;
        require_readable(&request)?;
        let responded = timeout(RESPONSE_TIMEOUT, next.run(request)).await;
        responded.map_err(|_| {
            let message = "there was no answer in time; repeat a command under its Command-Id";
            Problem::from(Refusal::new(504, "too_slow", message))
        })
    };
    let mut response = responded.await.unwrap_or_else(IntoResponse::into_response);
    if response.status() == StatusCode::UNAUTHORIZED {
        permit.forget();
    }
    permit.add_rate_fields(response.headers_mut());
    response
}

/// Refuses what would be read in one way here and in another one elsewhere: two hosts, of which a
/// proxy may have looked at the other one, and parameters that nothing reads.
fn require_readable(request: &Request) -> Result<(), Refusal> {
    if request.headers().get_all(HOST).iter().nth(1).is_some() {
        return Err(bad(HOST_NAME));
    }
    match request.extensions().get::<MatchedPath>() {
        Some(route) => require_known(route.as_str(), request.uri().query()),
        None => Ok(()),
    }
}

/// Returns the number of a request: its sender's, if it is a token, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).or_else(|| headers.get(OTHER_REQUEST_ID));
    let given = given.and_then(|id| Token::new(id.to_str().ok()?).ok());
    given.map_or_else(|| Uuid::now_v7().to_string(), |id| id.to_string())
}

/// Returns the trace of a request: its sender's, if it is one, else a new one.
fn traceparent(headers: &HeaderMap) -> String {
    let given = headers.get(TRACEPARENT).and_then(|trace| trace.to_str().ok());
    let given = given.filter(|trace| is_traceparent(trace)).map(str::to_owned);
    given.unwrap_or_else(|| {
        format!("00-{:032x}-{:016x}-01", rand::random::<u128>(), rand::random::<u64>())
    })
}

/// Returns an error with a body that says what it is, and names the request.
fn into_problem(response: Response<Body>, id: &str, query: Option<&str>) -> Response<Body> {
    let (mut parts, _body) = response.into_parts();
    let known = parts.extensions.get::<Problem>().cloned();
    let problem = known.unwrap_or_else(|| router_error(parts.status.as_u16()).into());
    let mut problem = told_of_parameter(problem, query);
    problem.instance = Some(format!("urn:brigade:request:{id}"));
    let mut response = problem.into_response();
    // Such as Allow, which belongs to the error.
    for of_body in [CONTENT_TYPE, CONTENT_LENGTH] {
        parts.headers.remove(of_body);
    }
    response.headers_mut().extend(parts.headers);
    response
}

/// Returns the refusal for an error of the router, which has no problem of its own.
fn router_error(status: u16) -> Refusal {
    match status {
        404 => Refusal::new(404, "not_found", "there is no such path"),
        405 => Refusal::new(405, "bad_method", "the methods of this path stand in Allow"),
        400 => Refusal::new(400, "bad_subject", "a path that cannot be read"),
        _ => Refusal::new(500, "internal", "this was not foreseen, and is in the log"),
    }
}

fn add_common_headers(headers: &mut HeaderMap, id: &str, is_closed_after: bool) {
    for (name, value) in COMMON_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(id) = id.try_into() {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(VARY).or_insert(HeaderValue::from_static("Authorization"));
    if is_closed_after {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Counts and logs a response.
fn record(
    metrics: &EdgeMetrics,
    span: &tracing::Span,
    route: &str,
    status: u16,
    elapsed: Duration,
) {
    metrics.http_requests.with_label_values(&[route, &status.to_string()]).inc();
    metrics.http_seconds.with_label_values(&[route]).observe(elapsed.as_secs_f64());
    if status >= 500 {
        tracing::info!(parent: span, status, ?elapsed, "request failed");
    } else {
        tracing::debug!(parent: span, status, ?elapsed, "request answered");
    }
}

#[cfg(test)]
mod tests;
