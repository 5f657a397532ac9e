//! Writes carts.

use brigade_contracts::Timestamp;
use brigade_domain::Cart;
use sqlx::{Postgres, Transaction};

use super::columns::Columns;

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
    let refusals: Vec<i32> = carts.iter().map(|c| c.refusals.cast_signed()).collect();
    let locked: Vec<_> = carts.iter().map(|c| c.locked_until.map(Timestamp::inner)).collect();
    sqlx::query_file!(
        "src/workers/command_handler/save_carts.sql",
        &c.text(|c| c.head.address.tenant.as_str()) as _,
        &c.text(|c| c.head.address.id.as_str()) as _,
        &c.number(|c| c.head.version.cast_signed()),
        &c.time(|c| c.head.at),
        &c.document(|c| c.head.part_versions()) as _,
        &c.document(|c| c.head.part_times()) as _,
        &c.text(|c| c.kind.as_str()) as _,
        &c.text(|c| c.owner.as_str()) as _,
        &c.token(|c| c.session.as_ref()) as _,
        &c.text(|c| c.status.as_str()) as _,
        &c.text(|c| c.currency.as_str()) as _,
        &c.document(|c| &c.members) as _,
        &c.document(|c| &c.items) as _,
        &c.number(|c| c.paid.minor_units()),
        &c.number(|c| c.refunded.minor_units()),
        &c.document(|c| &c.payments) as _,
        &c.token(|c| c.order_id.as_ref()) as _,
        &locked as _,
        &refusals,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
