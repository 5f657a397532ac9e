//! The HTTP face of the product: commands and queries under `/v1/{tenant}`, for programs of
//! customers and staff, who send the access token of a session.
//!
//! A command goes through the request door of NATS like any other ([`commands`]); a query is
//! answered by [`super::query`] ([`queries`], [`lists`], [`streams`]), so nothing is decided twice. What is
//! particular to HTTP is only authentication ([`auth`]), authorization ([`policy`]), and what all
//! requests have in common ([`middleware`], [`admission`]).

mod admission;
mod auth;
mod commands;
mod cookies;
mod cors;
mod errors;
mod extract;
mod gateways;
mod known_tokens;
mod lists;
mod middleware;
mod openapi;
mod parameters;
mod policy;
mod queries;
mod rates;
mod response;
mod sessions;
mod state;
mod streams;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::Response,
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{MethodRouter, delete, get, post},
};
use brigade_contracts::Refusal;
use tower_http::catch_panic::CatchPanicLayer;

#[cfg(any(test, feature = "testing"))]
pub use self::gateways::decode_unsigned;
pub(super) use self::state::HttpApi;
use self::{
    admission::HttpAdmission,
    middleware::{RequestContext, handle_request},
    rates::RateBuckets,
};
use crate::runtime::http::{ApiOptions, Problem};

/// Returns every path that is served, and its handlers.
fn routes() -> [(&'static str, MethodRouter<Arc<HttpApi>>); 27] {
    [
        ("/v1/openapi.json", get(openapi::get_openapi)),
        ("/v1/errors", get(errors::get_errors)),
        ("/v1/errors/{code}", get(errors::get_error)),
        ("/v1/{tenant}/active-orders", get(lists::get_active_orders)),
        ("/v1/{tenant}/active-orders/stream", get(streams::stream_active_orders)),
        ("/v1/{tenant}/products", get(lists::get_products)),
        ("/v1/{tenant}/tables", get(lists::get_tables)),
        ("/v1/{tenant}/ended-orders", get(lists::get_ended_orders)),
        ("/v1/{tenant}/refund-tasks", get(lists::get_refund_tasks)),
        ("/v1/{tenant}/unknown-payments", get(lists::get_unknown_payments)),
        ("/v1/{tenant}/locks/{owner}", get(lists::get_lock)),
        ("/v1/{tenant}/locks/{owner}/history", get(lists::get_lock_history)),
        ("/v1/{tenant}/me/carts", get(lists::get_my_carts)),
        ("/v1/{tenant}/me/orders", get(lists::get_my_orders)),
        ("/v1/{tenant}/day-close", get(queries::get_day_close)),
        ("/v1/{tenant}/gateways/{gateway}", post(gateways::post_message)),
        ("/v1/{tenant}/outcomes/{command_id}", get(queries::get_outcome)),
        ("/v1/{tenant}/{aggregate}/{id}", get(queries::get_aggregate)),
        ("/v1/{tenant}/sessions", post(sessions::post_session)),
        ("/v1/{tenant}/sessions/refresh", post(sessions::post_refresh)),
        ("/v1/{tenant}/sessions/current", delete(sessions::delete_session)),
        ("/v1/{tenant}/password-resets", post(sessions::post_password_reset)),
        ("/v1/{tenant}/me", get(sessions::get_me)),
        ("/v1/{tenant}/introspect", post(sessions::post_introspect)),
        ("/v1/{tenant}/user/{id}/sessions", get(queries::get_sessions)),
        ("/v1/{tenant}/{aggregate}/{id}/stream", get(streams::stream_aggregate)),
        ("/v1/{tenant}/{aggregate}/{id}/{verb}", post(commands::post_command)),
    ]
}

/// Returns the API as a router.
pub(super) fn router(api: Arc<HttpApi>, options: &ApiOptions) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        api.metrics.http_requests.with_label_values(&[path, "200"]);
        router = router.route(path, handler);
    }
    let context = RequestContext {
        admission: HttpAdmission {
            in_flight: api.edge.admission.clone(),
            rates: Arc::new(RateBuckets::new(options.rates)),
            known: Arc::default(),
            metrics: api.metrics.clone(),
        },
        drain: api.drain.clone(),
        metrics: api.metrics.clone(),
    };
    let router = router
        .layer(CatchPanicLayer::custom(panic_response))
        .layer(from_fn_with_state(context, handle_request))
        .with_state(api);
    match cors::layer(&options.origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// Returns the response to a request whose handler panicked, which was logged where it happened.
fn panic_response(_panic: Box<dyn Any + Send>) -> Response<Body> {
    let message = "this was not foreseen, and is in the log; repeat a command under its Command-Id";
    Problem::from(Refusal::new(500, "internal", message)).into_response()
}
