//! Carts in SQL, as every reader gets them. Only command-handler locks and writes them.

use std::collections::BTreeMap;

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Part, PartVersions, Timestamp, Token,
    cart::{Item, Kind, MemberPayment, Status},
};
use brigade_domain::{Cart, Entry};
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head, keys, parse};

/// A row of `brigade.carts`.
#[derive(Deserialize)]
struct CartRow {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    kind: Kind,
    owner: Token,
    session: Option<Token>,
    status: Status,
    currency: Currency,
    members: Vec<MemberPayment>,
    items: Vec<Item>,
    paid: Money,
    refunded: Money,
    payments: Vec<Entry>,
    order_id: Option<Token>,
    locked_until: Option<Timestamp>,
    refusals: u32,
}

/// Reads carts without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(Aggregate::Cart, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(cart)::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
           join brigade.carts cart using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// A cart of its row as JSON.
///
/// # Errors
/// Where command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<Cart> {
    let row: CartRow = parse(row)?;
    let (key, at) = ((row.tenant, row.id), row.updated_at);
    Ok(Cart {
        head: head(Aggregate::Cart, key, row.version, at, row.parts, &row.parts_at),
        kind: row.kind,
        owner: row.owner,
        session: row.session,
        status: row.status,
        currency: row.currency,
        members: row.members,
        items: row.items,
        paid: row.paid,
        refunded: row.refunded,
        payments: row.payments,
        order_id: row.order_id,
        locked_until: row.locked_until,
        refusals: row.refusals,
    })
}
