//! Writes orders.

use brigade_contracts::Timestamp;
use brigade_domain::Order;
use sqlx::{Postgres, Transaction};

use super::columns::Columns;

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
        "src/workers/command_handler/save_orders.sql",
        &c.text(|o| o.head.address.tenant.as_str()) as _,
        &c.text(|o| o.head.address.id.as_str()) as _,
        &c.number(|o| o.head.version.cast_signed()),
        &c.time(|o| o.head.at),
        &c.document(|o| o.head.part_versions()) as _,
        &c.document(|o| o.head.part_times()) as _,
        &c.text(|o| o.status.as_str()) as _,
        &c.text(|o| o.currency.as_str()) as _,
        &c.token(|o| o.cart_id.as_ref()) as _,
        &c.token(|o| o.table_id.as_ref()) as _,
        &c.token(|o| o.turn_id.as_ref()) as _,
        &c.document(|o| &o.items) as _,
        &c.number(|o| o.total.minor_units()),
        &c.number(|o| o.paid.minor_units()),
        &c.number(|o| o.refunded.minor_units()),
        &paid_at as _,
        &c.document(|o| &o.payments) as _,
        &created,
        &c.optional(|o| o.reason.as_deref()) as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
