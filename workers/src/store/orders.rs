//! Orders in SQL, as every reader gets them. Only command-handler locks and writes them.

use brigade_contracts::{Address, Aggregate, Currency, Money, Timestamp};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use super::rows::{head, keys, optional_token, parse, refused};
use crate::domain::Order;

/// A row of `brigade.orders`.
pub(crate) struct OrderRow {
    pub(crate) tenant: String,
    pub(crate) id: String,
    pub(crate) version: i64,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) parts: Value,
    pub(crate) parts_at: Value,
    pub(crate) status: String,
    pub(crate) currency: String,
    pub(crate) cart_id: Option<String>,
    pub(crate) table_id: Option<String>,
    pub(crate) turn_id: Option<String>,
    pub(crate) items: Value,
    pub(crate) total: i64,
    pub(crate) paid: i64,
    pub(crate) refunded: i64,
    pub(crate) paid_at: Option<OffsetDateTime>,
    pub(crate) payments: Value,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) reason: Option<String>,
}

/// Reads orders without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Order>> {
    let (tenants, ids) = keys(Aggregate::Order, addresses);
    let rows = sqlx::query_as!(
        OrderRow,
        "select o.tenant, o.id, o.version, o.updated_at, o.parts, o.parts_at, o.status, o.currency,
                o.cart_id, o.table_id, o.turn_id, o.items, o.total, o.paid, o.refunded, o.paid_at,
                o.payments, o.created_at, o.reason
         from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.orders o using (tenant, id)",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(OrderRow::into_order).collect()
}

impl OrderRow {
    /// A row that command-handler did not write is an error, not a guess.
    pub(crate) fn into_order(self) -> sqlx::Result<Order> {
        let Self { tenant, id, version, updated_at, parts, parts_at, .. } = self;
        Ok(Order {
            head: head(Aggregate::Order, &tenant, &id, version, updated_at, (parts, parts_at))?,
            status: parse(Value::String(self.status))?,
            currency: Currency::new(&self.currency).map_err(refused)?,
            cart_id: optional_token(self.cart_id)?,
            table_id: optional_token(self.table_id)?,
            turn_id: optional_token(self.turn_id)?,
            items: parse(self.items)?,
            total: Money::new(self.total).map_err(refused)?,
            paid: Money::new(self.paid).map_err(refused)?,
            refunded: Money::new(self.refunded).map_err(refused)?,
            paid_at: self.paid_at.map(Timestamp::from),
            payments: parse(self.payments)?,
            created_at: Timestamp::from(self.created_at),
            reason: self.reason,
        })
    }
}
