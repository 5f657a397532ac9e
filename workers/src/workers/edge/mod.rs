//! edge: answers queries, and is the door for HTTP ([`http`]).
//!
//! Serves `q.<tenant>.view.<aggregate>.<id>`, `q.<tenant>.active_orders`,
//! `q.<tenant>.outcome.<command_id>`, `q.<tenant>.lock.<owner>`,
//! `q.<tenant>.lock_history.<owner>`, `q.<tenant>.user.<id>.validate` and
//! `q.<tenant>.user.<id>.state` as endpoints of one NATS service, shared by all edges. Each query
//! is a task of its own. A view's version is confirmed with SQL ([`confirm`], one statement for all
//! who wait: [`together`]); its content comes from memory or KV where that is exactly the confirmed
//! version, else from SQL ([`content`]). So it is with the active orders of a tenant ([`list`]).
//! Outcomes are read from the inbox, locks and users from their tables.
//!
//! Over HTTP it answers the same queries, sends commands on, and pushes what is new in a list or a
//! view to whoever follows it ([`streams`]).
//!
//! Guarantees: no answer is older than an outcome that was answered before the query was sent,
//! whatever memory, KV and the network do; one ETag names one body, byte for byte; while Postgres
//! cannot be reached, or the server is in recovery, the answer is `503 unconfirmed` ([`database`]),
//! not a guess. One tenant's queries leave room for others' ([`places`]),
//! and so do its large answers ([`room`]). A drain answers
//! every query that the server gave to this edge; those that wait are answered at once with what
//! is there.
//!
//! Writes nothing: a command that comes over HTTP is sent on. Repairs nothing that it finds missing
//! in KV: that is cache-verifier's.

mod confirm;
mod content;
mod database;
mod http;
mod list;
mod locks;
mod outcome;
mod owners;
mod places;
mod queries;
mod reply;
mod room;
mod service;
mod streams;
#[cfg(test)]
mod tests;
mod together;
mod told;
mod users;
mod view;
mod wait;

use std::{sync::Arc, time::Duration};

use brigade_contracts::{
    key::Bucket,
    subject::{
        QUERY_ACTIVE_ORDERS, QUERY_LOCK, QUERY_LOCK_HISTORY, QUERY_OUTCOME, QUERY_USER_STATE,
        QUERY_USER_VALIDATE, QUERY_VIEW,
    },
};
use brigade_domain::LockPolicy;
use bytes::Bytes;
use futures::future::join_all;
use tokio::{task::JoinSet, time::interval};

use self::{
    confirm::Confirm,
    content::{Content, Read},
    database::Database,
    list::Lists,
    locks::{LiveLocks, LockHistory},
    outcome::Inbox,
    owners::Owners,
    places::Places,
    reply::Reply,
    room::Room,
    service::{Endpoint, Service},
    streams::Streams,
    together::Together,
    users::Users,
};
use crate::{
    infra::{Context, Kv, intake::IntakeSubscription},
    runtime::{
        Delivery,
        consume::{FairQueue, HasTenant},
        http::Api,
    },
};

const VIEW: &str = "view";
const OUTCOME: &str = "outcome";
const ACTIVE_ORDERS: &str = "active_orders";
const LOCK: &str = "lock";
const LOCK_HISTORY: &str = "lock_history";
const USER_VALIDATE: &str = "user_validate";
const USER_STATE: &str = "user_state";
/// Most queries in hand, a quarter of them of one tenant; more are refused as `busy` or `too_many`.
const MAX_IN_HAND: usize = 10_000;
/// Most requests over HTTP of which nobody knows yet whose they are, a quarter of them from one
/// address. A token is confirmed within milliseconds; only whoever logs in stays there for longer.
const MAX_STRANGERS: usize = 2_048;
/// Most queries that wait for something to happen, a quarter of them of one tenant: the others
/// always have room.
const MAX_WAITING: usize = 4_096;
/// Most queries of a tenant that wait for their turn at an endpoint, to be answered or refused, and
/// most of them if they are large. What comes beyond gets no answer: to refuse one takes as long as
/// to answer it.
const MAX_UNREAD: usize = 8_192;
const MAX_UNREAD_LARGE: usize = 64;
/// A query of more bytes is large; nearly all have none but their subject.
const LARGE_QUERY: usize = 4 * 1024;
/// Queries that are begun before the next look at what has come.
const TURNS: usize = 64;
/// Most handfuls that are taken at once.
const HANDFULS: usize = 1024;
/// Most lists and histories that are made or on their way, of up to 900 kB each; a quarter of them
/// of one tenant.
const MAX_ON_THEIR_WAY: usize = 256;
/// An answer of more bytes has left only when it is written to the connection.
const LARGE_ANSWER: usize = 64 * 1024;
/// How often edge tells that it is well.
const TICK: Duration = Duration::from_millis(500);
/// A drain is over by then, below the 10 s that a process has. Every query takes less.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// The settings of edge.
pub struct Settings {
    /// Where and how the API is served.
    pub http: Api,
    /// Rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
    /// How long locks live.
    pub lock_policy: LockPolicy,
}

