//! The HTTP server of a process: `/livez`, `/readyz` and `/metrics`, and the routes that one of its
//! workers mounts ([`RouterMount`]).

mod mount;
mod network;
mod problem;
mod serve;
mod tls;

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

pub use self::{
    mount::{MountedRouter, RouterMount},
    network::network_of,
    problem::{PROBLEM_JSON, Problem},
    serve::HttpServer,
    tls::TlsFiles,
};
use self::{serve::ConnectionLimits, tls::HttpTls};
use crate::infra::{Health, Metrics};

/// The state of a process, which the endpoints report.
#[derive(Clone)]
pub struct ProcessStatus {
    pub metrics: Arc<Metrics>,
    pub workers: Vec<Health>,
}

/// The settings of the API of a worker.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// The worker mounts its routes here while it is ready.
    pub mount: RouterMount,
    /// Requests without a token are trusted like a producer; for a process on loopback only.
    pub open: bool,
    /// Origins whose pages may read the responses.
    pub origins: Vec<axum::http::HeaderValue>,
}

/// Listens on `address` (port 0: any free one) and serves until what is returned is dropped.
///
/// # Errors
/// If the address is taken.
pub async fn serve(
    address: SocketAddr,
    status: ProcessStatus,
    mount: RouterMount,
) -> anyhow::Result<HttpServer> {
    serve_with(address, None, status, mount).await
}

/// The same with these files of a certificate: over HTTPS alone.
///
/// # Errors
/// If the address is taken, or the files cannot be used.
pub async fn serve_with(
    address: SocketAddr,
    tls: Option<TlsFiles>,
    status: ProcessStatus,
    mount: RouterMount,
) -> anyhow::Result<HttpServer> {
    let tls = tls.map(HttpTls::open).transpose()?;
    let has_edge = status.workers.iter().any(|health| health.worker == WorkerName::Edge);
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status)
        .fallback(move |request| serve_mounted(mount.clone(), has_edge, request));
    HttpServer::start(address, ConnectionLimits::default(), tls, router)
        .with_context(|| format!("cannot listen on {address}"))
}

/// Handles a request with the routes that are mounted.
async fn serve_mounted(
    mount: RouterMount,
    has_edge: bool,
    request: Request,
) -> Result<Response, Problem> {
    match mount.router() {
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

/// Handles `GET /metrics`.
async fn metrics(State(status): State<ProcessStatus>) -> String {
    status.metrics.render()
}

/// Handles `GET /livez`: 503 if a worker hangs and could not be started again, so the process
/// should be killed. A server that is unavailable does not cause it: that would kill a whole fleet
/// for an outage.
async fn livez(State(status): State<ProcessStatus>) -> (StatusCode, String) {
    report_workers(&status, "alive", Health::alive)
}

/// Handles `GET /readyz`: 503 if one of the workers is not ready.
async fn readyz(State(status): State<ProcessStatus>) -> (StatusCode, String) {
    report_workers(&status, "ready", Health::ready)
}

/// Returns one line for each worker, or `no workers`; 503 if one of them is not `good`.
fn report_workers(
    process: &ProcessStatus,
    good: &str,
    is_good: impl Fn(&Health) -> Result<(), String>,
) -> (StatusCode, String) {
    let mut status = StatusCode::OK;
    if process.workers.is_empty() {
        return (status, "no workers\n".to_owned());
    }
    let lines = process.workers.iter().map(|health| {
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
