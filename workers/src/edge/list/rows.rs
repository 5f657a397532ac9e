//! What rows show: from memory, else from SQL.

use std::{collections::HashMap, sync::Arc, time::Duration};

use brigade_contracts::{Address, Aggregate, Part, Token};
use futures::future::try_join_all;
use moka::{ops::compute::Op, sync::Cache};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::{Versions, confirm::Line};
use crate::{
    domain::Order,
    edge::{
        database::{Database, Unanswered},
        together::{Question, Together},
    },
    runtime::Metrics,
    store::orders,
};

/// Rows kept in memory, in bytes. A usual row has about 1 KiB.
const MEMORY: u64 = 64 * 1024 * 1024;
/// What an entry takes besides its text: address, versions, the cache's own.
const ENTRY: usize = 400;
/// A row that nobody asked for this long is of an order that has most likely ended.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// A row as it is answered.
#[derive(Debug)]
pub struct Row {
    pub order: Token,
    /// Of the aggregate.
    version: u64,
    /// Versions of its parts.
    core: u64,
    payments: u64,
    pub active: bool,
    pub text: Box<RawValue>,
}

impl Row {
    fn of(order: &Order) -> Self {
        Self {
            order: order.head.address.id.clone(),
            version: order.head.version,
            core: order.head.part(Part::Core).0,
            payments: order.head.part(Part::Payments).0,
            active: order.status.is_active(),
            text: order.active_row(),
        }
    }

    #[must_use]
    pub fn versions(&self) -> Versions<'_> {
        (&self.order, self.core, self.payments)
    }

    #[cfg(test)]
    pub fn of_text(text: Box<RawValue>) -> Self {
        let order = Token::new("o1").expect("a token");
        Self { order, version: 1, core: 1, payments: 1, active: true, text }
    }
}

pub struct Rows {
    memory: Cache<Address, Arc<Row>>,
    reader: Together<Read>,
    metrics: Arc<Metrics>,
}

impl Rows {
    #[must_use]
    pub fn new(database: &Arc<Database>, metrics: &Arc<Metrics>) -> Self {
        let weight = |_: &Address, row: &Arc<Row>| {
            u32::try_from(row.text.get().len() + ENTRY).unwrap_or(u32::MAX)
        };
        let memory =
            Cache::builder().max_capacity(MEMORY).weigher(weight).time_to_idle(IDLE).build();
        Self { memory, reader: Together::new(database, Read), metrics: metrics.clone() }
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
            let row = self.memory.get(&address);
            let row = row.filter(|row| (row.core, row.payments) == (line.core, line.payments));
            if row.is_none() {
                missing.push((at, address));
            }
            found.push(row);
        }
        let from = |from: &str| self.metrics.list_rows.with_label_values(&[from]);
        from("memory").inc_by((found.len() - missing.len()) as u64);
        from("sql").inc_by(missing.len() as u64);
        let read = missing.into_iter().map(|(at, address)| async move {
            let row = self.reader.get(address.clone()).await?;
            Ok::<_, Unanswered>((at, address, row))
        });
        for (at, address, row) in try_join_all(read).await? {
            if let Some(row) = &row {
                self.keep(&address, row);
            }
            found[at] = row;
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Keeps a row, unless a later one is there.
    fn keep(&self, address: &Address, row: &Arc<Row>) {
        self.memory.entry_by_ref(address).and_compute_with(|known| match known {
            Some(known) if known.value().version > row.version => Op::Nop,
            _ => Op::Put(row.clone()),
        });
    }
}

/// Asks for rows.
struct Read;

impl Question for Read {
    type Key = Address;
    type Row = Arc<Row>;
    /// Rare: memory has nearly everything.
    const AT_ONCE: usize = 1;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<Row>>> {
        let orders = orders::read(connection, addresses.iter()).await?;
        Ok(orders.iter().map(|o| (o.head.address.clone(), Arc::new(Row::of(o)))).collect())
    }
}
