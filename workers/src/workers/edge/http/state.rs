//! The state of the HTTP face, which all handlers share.

use std::sync::Arc;

use async_nats::Client;
use axum::extract::State;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::auth::Authorizer;
use crate::{
    infra::{Context, FailPoints},
    runtime::http::Problem,
    workers::edge::{
        live::LiveStreams,
        metrics::EdgeMetrics,
        query::{Query, QueryReply},
        shared::Edge,
    },
};

/// The state as handlers get it.
pub(super) type ApiState = State<Arc<HttpApi>>;

/// Everything that handlers use.
pub(in crate::workers::edge) struct HttpApi {
    pub(super) edge: Edge,
    pub(super) auth: Authorizer,
    pub(super) live: Arc<LiveStreams>,
    pub(super) nats: Client,
    pub(super) metrics: Arc<EdgeMetrics>,
    pub(super) drain: CancellationToken,
    pub(super) fail: FailPoints,
}

impl HttpApi {
    /// Creates the state. With `is_open`, requests on loopback without a token are trusted.
    #[must_use]
    pub fn new(
        edge: Edge,
        live: Arc<LiveStreams>,
        cx: &Context,
        is_open: bool,
        metrics: &Arc<EdgeMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            auth: Authorizer::new(edge.queries.clone(), is_open),
            edge,
            live,
            nats: cx.nats.client.clone(),
            metrics: metrics.clone(),
            drain: cx.drain.clone(),
            fail: cx.fail.clone(),
        })
    }

    /// Answers a query, and charges a large body to the tenant until it is written or the
    /// connection has ended.
    pub(super) async fn answer(&self, tenant: &str, query: Query) -> Result<QueryReply, Problem> {
        let mut reply = self.edge.queries.answer_tenant(query).await?;
        let body: Bytes = std::mem::take(&mut reply.body);
        reply.body = self.edge.budget.charge(tenant, body).map_err(QueryReply::from)?;
        Ok(reply)
    }
}
