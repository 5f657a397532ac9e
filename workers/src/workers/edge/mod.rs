//! edge: answers queries, and is the door for HTTP.
//!
//! Queries are answered without any transport ([`query`]). Two thin transports stand before them:
//! over [`nats`], `q.<tenant>.view.<aggregate>.<id>`, `q.<tenant>.active_orders`,
//! `q.<tenant>.outcome.<command_id>`, `q.<tenant>.lock.<owner>`,
//! `q.<tenant>.lock_history.<owner>`, `q.<tenant>.day_close`, `q.<tenant>.user.<id>.validate`,
//! `q.<tenant>.user.<id>.state` and those of lists are endpoints of one NATS service, shared by all edges
//! ([`endpoint`]). Over [`http`] edge answers the same queries, sends commands on, and streams the
//! changes of a list or a view to whoever follows it ([`live`]).
//!
//! Guarantees: no answer is older than an outcome that was answered before the query was sent,
//! whatever memory, KV and the network do; one ETag names one body, byte for byte; while Postgres
//! cannot be reached, or the server is in recovery, the answer is `503 unconfirmed`, not a guess.
//! The one exception is asked for: a view with `Confirm: kv`, while Postgres is unavailable, is
//! confirmed by KV, marked `Brigade-Confirmed-By: kv`, and outside the guarantee.
//!
//! One tenant's queries leave room for others' ([`admission`]), and so do its large responses
//! ([`response_budget`]). A drain answers every query that the server gave to this edge; those that
//! wait are answered at once with the present state.
//!
//! Writes nothing: a command that comes over HTTP is sent on. Repairs nothing that it finds missing
//! in KV: that is cache-verifier's.

mod admission;
mod endpoint;
mod http;
mod live;
mod metrics;
mod nats;
pub(crate) mod query;
mod response_budget;
mod shared;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use brigade_domain::LockPolicy;
use futures::future::join_all;
use tokio::time::interval;

#[cfg(any(test, feature = "testing"))]
pub use self::http::decode_unsigned;
pub use self::metrics::{ContentSource, EdgeMetrics, StreamEnd, WatchLoss, WatchedRow};
use self::{
    http::HttpApi,
    live::LiveStreams,
    nats::{MicroService, QueryServer},
    query::QueryOptions,
    shared::Edge,
};
use crate::{infra::Context, runtime::http::ApiOptions};

/// The interval at which edge reports that it makes progress.
const TICK: Duration = Duration::from_millis(500);
/// The longest time of a drain, below the 10 s that a process has. Every query takes less.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// The description of the service.
const DESCRIPTION: &str =
    "Views of aggregates, active orders, outcomes, locks, users, day closes, confirmed with SQL";

/// The settings of edge.
pub struct EdgeOptions {
    /// The settings of the HTTP face.
    pub http: ApiOptions,
    /// Rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
    /// The life time of locks.
    pub lock_policy: LockPolicy,
}

/// Answers queries and serves HTTP until the drain, and then all that is in flight.
///
/// # Errors
/// If NATS cannot be used.
pub async fn run(cx: Context, options: EdgeOptions) -> anyhow::Result<()> {
    let EdgeOptions { http, list_cache, lock_policy } = options;
    let metrics = cx.metrics.group::<EdgeMetrics>();
    let id = cx.instance.rsplit('.').next().unwrap_or_default().to_owned();
    let service = MicroService::start(&cx.nats, cx.worker.as_str(), DESCRIPTION, id).await?;
    let edge = Edge::open(&cx, &QueryOptions { list_cache, lock_policy }, &metrics).await?;
    let live = Arc::new(LiveStreams::new(&cx, &edge.queries, &edge.budget, &metrics));
    // Whichever way this ends, so do they.
    let _streams = live.stop().clone().drop_guard();
    // Ready only when the server knows of it: another edge may be about to leave.
    let listening = tokio::select! {
        listening = service.listen(cx.worker.as_str()) => listening?,
        () = cx.drain.cancelled() => return Ok(()),
    };
    let api = HttpApi::new(edge.clone(), live, &cx, http.open, &metrics);
    let mut mounted = Some(http.mount.mount(http::router(api, &http)));
    let server = Arc::new(QueryServer::new(edge.clone(), cx.clone(), metrics));
    let serving =
        listening.into_iter().map(|(endpoint, requests)| server.clone().serve(endpoint, requests));
    let serving = async {
        join_all(serving).await;
        edge.admission.wait_until_idle().await;
    };
    let drained = async {
        cx.drain.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    let duty = cx.health.duty("queries");
    let mut tick = interval(TICK);
    tokio::pin!(serving, drained);
    loop {
        tokio::select! {
            () = &mut serving => return Ok(()),
            // Requests over HTTP come to this edge until the drain, and then to another.
            () = cx.drain.cancelled(), if mounted.is_some() => mounted = None,
            () = &mut drained => anyhow::bail!("requests are left after {DRAIN_LIMIT:?}"),
            // Queries that hang use up all permits, and then edge is not well.
            _ = tick.tick() => if edge.admission.tenants.has_capacity() {
                duty.moved();
            } else {
                duty.went_round();
            },
        }
    }
}
