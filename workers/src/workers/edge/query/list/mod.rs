//! The active orders of a tenant: those that are neither completed nor cancelled.
//!
//! One statement reads which orders there are, of which versions, once for all who wait
//! ([`loaders`]). From that alone comes the ETag ([`body`]), a hash over (order, core version,
//! payment version), so it is the same from any edge; if the client has it, nothing else is read.
//! Else the rows come from memory, by order and exactly these versions, and missing ones from SQL
//! ([`rows`]). Such a row may be a later one by then: the ETag is made of what is answered, so one
//! ETag still names one list, byte for byte; only the position (`resume`) is no part of it, being
//! a name for the moment and not for the content. A row is the core row as it stands in KV, with
//! `version`, `at` and `change`, and `payment` and `due`. A watch on KV keeps memory warm
//! ([`watch`]); a row that is late or lost there is read from SQL. `Confirm: kv` finds no counter
//! for a list there and is `503 unconfirmed` as everything else while Postgres is unavailable.
//!
//! **Pages.** A page is some of these orders in a row, read and tagged by the same statement: the
//! newest ones, or those behind a place that the page before it named ([`page`]). An order keeps its
//! place, so whoever reads page after page meets each order that stays active once, whatever comes
//! and goes meanwhile. No row is larger than 8 KiB, so a page has at least a hundred. The last page
//! names the moment of the first one as its position: what changed since then is what its reader may
//! have missed.
//!
//! **Resume.** A [`ListPosition`] is a moment of the statement above: what it saw was committed by
//! transactions below `xid`, the oldest one that had not ended. Whatever it did not see is of
//! that transaction or a later one, and every row has the transaction that wrote it last. So SQL
//! alone has all changes since, exactly, without a stream, a sequence or a clock that might skip
//! something: the active orders that the confirming statement marks so, and those that ended
//! ([`loaders::EndedOrderLoader`], a statement that starts after it, so an order is in one of the
//! two whenever it ends). The position of an answer is always that of the first statement: rows are
//! read later, so they are no older, and a change meanwhile is repeated next time rather than never
//! sent. Rows that are newer than their position do no harm for the same reason. Applying the
//! changes to the rows of the position gives the rows of a fresh answer.
//!
//! The full list (`reset`) is the answer to a position of another tenant, of another start of
//! Postgres (numbers of transactions that were lost in a failover are given again), older than ten
//! minutes, or of no known form, which is no malformed header since positions of other builds are
//! such; as well to one of a page that others follow, whose reader does not know the rest, where
//! there are more active orders than are followed ([`brigade_contracts::list::MAX_FOLLOWED`]), and
//! where there are more changes than fit. It is the first page, where there are several.

mod body;
pub mod loaders;
pub mod page;
pub mod position;
pub mod row;
mod row_cache;
mod rows;
pub mod snapshot;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use brigade_contracts::{
    Era, Token,
    list::{ListChanges, ListHeaders, MAX_ROWS},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    body::{count_fitting, list_tag, quoted},
    loaders::{EndedOrderLoader, OrderListLoader},
    page::{ListKey, ListPage, PageStart, last_of},
    position::ListPosition,
    row::ListRow,
    rows::OrderRows,
    snapshot::{OrderList, OrderSlice, SnapshotOrder},
};
use super::{batch_loader::BatchLoader, database::ReadDatabase, reply::QueryReply};
use crate::{
    infra::{Context, FailPoints},
    workers::edge::metrics::EdgeMetrics,
};

