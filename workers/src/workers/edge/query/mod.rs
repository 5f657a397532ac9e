//! Queries, without any transport: the faces over NATS ([`super::nats`]) and HTTP
//! ([`super::http`]) turn what they get into a [`Query`], and write the [`QueryReply`] in their own
//! way.
//!
//! A view's version is confirmed with SQL ([`versions`], one statement for all who wait:
//! [`batch_loader`]); its content comes from memory or KV where that is exactly the confirmed
//! version, else from SQL ([`content`]). The active orders of a tenant are answered in the same way
//! ([`list`]). Outcomes are read from the inbox, locks, users and all other lists from their tables.
//!
//! Guarantees: no answer is older than an outcome that was answered before the query was sent,
//! whatever memory, KV and the network do; one ETag names one body, byte for byte; while Postgres
//! cannot be reached, or the server is in recovery, the answer is `503 unconfirmed` ([`database`]),
//! not a guess. The one exception is asked for: a view with `Confirm: kv`, while Postgres is
//! unavailable, is confirmed by KV, marked `Brigade-Confirmed-By: kv`, and outside the guarantee.

pub mod batch_loader;
pub mod content;
pub mod database;
pub mod day_close;
pub mod gateways;
pub mod list;
pub mod loader;
pub mod locks;
pub mod long_poll;
pub mod outcomes;
pub mod owners;
pub mod pages;
pub mod products;
pub mod reply;
pub mod tenants;
pub mod users;
pub mod versions;
mod views;
pub mod wakeups;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use brigade_contracts::{
    Address, CommandKey, Token,
    day_close::DayCloseRange,
    list::ListHeaders,
    page::PageHeaders,
    query::{HistoryHeaders, ProductsHeaders, ViewHeaders},
    user::Validate,
};
use brigade_domain::LockPolicy;

pub use self::reply::QueryReply;
use self::{
    database::ReadDatabase,
    day_close::DayCloses,
    gateways::Gateways,
    list::Lists,
    locks::Locks,
    long_poll::LongPolls,
    outcomes::Outcomes,
    owners::Owners,
    pages::{PagedList, Pages},
    products::Products,
    tenants::Tenants,
    users::Users,
    views::Views,
    wakeups::WakeupSource,
};
use super::metrics::EdgeMetrics;
use crate::infra::Context;

/// An answer that took longer than this was waited for, and the tenant is checked again.
const WAITED: Duration = Duration::from_secs(1);

/// A query, as any transport may send it.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// All parts of an aggregate.
    View(Address, ViewHeaders),
    /// The outcome of a command, by its id in the name space of who asks.
    Outcome { tenant: Token, command: CommandKey, wait: Duration },
    /// The active orders of a tenant.
    ActiveOrders(Token, ListHeaders),
    /// A page of a tenant's price list.
    Products(Token, ProductsHeaders),
    /// A page of another list of a tenant.
    Page(Token, PagedList, PageHeaders),
    /// The money of a tenant in a time.
    DayClose(Token, DayCloseRange),
    /// The lock that an owner holds now.
    Lock(Address),
    /// A page of the history of an owner's locks.
    LockHistory(Address, HistoryHeaders),
    /// The session of an access token.
    UserValidate(Address, Validate),
    /// All parts of a user.
    UserState(Address),
    /// The sessions of a user.
    UserSessions(Address),
}

impl Query {
    /// Returns the tenant that is asked about.
    #[must_use]
    pub fn tenant(&self) -> &Token {
        match self {
            Self::View(address, _)
            | Self::Lock(address)
            | Self::LockHistory(address, _)
            | Self::UserValidate(address, _)
            | Self::UserState(address)
            | Self::UserSessions(address) => &address.tenant,
            Self::Outcome { tenant, .. }
            | Self::ActiveOrders(tenant, _)
            | Self::Products(tenant, _)
            | Self::Page(tenant, ..)
            | Self::DayClose(tenant, _) => tenant,
        }
    }
}

