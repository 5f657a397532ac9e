//! What a process serves over HTTP: `/livez`, `/readyz` and `/metrics`, and whatever one of its
//! workers puts into the [`Slot`].

mod problem;
mod serve;
mod slot;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use brigade_contracts::{Refusal, WorkerName};
use tower::ServiceExt;

use self::serve::Limits;
pub use self::{
    problem::{PROBLEM_JSON, Problem},
    serve::Serving,
    slot::{Filled, Slot},
};
use crate::infra::{Health, Metrics};

/// What the endpoints tell of.
#[derive(Clone)]
pub struct Told {
    pub metrics: Arc<Metrics>,
    pub workers: Vec<Health>,
}

/// How a process serves the API of a worker.
#[derive(Clone, Debug, Default)]
pub struct Api {
    /// Where the worker puts its routes while it is ready.
    pub slot: Slot,
    /// Whoever shows no token is trusted like a producer; for a process on loopback only.
    pub open: bool,
    /// Origins whose pages may read the answers.
    pub origins: Vec<axum::http::HeaderValue>,
}

/// Listens on `address` (port 0: any free one) and serves until what is returned is dropped.
///
/// # Errors
/// Where the address is taken.
pub async fn serve(address: SocketAddr, told: Told, slot: Slot) -> anyhow::Result<Serving> {
    let has_edge = told.workers.iter().any(|health| health.worker == WorkerName::Edge);
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(|State(told): State<Told>| async move { told.metrics.render() }))
        .with_state(told)
        .fallback(move |request| serve_slot(slot.clone(), has_edge, request));
    Serving::start(address, Limits::default(), router)
        .with_context(|| format!("cannot listen on {address}"))
}

async fn serve_slot(slot: Slot, has_edge: bool, request: Request) -> Result<Response, Problem> {
    match slot.router() {
        // A router has no error of its own.
        Some(router) => router.oneshot(request).await.map_err(|never| match never {}),
        None if request.uri().path().starts_with("/v1/") && !has_edge => {
            Err(Refusal::new(503, "no_edge", "no edge runs in this process").into())
        }
        None if request.uri().path().starts_with("/v1/") => {
            let message = "this process does not serve the API at the moment";
            let refusal = Refusal::new(503, "not_ready", message);
            Err(Refusal { retry_after_ms: Some(1000), ..refusal }.into())
        }
        None => Err(Refusal::new(404, "not_found", "there is no such path").into()),
    }
}

/// 503 where a worker hangs and could not be started again: the process should be killed. Nothing
/// that is away makes it so: that would kill a whole fleet for an outage of its servers.
async fn livez(State(told): State<Told>) -> (StatusCode, String) {
    lines(&told, "alive", Health::alive)
}

/// 503 where one of the workers is not ready.
async fn readyz(State(told): State<Told>) -> (StatusCode, String) {
    lines(&told, "ready", Health::ready)
}

/// One line a worker, or `no workers`; 503 where one of them is not what it should be.
fn lines(
    told: &Told,
    good: &str,
    is_good: impl Fn(&Health) -> Result<(), String>,
) -> (StatusCode, String) {
    let mut status = StatusCode::OK;
    if told.workers.is_empty() {
        return (status, "no workers\n".to_owned());
    }
    let lines = told.workers.iter().map(|health| {
        let line = match is_good(health) {
            Ok(()) => good.to_owned(),
            Err(why) => {
                status = StatusCode::SERVICE_UNAVAILABLE;
                why
            }
        };
        format!("{}: {line}\n", health.worker)
    });
    let body = lines.collect();
    (status, body)
}