/// What all queries share.
struct Edge {
    cx: Context,
    settings: Settings,
    confirmer: Together<Confirm>,
    reader: Together<Read>,
    inbox: Together<Inbox>,
    live_locks: Together<LiveLocks>,
    lock_history: Together<LockHistory>,
    users: Together<Users>,
    owners: Together<Owners>,
    content: Content,
    lists: Lists,
    streams: Streams,
    versions: Kv,
    in_hand: Places,
    strangers: Places,
    waiting: Places,
    room: Room,
}

/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context, settings: Settings) -> anyhow::Result<()> {
    let id = cx.instance.rsplit('.').next().unwrap_or_default().to_owned();
    let endpoints = [
        (VIEW, QUERY_VIEW),
        (OUTCOME, QUERY_OUTCOME),
        (ACTIVE_ORDERS, QUERY_ACTIVE_ORDERS),
        (LOCK, QUERY_LOCK),
        (LOCK_HISTORY, QUERY_LOCK_HISTORY),
        (USER_VALIDATE, QUERY_USER_VALIDATE),
        (USER_STATE, QUERY_USER_STATE),
    ];
    let about = "Views of aggregates, active orders, outcomes, locks, users, confirmed with SQL";
    let service = Service::start(&cx.nats, cx.worker.as_str(), about, id, &endpoints).await?;
    let edge = Arc::new(Edge::open(cx.clone(), settings).await?);
    // Whichever way this ends, so do they.
    let _streams = edge.streams.stop().clone().drop_guard();
    // Ready only when the server knows of it: another edge may be about to leave.
    let listening = tokio::select! {
        listening = service.listen(cx.worker.as_str()) => listening?,
        () = cx.drain.cancelled() => return Ok(()),
    };
    let mut served = Some(edge.settings.http.slot.fill(http::router(&edge)));
    let serving = listening.into_iter().map(|(endpoint, requests)| {
        let edge = edge.clone();
        async move { serve(&edge, &endpoint, requests).await }
    });
    let serving = async {
        join_all(serving).await;
        edge.answered().await;
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
            () = cx.drain.cancelled(), if served.is_some() => served = None,
            () = &mut drained => anyhow::bail!("requests are left after {DRAIN_LIMIT:?}"),
            // Stuck queries fill up all the room, and then edge is not well.
            _ = tick.tick() => if edge.in_hand.has_room() {
                duty.moved();
            } else {
                duty.went_round();
            },
        }
    }
}

/// Answers the queries of an endpoint until the drain, and then those that are on their way; those
/// of all tenants in turn.
async fn serve(edge: &Arc<Edge>, endpoint: &Arc<Endpoint>, mut requests: IntakeSubscription) {
    let mut waiting = FairQueue::default();
    let mut tasks = JoinSet::new();
    let (mut taking, mut open) = (true, true);
    while open || !waiting.is_empty() {
        let came = tokio::select! {
            came = requests.next(), if open => came.or_else(|| {
                open = false;
                None
            }),
            () = edge.cx.drain.cancelled(), if taking => {
                taking = false;
                requests.stop();
                None
            }
            Some(done) = tasks.join_next() => {
                told(done);
                None
            }
            () = tokio::task::yield_now(), if !waiting.is_empty() => None,
        };
        // All that has come is sorted first: what waits in a row is served in a row.
        let more = (0..HANDFULS).map_while(|_| requests.next_at_once());
        for request in came.into_iter().chain(more).flatten() {
            queue(edge, endpoint, &mut waiting, Delivery::request(request, 0));
        }
        while let Some(done) = tasks.try_join_next() {
            told(done);
        }
        for query in (0..TURNS).map_while(|_| waiting.pop()).collect::<Vec<_>>() {
            take(edge, endpoint, query, &mut tasks).await;
        }
    }
    while let Some(done) = tasks.join_next().await {
        told(done);
    }
}

