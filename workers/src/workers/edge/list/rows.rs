//! The rows of lists: from memory, else from SQL.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Token};
use futures::future::try_join_all;
use sqlx::PgConnection;

use super::{
    confirm::Line,
    memory::Memory,
    row::{Known, Row},
};
use crate::{
    infra::{Context, postgres::refuse_standby},
    store::orders,
    workers::edge::{
        database::{Database, Unanswered},
        together::{Question, Together},
    },
};

pub struct Rows {
    /// `None`: switched off.
    memory: Option<Memory>,
    reader: Together<Read>,
    cx: Context,
}

impl Rows {
    #[must_use]
    pub fn new(database: &Arc<Database>, cx: &Context, cache: bool) -> Self {
        Self {
            memory: cache.then(Memory::new),
            reader: Together::new(database, Read),
            cx: cx.clone(),
        }
    }

    /// The rows of these lines, in their order: from memory if they are of exactly these versions,
    /// else as they stand in SQL now, which may be later; then an order may have ended.
    ///
    /// # Errors
    /// Where Postgres does not answer.
    pub async fn find<'a>(
        &self,
        tenant: &Token,
        lines: impl ExactSizeIterator<Item = &'a Line>,
    ) -> Result<Vec<Arc<Row>>, Unanswered> {
        let mut found: Vec<Option<Arc<Row>>> = Vec::with_capacity(lines.len());
        let mut missing = Vec::new();
        for (at, line) in lines.enumerate() {
            let address = Address {
                tenant: tenant.clone(),
                aggregate: Aggregate::Order,
                id: line.order.clone(),
            };
            let row = self.memory.as_ref().and_then(|m| m.find(&address, line.versions()));
            if row.is_none() {
                missing.push((at, address));
            }
            found.push(row);
        }
        let from = |from: &str| self.cx.metrics.list_rows.with_label_values(&[from]);
        from("memory").inc_by((found.len() - missing.len()) as u64);
        from("sql").inc_by(missing.len() as u64);
        let read = missing.into_iter().map(|(at, address)| async move {
            let known = self.reader.get(address.clone()).await?;
            Ok::<_, Unanswered>((at, address, known))
        });
        for (at, address, known) in try_join_all(read).await? {
            if let Some(known) = known {
                self.cx.fail.point("edge.before_list_keep").await;
                self.keep(&address, &known);
                found[at] = known.row;
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// What a watch brings: see [`Memory::keep`].
    pub fn keep(&self, address: &Address, new: &Known) -> Option<Known> {
        self.memory.as_ref()?.keep(address, new)
    }
}

/// Asks for rows.
struct Read;

impl Question for Read {
    type Key = Address;
    type Row = Known;
    /// Rare: memory has nearly everything.
    const AT_ONCE: usize = 2;
    /// Whole orders.
    const MAX_KEYS: usize = 128;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Known>> {
        refuse_standby(connection).await?;
        let orders = orders::load(connection, addresses.iter()).await?;
        Ok(orders.iter().map(|o| (o.head.address.clone(), Known::of(o))).collect())
    }
}
