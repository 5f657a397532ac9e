//! What all requests have in common: a number and a trace, a place among those in hand, a limit of
//! time, counts, the headers that every answer has, and one shape for every error.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Response,
        header::{
            CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
            REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::IntoResponse,
};
use brigade_contracts::{
    Refusal, Token,
    header::{TRACEPARENT, is_traceparent},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::admission::Admission;
use crate::{
    infra::{Context, Metrics},
    runtime::http::Problem,
    workers::edge::{Edge, places::Places},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same by another name, for whoever sends that one.
const OR_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Above the longest wait of 30 s and the time that a command is repeated.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);
/// The answers are data: no browser has to run, frame or guess anything.
const ON_EVERY_ANSWER: [(HeaderName, &str); 3] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
];

/// What it needs of edge.
#[derive(Clone)]
pub(super) struct Frame {
    /// Of requests in hand.
    in_hand: Places,
    /// Of those of whom nobody knows yet whose they are.
    strangers: Places,
    drain: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Frame {
    pub fn of(edge: &Edge) -> Self {
        let Context { drain, metrics, .. } = edge.cx.clone();
        let (in_hand, strangers) = (edge.in_hand.clone(), edge.strangers.clone());
        Self { in_hand, strangers, drain, metrics }
    }
}

pub(super) async fn frame(
    State(frame): State<Frame>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let started = Instant::now();
    let id = request_id(request.headers());
    let trace = traceparent(request.headers());
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or("none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("http", id, trace, method = %request.method(), route);
    if let Ok(trace) = trace.try_into() {
        request.headers_mut().insert(TRACEPARENT, trace);
    }
    let mut response = answer(&frame, request, next).instrument(span.clone()).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        response = told(response, &id);
    }
    finish(response.headers_mut(), &id, frame.drain.is_cancelled());
    count(&frame.metrics, &span, &route, response.status().as_u16(), started.elapsed());
    response
}

async fn answer(frame: &Frame, mut request: Request, next: Next) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
    let admission = match Admission::of_stranger(&frame.strangers, &frame.in_hand, from) {
        Ok(admission) => admission,
        Err(reply) => return Problem::from(reply).into_response(),
    };
    request.extensions_mut().insert(admission.clone());
    let answered = timeout(ANSWERED_WITHIN, next.run(request)).await;
    drop(admission);
    match answered {
        Ok(response) => response,
        Err(_) => {
            let message = "there was no answer in time; repeat a command under its Command-Id";
            Problem::from(Refusal::new(504, "too_slow", message)).into_response()
        }
    }
}

/// The number of a request: its sender's, if it is one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let told = headers.get(REQUEST_ID).or_else(|| headers.get(OR_REQUEST_ID));
    let told = told.and_then(|id| Token::new(id.to_str().ok()?).ok());
    told.map_or_else(|| Uuid::now_v7().to_string(), |id| id.to_string())
}

/// The trace that a request belongs to; a new one where it names none.
fn traceparent(headers: &HeaderMap) -> String {
    let told = headers.get(TRACEPARENT).and_then(|trace| trace.to_str().ok());
    let told = told.filter(|trace| is_traceparent(trace)).map(str::to_owned);
    told.unwrap_or_else(|| {
        format!("00-{:032x}-{:016x}-01", rand::random::<u128>(), rand::random::<u64>())
    })
}

/// An error with a body that says what it is and which request it answered.
fn told(response: Response<Body>, id: &str) -> Response<Body> {
    let (parts, _nothing) = response.into_parts();
    let known = parts.extensions.get::<Problem>().cloned();
    let mut problem = known.unwrap_or_else(|| of_status(parts.status.as_u16()).into());
    problem.instance = Some(format!("urn:brigade:request:{id}"));
    let mut response = problem.into_response();
    // Such as Allow, which stand beside an error.
    for (name, value) in &parts.headers {
        if ![CONTENT_TYPE, CONTENT_LENGTH].contains(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// What has no problem of its own: errors of the router.
fn of_status(status: u16) -> Refusal {
    match status {
        404 => Refusal::new(404, "not_found", "there is no such path"),
        405 => Refusal::new(405, "bad_method", "the methods of this path stand in Allow"),
        400 => Refusal::new(400, "bad_subject", "a path that cannot be read"),
        _ => Refusal::new(500, "internal", "this was not foreseen, and is in the log"),
    }
}

fn finish(headers: &mut HeaderMap, id: &str, draining: bool) {
    for (name, value) in ON_EVERY_ANSWER {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(id) = id.try_into() {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(VARY).or_insert(HeaderValue::from_static("Authorization"));
    if draining {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn count(metrics: &Metrics, span: &tracing::Span, route: &str, status: u16, took: Duration) {
    metrics.http_requests.with_label_values(&[route, &status.to_string()]).inc();
    metrics.http_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    if status >= 500 {
        tracing::info!(parent: span, status, ?took, "not answered as asked");
    } else {
        tracing::debug!(parent: span, status, ?took, "answered");
    }
}

#[cfg(test)]
mod tests;
