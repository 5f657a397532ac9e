//! What a process tells whoever looks after it: `/livez`, `/readyz` and `/metrics`. It is served on
//! an address of its own, so that strangers neither read it nor keep others from reading it.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::infra::{Health, Metrics};

/// The state of a process, which the endpoints report.
#[derive(Clone)]
pub struct ProcessStatus {
    pub metrics: Arc<Metrics>,
    pub workers: Vec<Health>,
}

/// Returns the endpoints of a process.
pub(super) fn router(status: ProcessStatus) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status)
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
