//! Orders in SQL, as every reader gets them. Only command-handler locks and writes them.

use std::collections::BTreeMap;

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Part, PartVersions, Timestamp, Token,
    order::{Item, Status},
};
use brigade_domain::{Entry, Order};
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head, keys, parse};

/// A row of `brigade.orders`.
#[derive(Deserialize)]
struct OrderRow {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    status: Status,
    currency: Currency,
    cart_id: Option<Token>,
    table_id: Option<Token>,
    turn_id: Option<Token>,
    items: Vec<Item>,
    total: Money,
    paid: Money,
    refunded: Money,
    paid_at: Option<Timestamp>,
    payments: Vec<Entry>,
    created_at: Timestamp,
    reason: Option<String>,
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
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(o)::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
           join brigade.orders o using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// An order of its row as JSON.
///
/// # Errors
/// Where command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<Order> {
    let row: OrderRow = parse(row)?;
    let (key, at) = ((row.tenant, row.id), row.updated_at);
    Ok(Order {
        head: head(Aggregate::Order, key, row.version, at, row.parts, &row.parts_at),
        status: row.status,
        currency: row.currency,
        cart_id: row.cart_id,
        table_id: row.table_id,
        turn_id: row.turn_id,
        items: row.items,
        total: row.total,
        paid: row.paid,
        refunded: row.refunded,
        paid_at: row.paid_at,
        payments: row.payments,
        created_at: row.created_at,
        reason: row.reason,
    })
}
