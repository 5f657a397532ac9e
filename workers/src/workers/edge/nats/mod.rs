//! Queries over NATS: endpoints of one service, shared by all edges.
//!
//! A request becomes a [`Query`](super::query::Query) ([`request`]), is answered in a task of its
//! own, and the reply becomes a message ([`response`]). Each endpoint serves tenants in turn. What
//! is sent cannot be taken back, so memory for a large response is reserved before it is made
//! ([`super::response_budget`]), and a tenant's queries wait for that.
//!
//! A drain answers every query that the server gave to this edge.

mod request;
mod response;
mod service;
mod service_info;

use std::sync::Arc;

use brigade_contracts::permissions::is_from_tenant;
use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};

pub use self::service::MicroService;
use self::{response::response_headers, service::ServiceEndpoint};
use super::{metrics::EdgeMetrics, query::QueryReply, shared::Edge};
use crate::{
    infra::{Context, intake::IntakeSubscription},
    runtime::{
        Delivery,
        consume::{FairQueue, HasTenant},
    },
};

/// The most queries of a tenant that wait for their turn at an endpoint, to be answered or refused.
/// Further ones get no response: to refuse one takes as long as to answer it.
const MAX_QUEUED: usize = 8_192;
/// The most of them if they are large.
const MAX_QUEUED_LARGE: usize = 64;
/// A query of more bytes is large; nearly all have none but their subject.
const LARGE_QUERY: usize = 4 * 1024;
/// The most queries that are started before the next look at the subscription.
const MAX_STARTS: usize = 64;
/// The most batches of messages that are queued at once.
const MAX_BATCHES: usize = 1024;
/// A response of more bytes counts as sent only when it is written to the connection.
const LARGE_RESPONSE: usize = 64 * 1024;

/// Answers the queries of the service.
pub struct QueryServer {
    edge: Edge,
    cx: Context,
    metrics: Arc<EdgeMetrics>,
}

impl QueryServer {
    /// Creates a server of these queries.
    #[must_use]
    pub fn new(edge: Edge, cx: Context, metrics: Arc<EdgeMetrics>) -> Self {
        Self { edge, cx, metrics }
    }

    /// Answers the queries of an endpoint until the drain, and then those that are under way; those
    /// of all tenants in turn.
    pub async fn serve(
        self: Arc<Self>,
        endpoint: Arc<ServiceEndpoint>,
        mut requests: IntakeSubscription,
    ) {
        let mut queue = FairQueue::default();
        let mut tasks = JoinSet::new();
        let (mut is_draining, mut is_open) = (false, true);
        while is_open || !queue.is_empty() {
            let first = tokio::select! {
                first = requests.next(), if is_open => first.or_else(|| {
                    is_open = false;
                    None
                }),
                () = self.cx.drain.cancelled(), if !is_draining => {
                    is_draining = true;
                    requests.stop();
                    None
                }
                Some(done) = tasks.join_next() => {
                    log_panic(done);
                    None
                }
                () = tokio::task::yield_now(), if !queue.is_empty() => None,
            };
            // All that has come is sorted first: what waits in a row is served in a row.
            let more = (0..MAX_BATCHES).map_while(|_| requests.next_at_once());
            for request in first.into_iter().chain(more).flatten() {
                self.enqueue(&endpoint, &mut queue, Delivery::request(request, 0));
            }
            while let Some(done) = tasks.try_join_next() {
                log_panic(done);
            }
            for query in (0..MAX_STARTS).map_while(|_| queue.pop()).collect::<Vec<_>>() {
                self.start(&endpoint, query, &mut tasks).await;
            }
        }
        while let Some(done) = tasks.join_next().await {
            log_panic(done);
        }
    }

    /// Queues a query, or drops it if too many of its tenant are queued.
    fn enqueue(
        &self,
        endpoint: &ServiceEndpoint,
        queue: &mut FairQueue<Delivery>,
        query: Delivery,
    ) {
        let headers = query.message.block.as_ref().map_or(0, Bytes::len);
        let is_large = query.payload().len() + headers > LARGE_QUERY;
        let limit = if is_large { MAX_QUEUED_LARGE } else { MAX_QUEUED };
        if queue.waiting_of(HasTenant::tenant(&query)) < limit {
            queue.push_back(query);
        } else {
            self.metrics.count_unanswered(endpoint.endpoint);
        }
    }

    /// Starts a task that answers a query, or refuses the query if it is not admitted.
    async fn start(
        self: &Arc<Self>,
        endpoint: &Arc<ServiceEndpoint>,
        query: Delivery,
        tasks: &mut JoinSet<()>,
    ) {
        match self.edge.admission.tenants.try_admit(tenant_of(query.subject())) {
            Ok(permit) => {
                let (server, endpoint) = (self.clone(), endpoint.clone());
                tasks.spawn(async move {
                    server.answer(&endpoint, &query).await;
                    drop(permit);
                });
            }
            Err(error) => self.respond(endpoint, &query, error.into()).await,
        }
    }

    async fn answer(&self, endpoint: &ServiceEndpoint, query: &Delivery) {
        let mut charge = if endpoint.endpoint.has_large_responses() {
            Some(self.edge.budget.reserve(tenant_of(query.subject())).await)
        } else {
            None
        };
        let queries = &self.edge.queries;
        let reply = match request::parse(endpoint.endpoint, query) {
            // What the fleet itself asks is answered whatever the tenant's state is: its work goes
            // on.
            Ok(parsed) if is_from_tenant(query.headers()) => queries.answer_tenant(parsed).await,
            Ok(parsed) => queries.answer(parsed).await,
            Err(refused) => Err(refused),
        };
        let reply = reply.unwrap_or_else(|error| error);
        if let Some(charge) = &mut charge {
            charge.shrink_to(reply.body.len());
        }
        let is_large = reply.body.len() > LARGE_RESPONSE;
        self.respond(endpoint, query, reply).await;
        if is_large {
            // If the connection is lost, so is the response.
            let _lost = self.cx.nats.client.flush().await;
        }
        drop(charge);
    }

    async fn respond(&self, endpoint: &ServiceEndpoint, query: &Delivery, reply: QueryReply) {
        endpoint.count(query.received.elapsed(), &reply);
        self.metrics.count_query(endpoint.endpoint, reply.status);
        let Some(to) = query.reply().cloned() else { return };
        let headers = response_headers(&reply);
        let sent = self.cx.nats.client.publish_with_headers(to, headers, reply.body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "a response was not sent, its client will ask again");
        }
    }
}

/// Returns the tenant of a query: the second token of its subject.
fn tenant_of(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Logs a query whose task panicked. It gets no response; its client asks again.
fn log_panic(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a query was not answered: its task panicked");
    }
}
