//! `/livez`, `/readyz` and `/metrics` of a process.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use super::{Health, Metrics};

/// What the endpoints tell of.
#[derive(Clone)]
pub struct Told {
    pub metrics: Arc<Metrics>,
    pub workers: Vec<Health>,
}

/// Listens on `address` (port 0: any free one) and serves until the returned task is aborted.
///
/// # Errors
/// Where the address is taken.
pub async fn serve(
    address: SocketAddr,
    told: Told,
) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(|State(told): State<Told>| async move { told.metrics.render() }))
        .with_state(told);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health endpoints stopped");
        }
    });
    Ok((address, task))
}

/// One line a worker; 503 where one of them is not ready.
async fn readyz(State(told): State<Told>) -> (StatusCode, String) {
    let mut status = StatusCode::OK;
    let lines = told.workers.iter().map(|health| {
        let line = match health.ready() {
            Ok(()) => "ready".to_owned(),
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
