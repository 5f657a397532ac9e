//! Payments and refund tasks in SQL. Everybody reads them in this way; only command-handler locks
//! and saves them.

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Timestamp, Token,
    payment::{Method, RefundTask, Status, Target},
};
use brigade_domain::{Capture, Payment};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head_of_core, keys, parse, to_rows};

/// A payment with its refund tasks.
#[derive(Deserialize)]
pub(crate) struct PaymentRows {
    payment: StoredPayment,
    /// Oldest first.
    tasks: Vec<RefundTask>,
}

/// A row of `brigade.payments`.
#[derive(Serialize, Deserialize)]
struct StoredPayment {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    target_kind: TargetKind,
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
    turn_id: Option<Token>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TargetKind {
    Cart,
    Order,
}

/// A row of `brigade.refund_tasks`.
#[derive(Serialize)]
struct StoredRefundTask<'a> {
    tenant: &'a Token,
    #[serde(flatten)]
    task: &'a RefundTask,
}

/// Loads payments without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Payment>> {
    let (tenants, ids) = keys(Aggregate::Payment, addresses);
    let rows = sqlx::query_scalar!(
        r#"select json_build_object('payment', row_to_json(p), 'tasks', (
                      select coalesce(json_agg(row_to_json(t) order by length(t.id), t.id), '[]')
                      from brigade.refund_tasks t
                      where (t.tenant, t.payment_id) = (p.tenant, p.id)))::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.payments p using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<PaymentRows>(row).map(Payment::from)).collect()
}

/// Saves payments that are locked, or new; see [`super::carts::save`]. Their tasks are saved apart.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, payments: &[&Payment]) -> sqlx::Result<()> {
    if payments.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.payments
             (tenant, id, version, updated_at, target_kind, target_id, user_id, method, status,
              currency, amount, refunded_amount, applied, transaction_id, token, fingerprint,
              captures, order_id, table_id, turn_id)
         select tenant, id, version, updated_at, target_kind, target_id, user_id, method, status,
                currency, amount, refunded_amount, applied, transaction_id, token, fingerprint,
                captures, order_id, table_id, turn_id
         from jsonb_populate_recordset(null::brigade.payments, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             status = excluded.status, currency = excluded.currency, amount = excluded.amount,
             refunded_amount = excluded.refunded_amount, applied = excluded.applied,
             transaction_id = excluded.transaction_id, token = excluded.token,
             fingerprint = excluded.fingerprint, captures = excluded.captures,
             order_id = excluded.order_id, table_id = excluded.table_id,
             turn_id = excluded.turn_id",
        to_rows::<StoredPayment, _>(payments.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Saves refund tasks that are new or have changed, each with its tenant.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save_refund_tasks(
    connection: &mut PgConnection,
    tasks: &[(&Token, &RefundTask)],
) -> sqlx::Result<()> {
    if tasks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.refund_tasks
             (tenant, id, payment_id, amount, currency, reason, status, refunded, settled)
         select tenant, id, payment_id, amount, currency, reason, status, refunded,
                coalesce(settled, 0)
         from jsonb_populate_recordset(null::brigade.refund_tasks, $1)
         on conflict (tenant, id)
         do update set status = excluded.status, refunded = excluded.refunded,
                       settled = excluded.settled",
        to_rows::<StoredRefundTask<'_>, _>(tasks.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl<'a> From<(&'a Token, &'a RefundTask)> for StoredRefundTask<'a> {
    fn from((tenant, task): (&'a Token, &'a RefundTask)) -> Self {
        Self { tenant, task }
    }
}

impl From<&Payment> for StoredPayment {
    fn from(payment: &Payment) -> Self {
        let (target_kind, target_id) = match &payment.target {
            Target::Cart(id) => (TargetKind::Cart, id),
            Target::Order(id) => (TargetKind::Order, id),
        };
        Self {
            tenant: payment.head.address.tenant.clone(),
            id: payment.head.address.id.clone(),
            version: payment.head.version,
            updated_at: payment.head.at,
            target_kind,
            target_id: target_id.clone(),
            user_id: payment.user.clone(),
            method: payment.method,
            status: payment.status,
            currency: payment.currency,
            amount: payment.amount,
            refunded_amount: payment.refunded_amount,
            applied: payment.applied,
            transaction_id: payment.transaction_id.clone(),
            token: payment.token,
            fingerprint: payment.fingerprint.clone(),
            captures: payment.captures.clone(),
            order_id: payment.order_id.clone(),
            table_id: payment.table_id.clone(),
            turn_id: payment.turn_id.clone(),
        }
    }
}

impl From<PaymentRows> for Payment {
    fn from(PaymentRows { payment: row, tasks }: PaymentRows) -> Self {
        let key = (row.tenant, row.id);
        Self {
            head: head_of_core(Aggregate::Payment, key, row.version, row.updated_at),
            target: match row.target_kind {
                TargetKind::Cart => Target::Cart(row.target_id),
                TargetKind::Order => Target::Order(row.target_id),
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
            turn_id: row.turn_id,
            tasks,
        }
    }
}