/// Answers queries of active orders.
pub struct Lists {
    era: Era,
    active: BatchLoader<OrderListLoader>,
    ended: BatchLoader<EndedOrderLoader>,
    rows: Arc<OrderRows>,
    /// The lists of the last 250 ms, which a planted bug answers with.
    #[cfg(feature = "planted-bugs")]
    remembered: moka::sync::Cache<ListKey, Arc<OrderList>>,
    fail: FailPoints,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Lists {
    /// Reads lists from this database. With `is_cached`, starts the watch that keeps rows in
    /// memory.
    #[must_use]
    pub fn new(
        database: &Arc<ReadDatabase>,
        cx: &Context,
        is_cached: bool,
        metrics: &Arc<EdgeMetrics>,
    ) -> Self {
        let rows = Arc::new(OrderRows::new(database, cx, is_cached, metrics));
        let loader = OrderListLoader { metrics: metrics.clone() };
        Self {
            era: cx.era,
            active: BatchLoader::new(database, loader),
            ended: BatchLoader::new(database, EndedOrderLoader),
            #[cfg(feature = "planted-bugs")]
            remembered: moka::sync::Cache::builder()
                .time_to_live(std::time::Duration::from_millis(250))
                .build(),
            fail: cx.fail.clone(),
            _watch: is_cached.then(|| watch::start(cx, &rows, metrics)),
            rows,
        }
    }

    /// Returns a page of the active orders of a tenant: `304` if the client has it, the changes since
    /// the client's position, or the rows.
    ///
    /// # Errors
    /// `400 bad_header` for a page that no answer has named; `503 unconfirmed`.
    pub async fn get(
        &self,
        tenant: Token,
        headers: &ListHeaders,
    ) -> Result<QueryReply, QueryReply> {
        let after = headers.after.as_deref().map(|text| PageStart::parse(text, &tenant));
        let after = after.transpose()?;
        let limit = headers.limit.map_or(MAX_ROWS, usize::from);
        // The first page of most clients is cut out of what all of them wait for.
        let is_whole = after.is_none() && (headers.limit.is_none() || headers.resume.is_some());
        let list = if is_whole {
            self.confirm(&tenant).await?
        } else {
            let limit = u16::try_from(limit).unwrap_or(u16::MAX);
            let place = after.as_ref().map(|start| start.place.clone());
            self.confirm_part(ListKey { tenant: tenant.clone(), after: place, limit }).await?
        };
        self.fail.point("edge.after_list_confirm").await;
        let is_first = after.is_none();
        let position = headers.resume.as_deref().map(ListPosition::parse);
        // Whoever goes on from a position of the whole list knows all of it.
        let is_followed = matches!(&position, Some(Some(from)) if from.whole);
        let known = list.newest(if is_followed { usize::MAX } else { limit });
        let versions = known.orders.iter().map(SnapshotOrder::versions);
        let tag = list_tag(self.era, is_first, versions, known.is_cut);
        if headers.has(&tag) {
            return Ok(QueryReply::not_modified(quoted(&tag)));
        }
        if let Some(Some(from)) = &position
            && let Some(changes) = self.changes_since(&tenant, &list, from).await?
        {
            return Ok(changes);
        }
        let moment = list.moment;
        let first = after.map(|start| start.first);
        let first = first.unwrap_or(ListPosition { tenant, moment, whole: true });
        let slice = list.newest(limit);
        let (tag, page) = self.page(&first, is_first, slice, position.is_some()).await?;
        let ListPage { next, body, .. } = page;
        Ok(QueryReply { etag: Some(quoted(&tag)), next, ..QueryReply::ok(body) })
    }

    /// Returns the changes since a position; `None` if they are not known, or do not fit.
    async fn changes_since(
        &self,
        tenant: &Token,
        list: &OrderList,
        from: &ListPosition,
    ) -> Result<Option<QueryReply>, QueryReply> {
        let Some(changed) = self.changed(tenant, list, from).await? else { return Ok(None) };
        let Some(rows) = self.rows(tenant, &changed).await? else { return Ok(None) };
        let found: HashMap<&Token, &ListRow> =
            rows.iter().map(|row| (&row.order, &**row)).collect();
        // The list that comes of it.
        let present = list.included().iter().filter_map(|order| match found.get(&order.order) {
            Some(row) => row.active.then(|| row.versions()),
            None => Some(order.versions()),
        });
        let tag = list_tag(self.era, true, present, false);
        let resume = ListPosition { moment: list.moment, ..from.clone() }.to_string();
        let changes = rows.iter().map(|row| &*row.text).collect();
        let reply = QueryReply::json(&ListChanges { changes, resume: &resume });
        Ok(Some(QueryReply { etag: Some(quoted(&tag)), ..reply }))
    }

    /// Reads the active orders of a tenant, by a statement that starts after this call.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn confirm(&self, tenant: &Token) -> Result<Arc<OrderList>, QueryReply> {
        self.confirm_part(ListKey::whole(tenant.clone())).await
    }

