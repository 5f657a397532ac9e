//! The HTTP face of the product: commands and queries under `/v1/{tenant}`, for programs of
//! customers and staff, who show the access token of a session.
//!
//! A command goes through the request door of NATS like any other ([`commands`]); a query is
//! answered by the functions that answer those of NATS ([`reads`]), so nothing is decided twice.
//! What is new here is only who asks ([`who`]), what they may ([`rules`]), and what stands around
//! a request ([`frame`], [`admission`]).

mod admission;
mod commands;
mod cors;
mod frame;
mod head;
mod openapi;
mod reads;
mod rules;
mod stream;
mod who;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::Response,
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{MethodRouter, get, post},
};
use brigade_contracts::Refusal;
use tower_http::catch_panic::CatchPanicLayer;

use self::frame::Frame;
use super::Edge;
use crate::runtime::http::Problem;

/// What handlers get.
type Shared = axum::extract::State<Arc<Edge>>;

/// Every path that is served, and by what.
fn routes() -> [(&'static str, MethodRouter<Arc<Edge>>); 7] {
    [
        ("/v1/openapi.json", get(openapi::openapi)),
        ("/v1/{tenant}/active-orders", get(reads::active_orders)),
        ("/v1/{tenant}/active-orders/stream", get(stream::active_orders)),
        ("/v1/{tenant}/outcomes/{command_id}", get(reads::outcome)),
        ("/v1/{tenant}/{aggregate}/{id}", get(reads::aggregate)),
        ("/v1/{tenant}/{aggregate}/{id}/stream", get(stream::aggregate)),
        ("/v1/{tenant}/{aggregate}/{id}/{verb}", post(commands::command)),
    ]
}

/// The API, for the process to serve.
pub(super) fn router(edge: &Arc<Edge>) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        edge.cx.metrics.http_requests.with_label_values(&[path, "200"]);
        router = router.route(path, handler);
    }
    let router = router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Frame::of(edge), frame::frame))
        .with_state(edge.clone());
    match cors::layer(&edge.settings.http.origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// The panic itself was logged where it happened.
fn panicked(_what: Box<dyn Any + Send>) -> Response<Body> {
    let message = "this was not foreseen, and is in the log; repeat a command under its Command-Id";
    Problem::from(Refusal::new(500, "internal", message)).into_response()
}