/// The settings of queries.
pub struct QueryOptions {
    /// Rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
    /// The life time of locks.
    pub lock_policy: LockPolicy,
}

/// Everything that answers queries, by what they are about.
pub struct Queries {
    pub views: Views,
    pub lists: Lists,
    pub products: Products,
    pub pages: Pages,
    pub day_closes: DayCloses,
    pub gateways: Gateways,
    pub outcomes: Outcomes,
    pub locks: Locks,
    pub users: Users,
    pub owners: Owners,
    pub tenants: Tenants,
}

impl Queries {
    /// Opens the buckets, and starts the tasks that load rows and follow changes.
    ///
    /// # Errors
    /// Never in practice: see [`crate::infra::Kv::open`].
    pub async fn open(
        cx: &Context,
        options: &QueryOptions,
        metrics: &Arc<EdgeMetrics>,
    ) -> anyhow::Result<Self> {
        let database = Arc::new(ReadDatabase::new(cx.postgres.clone(), cx.era, cx.health.clone()));
        let wakeups = WakeupSource::new(&cx.nats);
        let polls = LongPolls::new(wakeups, cx.drain.clone(), metrics.clone());
        Ok(Self {
            views: Views::open(&database, cx, polls.clone(), metrics.clone()).await?,
            lists: Lists::new(&database, cx, options.list_cache, metrics),
            products: Products::new(&database, cx.era),
            pages: Pages::new(&database),
            day_closes: DayCloses::new(&database),
            gateways: Gateways::new(&database),
            outcomes: Outcomes::new(&database, polls),
            locks: Locks::new(&database, options.lock_policy.clone()),
            users: Users::new(&database),
            owners: Owners::new(&database),
            tenants: Tenants::new(&database),
        })
    }

    /// Answers a query of a tenant, if the tenant is served, at the end of a long wait as well.
    ///
    /// # Errors
    /// `404 unknown_tenant`, `403 tenant_suspended`, and those of [`Queries::answer`].
    pub async fn answer_tenant(&self, query: Query) -> Result<QueryReply, QueryReply> {
        let tenant = query.tenant().clone();
        let began = Instant::now();
        let (admitted, answer) = (self.tenants.admit(&tenant), self.answer(query));
        tokio::pin!(admitted, answer);
        // Both at once: they are two statements. What is wrong with the tenant is said first.
        let reply = tokio::select! {
            admitted = &mut admitted => {
                admitted?;
                answer.await
            }
            reply = &mut answer => {
                admitted.await?;
                reply
            }
        };
        if began.elapsed() > WAITED {
            self.tenants.admit(&tenant).await?;
        }
        reply
    }

    /// Answers a query, whoever sent it.
    ///
    /// # Errors
    /// The reply to a query that cannot be answered as it was sent.
    pub async fn answer(&self, query: Query) -> Result<QueryReply, QueryReply> {
        match query {
            Query::View(address, headers) => self.views.get(&address, &headers).await,
            Query::Outcome { tenant, command, wait } => {
                self.outcomes.get(tenant, command, wait).await
            }
            Query::ActiveOrders(tenant, headers) => self.lists.get(tenant, &headers).await,
            Query::Products(tenant, headers) => self.products.get(tenant, &headers).await,
            Query::Page(tenant, list, headers) => self.pages.get(tenant, list, &headers).await,
            Query::DayClose(tenant, range) => self.day_closes.get(tenant, range).await,
            Query::Lock(lock) => self.locks.get(lock).await,
            Query::LockHistory(lock, headers) => self.locks.history(lock, headers).await,
            Query::UserValidate(user, credentials) => {
                let session = self.users.validate(user, &credentials).await?;
                Ok(QueryReply::json(&session))
            }
            Query::UserState(user) => Ok(QueryReply::json(&self.users.state(user).await?)),
            Query::UserSessions(user) => Ok(QueryReply::json(&self.users.sessions(user).await?)),
        }
    }
}
