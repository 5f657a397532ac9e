//! Locks and writes carts.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate, Timestamp};
use sqlx::{Postgres, Transaction};

use super::columns::Columns;
use crate::{
    domain::Cart,
    store::{carts::CartRow, rows::keys},
};

/// Reads and locks the carts among these addresses, in the order of their keys.
///
/// # Errors
/// Those of Postgres.
pub async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    addresses: &BTreeSet<&Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(Aggregate::Cart, addresses.iter().copied());
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        CartRow,
        "select cart.* from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.carts cart using (tenant, id)
         order by tenant, id
         for update of cart",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(CartRow::into_cart).collect()
}

/// Writes carts that are locked, or new. Where another handler made the same cart meanwhile, the
/// unique version of its first event lets the transaction fail and be tried again.
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, carts: &[&Cart]) -> sqlx::Result<()> {
    if carts.is_empty() {
        return Ok(());
    }
    let c = Columns(carts);
    let locked: Vec<_> = carts.iter().map(|c| c.locked_until.map(Timestamp::inner)).collect();
    sqlx::query_file!(
        "src/command_handler/save_carts.sql",
        &c.text(|c| c.head.address.tenant.as_str()) as _,
        &c.text(|c| c.head.address.id.as_str()) as _,
        &c.number(|c| c.head.version.cast_signed()),
        &c.time(|c| c.head.at),
        &c.document(|c| c.head.part_versions()),
        &c.document(|c| c.head.part_times()),
        &c.text(|c| c.kind.as_str()) as _,
        &c.text(|c| c.owner.as_str()) as _,
        &c.token(|c| c.session.as_ref()) as _,
        &c.text(|c| c.status.as_str()) as _,
        &c.text(|c| c.currency.as_str()) as _,
        &c.document(|c| &c.members),
        &c.document(|c| &c.items),
        &c.number(|c| c.paid.minor_units()),
        &c.number(|c| c.refunded.minor_units()),
        &c.document(|c| &c.payments),
        &c.token(|c| c.order_id.as_ref()) as _,
        &locked as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