/// The tenant of a query: the second token of its subject.
fn tenant(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Queues a query, if there is room.
fn queue(edge: &Edge, endpoint: &Endpoint, waiting: &mut FairQueue<Delivery>, query: Delivery) {
    let headers = query.message.block.as_ref().map_or(0, Bytes::len);
    let is_large = query.payload().len() + headers > LARGE_QUERY;
    let most = if is_large { MAX_UNREAD_LARGE } else { MAX_UNREAD };
    if waiting.waiting_of(HasTenant::tenant(&query)) < most {
        waiting.push_back(query);
    } else {
        edge.cx.metrics.queries.with_label_values(&[endpoint.name, "unanswered"]).inc();
    }
}

/// Begins to answer a query, if there is room.
async fn take(
    edge: &Arc<Edge>,
    endpoint: &Arc<Endpoint>,
    query: Delivery,
    tasks: &mut JoinSet<()>,
) {
    match edge.in_hand.take(tenant(query.subject())) {
        Ok(place) => {
            let (edge, endpoint) = (edge.clone(), endpoint.clone());
            tasks.spawn(async move {
                edge.answer(&endpoint, &query).await;
                drop(place);
            });
        }
        Err(reply) => edge.send(endpoint, &query, reply).await,
    }
}

/// A query that panicked gets no answer; its sender asks again.
fn told(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a query was not answered");
    }
}

impl Edge {
    async fn open(cx: Context, settings: Settings) -> anyhow::Result<Self> {
        let database = Arc::new(Database::new(cx.postgres.clone(), cx.health.clone()));
        Ok(Self {
            confirmer: Together::new(&database, Confirm { metrics: cx.metrics.clone() }),
            reader: Together::new(&database, Read),
            inbox: Together::new(&database, Inbox),
            live_locks: Together::new(
                &database,
                LiveLocks { policy: settings.lock_policy.clone() },
            ),
            lock_history: Together::new(&database, LockHistory),
            users: Together::new(&database, Users),
            owners: Together::new(&database, Owners),
            content: Content::open(&cx.nats).await?,
            lists: Lists::new(&database, &cx, settings.list_cache),
            streams: Streams::new(&cx.drain),
            versions: Kv::open(&cx.nats, Bucket::Versions).await?,
            in_hand: Places::new(MAX_IN_HAND),
            strangers: Places::new(MAX_STRANGERS),
            waiting: Places::new(MAX_WAITING),
            room: Room::new(MAX_ON_THEIR_WAY),
            cx,
            settings,
        })
    }

    async fn answer(&self, endpoint: &Endpoint, query: &Delivery) {
        let _room = match endpoint.name {
            ACTIVE_ORDERS | LOCK_HISTORY => Some(self.room.take(tenant(query.subject())).await),
            _ => None,
        };
        let reply = self.query(endpoint.name, query).await.unwrap_or_else(|error| error);
        let is_large = reply.body.len() > LARGE_ANSWER;
        self.send(endpoint, query, reply).await;
        if is_large {
            // Where the connection is lost, so is the answer.
            let _lost = self.cx.nats.client.flush().await;
        }
    }

    /// Waits until nothing is in hand.
    async fn answered(&self) {
        // In this order: a stranger may become a tenant's.
        self.strangers.free(MAX_STRANGERS).await;
        self.in_hand.free(MAX_IN_HAND).await;
    }

    async fn send(&self, endpoint: &Endpoint, query: &Delivery, reply: Reply) {
        endpoint.count(query, &reply);
        let labels = [endpoint.name, &reply.status.to_string()];
        self.cx.metrics.queries.with_label_values(&labels).inc();
        let Some(to) = query.reply().cloned() else { return };
        let headers = reply.headers();
        let sent = self.cx.nats.client.publish_with_headers(to, headers, reply.body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer was not sent; its sender will ask again");
        }
    }
}
