//! Writes payments, and the money that is owed back.

use brigade_contracts::{Token, payment::RefundTask};
use brigade_domain::Payment;
use sqlx::{Postgres, Transaction};

use super::columns::Columns;

/// Writes payments that are locked, or new; see [`super::carts::save`].
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, payments: &[&Payment]) -> sqlx::Result<()> {
    if payments.is_empty() {
        return Ok(());
    }
    let c = Columns(payments);
    let tokens: Vec<Option<i64>> = payments.iter().map(|p| p.token).collect();
    sqlx::query_file!(
        "src/workers/command_handler/save_payments.sql",
        &c.text(|p| p.head.address.tenant.as_str()) as _,
        &c.text(|p| p.head.address.id.as_str()) as _,
        &c.number(|p| p.head.version.cast_signed()),
        &c.time(|p| p.head.at),
        &c.text(|p| p.target.kind_and_id().0) as _,
        &c.text(|p| p.target.kind_and_id().1.as_str()) as _,
        &c.token(|p| p.user.as_ref()) as _,
        &c.text(|p| p.method.as_str()) as _,
        &c.text(|p| p.status.as_str()) as _,
        &c.text(|p| p.currency.as_str()) as _,
        &c.number(|p| p.amount.minor_units()),
        &c.number(|p| p.refunded_amount.minor_units()),
        &c.number(|p| p.applied.minor_units()),
        &c.token(|p| p.transaction_id.as_ref()) as _,
        &tokens as _,
        &c.optional(|p| p.fingerprint.as_deref()) as _,
        &c.document(|p| &p.captures) as _,
        &c.token(|p| p.order_id.as_ref()) as _,
        &c.token(|p| p.table_id.as_ref()) as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes refund tasks that are new, or done.
///
/// # Errors
/// Those of Postgres.
pub async fn save_tasks(
    tx: &mut Transaction<'_, Postgres>,
    tasks: &[(&Token, &RefundTask)],
) -> sqlx::Result<()> {
    if tasks.is_empty() {
        return Ok(());
    }
    let text = |f: fn(&RefundTask) -> &str| tasks.iter().map(|(_, t)| f(t)).collect::<Vec<_>>();
    let tenants: Vec<&str> = tasks.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let amounts: Vec<i64> = tasks.iter().map(|(_, task)| task.amount.minor_units()).collect();
    let refunded: Vec<i64> = tasks.iter().map(|(_, task)| task.refunded.minor_units()).collect();
    sqlx::query!(
        "insert into brigade.refund_tasks as task
             (tenant, id, payment_id, amount, currency, reason, status, refunded)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[],
                              $6::text[], $7::text[], $8::bigint[])
         on conflict (tenant, id)
         do update set status = excluded.status, refunded = excluded.refunded",
        &tenants as _,
        &text(|t| t.id.as_str()) as _,
        &text(|t| t.payment_id.as_str()) as _,
        &amounts,
        &text(|t| t.currency.as_str()) as _,
        &text(|t| t.reason.as_str()) as _,
        &text(|t| t.status.as_str()) as _,
        &refunded,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
