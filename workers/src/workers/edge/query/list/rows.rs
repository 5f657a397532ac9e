//! The rows of lists: from memory, else from SQL.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Era, Token};
use brigade_domain::State;
use futures::future::try_join_all;
use sqlx::PgConnection;

use super::{
    row::{ListRow, RowParts},
    row_cache::RowCache,
    snapshot::SnapshotOrder,
};
use crate::{
    infra::{Context, FailPoints},
    store::states,
    workers::edge::{
        metrics::{ContentSource, EdgeMetrics},
        query::{
            batch_loader::BatchLoader,
            database::{LoadError, ReadDatabase},
            loader::Loader,
        },
    },
};

/// The rows of all tenants.
pub struct OrderRows {
    /// `None` if it is switched off.
    cache: Option<RowCache>,
    stored: BatchLoader<RowLoader>,
    metrics: Arc<EdgeMetrics>,
    fail: FailPoints,
}

impl OrderRows {
    /// Reads rows from this database, and caches them if `is_cached`.
    #[must_use]
    pub fn new(
        database: &Arc<ReadDatabase>,
        cx: &Context,
        is_cached: bool,
        metrics: &Arc<EdgeMetrics>,
    ) -> Self {
        Self {
            cache: is_cached.then(RowCache::new),
            stored: BatchLoader::new(database, RowLoader),
            metrics: metrics.clone(),
            fail: cx.fail.clone(),
        }
    }

    /// Returns the rows of these orders, in their order: from memory if they are of exactly these
    /// versions, else as they stand in SQL now, which may be later; then an order may have ended.
    /// The rows of orders that are no more are left out.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn load<'a>(
        &self,
        tenant: &Token,
        orders: impl ExactSizeIterator<Item = &'a SnapshotOrder>,
    ) -> Result<Vec<Arc<ListRow>>, LoadError> {
        let mut found: Vec<Option<Arc<ListRow>>> = Vec::with_capacity(orders.len());
        let mut missing = Vec::new();
        for (at, order) in orders.enumerate() {
            let address = Address {
                tenant: tenant.clone(),
                aggregate: Aggregate::Order,
                id: order.order.clone(),
            };
            let row = self.cache.as_ref().and_then(|c| c.find(&address, order.versions()));
            if row.is_none() {
                missing.push((at, address));
            }
            found.push(row);
        }
        let count = |source: ContentSource, rows: usize| {
            self.metrics.list_rows.with_label_values(&[source.as_str()]).inc_by(rows as u64);
        };
        count(ContentSource::Memory, found.len() - missing.len());
        count(ContentSource::Sql, missing.len());
        let read = missing.into_iter().map(|(at, address)| async move {
            let parts = self.stored.load(address.clone()).await?;
            Ok::<_, LoadError>((at, address, parts))
        });
        for (at, address, parts) in try_join_all(read).await? {
            if let Some(parts) = parts {
                self.fail.point("edge.before_list_keep").await;
                self.merge(&address, &parts);
                found[at] = parts.row;
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Stores parts in memory, if they are newer: see [`RowCache::merge`].
    pub fn merge(&self, address: &Address, new: &RowParts) -> Option<RowParts> {
        self.cache.as_ref()?.merge(address, new)
    }
}

/// Loads rows.
struct RowLoader;

impl Loader for RowLoader {
    type Key = Address;
    type Row = RowParts;
    /// Rare: memory has nearly everything.
    const CONCURRENCY: usize = 2;
    /// Each brings a whole order.
    const MAX_KEYS: usize = 128;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, RowParts>> {
        let states = states::read(connection, era, addresses).await?;
        let row = |state| match state {
            State::Order(o) => Some((o.head.address.clone(), RowParts::from_order(&o))),
            _ => None,
        };
        Ok(states.into_iter().filter_map(row).collect())
    }
}
