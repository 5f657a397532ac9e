//! The HTTP face of the product: commands and queries under `/v1/{tenant}`, for programs of
//! customers and staff, who show the access token of a session.
//!
//! A command goes through the request door of NATS like any other ([`commands`]); a query is
//! answered by the functions that answer those of NATS ([`reads`]), so nothing is decided twice.
//! What is new here is only who asks and what they may ([`who`]).

mod commands;
mod head;
mod reads;
mod stream;
mod who;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use super::Edge;

/// What handlers get.
type Shared = axum::extract::State<Arc<Edge>>;

/// Every path that is served.
pub(super) fn router(edge: &Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/{tenant}/active-orders", get(reads::active_orders))
        .route("/v1/{tenant}/active-orders/stream", get(stream::active_orders))
        .route("/v1/{tenant}/outcomes/{command_id}", get(reads::outcome))
        .route("/v1/{tenant}/{aggregate}/{id}", get(reads::aggregate))
        .route("/v1/{tenant}/{aggregate}/{id}/stream", get(stream::aggregate))
        .route("/v1/{tenant}/{aggregate}/{id}/{verb}", post(commands::command))
        .with_state(edge.clone())
}