    /// Reads some of the active orders of a tenant, by a statement that starts after this call.
    async fn confirm_part(&self, key: ListKey) -> Result<Arc<OrderList>, QueryReply> {
        #[cfg(feature = "planted-bugs")]
        if brigade_contracts::planted::PlantedBug::ListFromMemory.is_planted() {
            if let Some(list) = self.remembered.get(&key) {
                return Ok(list);
            }
            let list = self.confirm_now(key.clone()).await?;
            self.remembered.insert(key, list.clone());
            return Ok(list);
        }
        self.confirm_now(key).await
    }

    async fn confirm_now(&self, key: ListKey) -> Result<Arc<OrderList>, QueryReply> {
        self.active.load(key).await?.ok_or_else(QueryReply::unconfirmed)
    }

    /// Returns a page of these orders, or of as many as it has room for, with its entity tag. `first`
    /// is the position of the first page.
    async fn page(
        &self,
        first: &ListPosition,
        is_first: bool,
        slice: OrderSlice<'_>,
        reset: bool,
    ) -> Result<(String, ListPage), QueryReply> {
        let mut rows = self.rows.load(&first.tenant, slice.orders.iter()).await?;
        rows.retain(|row| row.active);
        let tag = list_tag(self.era, is_first, rows.iter().map(|r| r.versions()), slice.is_cut);
        let fitting = count_fitting(&rows);
        let last = if fitting < rows.len() {
            last_of(slice.orders, &rows[..fitting])
        } else {
            slice.orders.last().filter(|_| slice.is_cut)
        };
        Ok((tag, ListPage::new(first, &rows[..fitting], last, reset)))
    }

    /// Returns a list with all its rows, in one or several pages.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn pages(
        &self,
        tenant: Token,
        list: &OrderList,
        reset: bool,
    ) -> Result<Vec<ListPage>, QueryReply> {
        let first = ListPosition { tenant, moment: list.moment, whole: true };
        let mut rows = self.rows.load(&first.tenant, list.included().iter()).await?;
        rows.retain(|row| row.active);
        let (mut pages, mut rest): (Vec<ListPage>, _) = (Vec::new(), &rows[..]);
        loop {
            // At least one, or it would never end.
            let fitting = count_fitting(&rest[..rest.len().min(MAX_ROWS)]).max(1);
            let (shown, left) = rest.split_at(fitting.min(rest.len()));
            let last = match left {
                [] => list.included().last().filter(|_| list.is_cut()),
                _ => last_of(list.included(), shown),
            };
            pages.push(ListPage::new(&first, shown, last, reset && pages.is_empty()));
            rest = left;
            if rest.is_empty() {
                return Ok(pages);
            }
        }
    }

    /// Returns the orders that have changed since a position, oldest change first; `None` if they
    /// are not known, or too many.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn changed(
        &self,
        tenant: &Token,
        list: &OrderList,
        from: &ListPosition,
    ) -> Result<Option<Vec<SnapshotOrder>>, QueryReply> {
        if list.is_cut() || !from.is_usable(tenant, &list.moment) {
            return Ok(None);
        }
        let ended = self.ended.load(from.clone()).await?.unwrap_or_default();
        // One that has ended meanwhile stands in both.
        let gone: HashSet<&Token> = ended.iter().map(|order| &order.order).collect();
        let still = list.included().iter().filter(|order| !gone.contains(&order.order));
        let mut changed: Vec<SnapshotOrder> =
            ended.iter().chain(still.filter(|order| from.precedes(order))).cloned().collect();
        changed.sort_by(|a, b| (a.at, &a.order).cmp(&(b.at, &b.order)));
        Ok((changed.len() <= MAX_ROWS).then_some(changed))
    }

    /// Returns the rows of changed orders; `None` if they do not fit into an answer.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn rows(
        &self,
        tenant: &Token,
        orders: &[SnapshotOrder],
    ) -> Result<Option<Vec<Arc<ListRow>>>, QueryReply> {
        let rows = self.rows.load(tenant, orders.iter()).await?;
        Ok((count_fitting(&rows) == rows.len()).then_some(rows))
    }
}
