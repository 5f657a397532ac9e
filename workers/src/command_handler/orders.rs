//! Locks and writes orders.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate, Timestamp};
use sqlx::{Postgres, Transaction};

use super::columns::Columns;
use crate::{
    domain::Order,
    store::{orders::OrderRow, rows::keys},
};

/// Reads and locks the orders among these addresses, in the order of their keys.
///
/// # Errors
/// Those of Postgres.
pub async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    addresses: &BTreeSet<&Address>,
) -> sqlx::Result<Vec<Order>> {
    let (tenants, ids) = keys(Aggregate::Order, addresses.iter().copied());
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        OrderRow,
        "select o.tenant, o.id, o.version, o.updated_at, o.parts, o.parts_at, o.status, o.currency,
                o.cart_id, o.table_id, o.turn_id, o.items, o.total, o.paid, o.refunded, o.paid_at,
                o.payments, o.created_at, o.reason
         from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.orders o using (tenant, id)
         order by tenant, id
         for update of o",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(OrderRow::into_order).collect()
}

/// Writes orders that are locked, or new; see [`super::carts::save`].
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, orders: &[&Order]) -> sqlx::Result<()> {
    if orders.is_empty() {
        return Ok(());
    }
    let c = Columns(orders);
    let created: Vec<_> = orders.iter().map(|o| o.created_at.inner()).collect();
    let paid_at: Vec<_> = orders.iter().map(|o| o.paid_at.map(Timestamp::inner)).collect();
    sqlx::query_file!(
        "src/command_handler/save_orders.sql",
        &c.text(|o| o.head.address.tenant.as_str()) as _,
        &c.text(|o| o.head.address.id.as_str()) as _,
        &c.number(|o| o.head.version.cast_signed()),
        &c.time(|o| o.head.at),
        &c.document(|o| o.head.part_versions()),
        &c.document(|o| o.head.part_times()),
        &c.text(|o| o.status.as_str()) as _,
        &c.text(|o| o.currency.as_str()) as _,
        &c.token(|o| o.cart_id.as_ref()) as _,
        &c.token(|o| o.table_id.as_ref()) as _,
        &c.token(|o| o.turn_id.as_ref()) as _,
        &c.document(|o| &o.items),
        &c.number(|o| o.total.minor_units()),
        &c.number(|o| o.paid.minor_units()),
        &c.number(|o| o.refunded.minor_units()),
        &paid_at as _,
        &c.document(|o| &o.payments),
        &created,
        &c.optional(|o| o.reason.as_deref()) as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
