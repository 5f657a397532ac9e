//! The HTTP servers of a process: that of its operators ([`serve_admin`]), and, where edge runs in
//! it, that of the API, whose routes edge mounts while it is ready ([`RouterMount`]).

mod admin;
mod client_address;
mod connection;
mod idle;
mod mount;
mod network;
mod problem;
mod progress;
mod rates;
mod serve;
mod tls;
mod unread;

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{Router, extract::Request, response::Response};
use brigade_contracts::Refusal;
use tower::ServiceExt;

pub use self::{
    admin::ProcessStatus,
    client_address::{ClientAddress, TrustedProxies},
    mount::{MountedRouter, RouterMount},
    network::network_of,
    problem::{IDEMPOTENCY_REPLAYED, PROBLEM_JSON, Problem},
    rates::{Rate, RateLimits},
    serve::HttpServer,
    tls::TlsFiles,
};
use self::{
    serve::{ConnectionLimits, Served},
    tls::HttpTls,
};

/// The settings of the API of a worker.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// The worker mounts its routes here while it is ready.
    pub mount: RouterMount,
    /// Requests without a token are trusted like a producer; for a process on loopback only.
    pub open: bool,
    /// Origins whose pages may read the responses.
    pub origins: Vec<axum::http::HeaderValue>,
    /// The proxies that are believed what they tell of their clients.
    pub trusted_proxies: TrustedProxies,
    /// The rates at which requests are served; by default any.
    pub rates: RateLimits,
}

/// Listens on `address` (port 0: any free one) and serves `/livez`, `/readyz` and `/metrics` until
/// what is returned is dropped.
///
/// # Errors
/// If the address is taken.
pub async fn serve_admin(address: SocketAddr, status: ProcessStatus) -> anyhow::Result<HttpServer> {
    let (router, proxies) = (admin::router(status), TrustedProxies::default());
    HttpServer::start(address, ConnectionLimits::of_admin(), Served { router, tls: None, proxies })
        .with_context(|| format!("cannot listen on {address}"))
}

/// Listens on `address` (port 0: any free one) and serves what is mounted until what is returned is
/// dropped; with the files of a certificate over HTTPS alone.
///
/// # Errors
/// If the address is taken, or the files cannot be used.
pub async fn serve_api(
    address: SocketAddr,
    tls: Option<TlsFiles>,
    options: &ApiOptions,
) -> anyhow::Result<HttpServer> {
    let (mount, proxies) = (options.mount.clone(), options.trusted_proxies.clone());
    let tls = tls.map(HttpTls::open).transpose()?;
    let router = Router::new().fallback(move |request| serve_mounted(mount.clone(), request));
    HttpServer::start(address, ConnectionLimits::default(), Served { router, tls, proxies })
        .with_context(|| format!("cannot listen on {address}"))
}

/// Handles a request with the routes that are mounted.
async fn serve_mounted(mount: RouterMount, request: Request) -> Result<Response, Problem> {
    match mount.router() {
        // A router has no error of its own.
        Some(router) => router.oneshot(request).await.map_err(|never| match never {}),
        None if request.uri().path().starts_with("/v1/") => {
            let message = "this process does not serve the API at the moment";
            let refusal = Refusal::new(503, "not_ready", message);
            Err(Refusal { retry_after_ms: Some(1000), ..refusal }.into())
        }
        None => Err(Refusal::new(404, "not_found", "there is no such path").into()),
    }
}
