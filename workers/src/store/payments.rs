//! Payments in SQL, as every reader gets them. Only command-handler locks and writes them.

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Timestamp, Token,
    payment::{Method, RefundTask, Status, Target},
};
use brigade_domain::{Capture, Payment};
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head_of_core, keys, parse};

/// A row of `brigade.payments`, and its rows of `brigade.refund_tasks`.
#[derive(Deserialize)]
struct PaymentRow {
    payment: Columns,
    /// Oldest first.
    tasks: Vec<RefundTask>,
}

#[derive(Deserialize)]
struct Columns {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    target_kind: Kind,
    target_id: Token,
    user_id: Option<Token>,
    method: Method,
    status: Status,
    currency: Currency,
    amount: Money,
    refunded_amount: Money,
    applied: Money,
    transaction_id: Option<Token>,
    token: Option<i64>,
    fingerprint: Option<String>,
    captures: Vec<Capture>,
    order_id: Option<Token>,
    table_id: Option<Token>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Cart,
    Order,
}

/// Reads payments without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Payment>> {
    let (tenants, ids) = keys(Aggregate::Payment, addresses);
    let rows = sqlx::query_scalar!(
        r#"select json_build_object('payment', row_to_json(p), 'tasks', (
                      select coalesce(json_agg(row_to_json(t) order by length(t.id), t.id), '[]')
                      from brigade.refund_tasks t
                      where (t.tenant, t.payment_id) = (p.tenant, p.id)))::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
           join brigade.payments p using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// A payment of its row as JSON.
///
/// # Errors
/// Where command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<Payment> {
    let PaymentRow { payment: row, tasks } = parse(row)?;
    Ok(Payment {
        head: head_of_core(Aggregate::Payment, (row.tenant, row.id), row.version, row.updated_at),
        target: match row.target_kind {
            Kind::Cart => Target::Cart(row.target_id),
            Kind::Order => Target::Order(row.target_id),
        },
        method: row.method,
        status: row.status,
        amount: row.amount,
        currency: row.currency,
        refunded_amount: row.refunded_amount,
        user: row.user_id,
        token: row.token,
        fingerprint: row.fingerprint,
        transaction_id: row.transaction_id,
        applied: row.applied,
        captures: row.captures,
        order_id: row.order_id,
        table_id: row.table_id,
        tasks,
    })
}
