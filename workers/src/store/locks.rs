//! Locks of owners over their carts in SQL. Everybody reads them in this way; only command-handler
//! locks and saves them.

use brigade_contracts::{Address, Aggregate, Money, Timestamp, Token, lock, payment::Method};
use brigade_domain::{HistoryRow, Lock};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head_of_core, keys, parse, to_rows};

/// A row of `brigade.cart_locks`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredLock {
    tenant: Token,
    owner: Token,
    version: u64,
    updated_at: Timestamp,
    state: lock::LockState,
    cart_id: Token,
    token: i64,
    method: Method,
    acquired_at: Timestamp,
    expires_at: Timestamp,
    transaction_id: Option<Token>,
    fingerprint: String,
    amount: Money,
    reason: Option<String>,
    refusals: u32,
}

/// A row of `brigade.cart_lock_history`, without its number.
#[derive(Serialize)]
struct LockHistoryRow<'a> {
    tenant: &'a Token,
    owner: &'a Token,
    cart_id: &'a Token,
    token: Option<i64>,
    action: &'static str,
    method: Option<Method>,
    reason: Option<&'a str>,
    actor: Option<&'a Token>,
    at: Timestamp,
}

/// Loads locks without locking them.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Lock>> {
    let (tenants, owners) = keys(Aggregate::Lock, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(l)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, owner)
           join brigade.cart_locks l using (tenant, owner)"#,
        &tenants as _,
        &owners as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<StoredLock>(row).map(Lock::from)).collect()
}

/// Saves locks of owners that are locked themselves.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, locks: &[&Lock]) -> sqlx::Result<()> {
    if locks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.cart_locks
             (tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
              expires_at, transaction_id, fingerprint, amount, reason, refusals)
         select tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
                expires_at, transaction_id, fingerprint, amount, reason, refusals
         from jsonb_populate_recordset(null::brigade.cart_locks, $1)
         on conflict (tenant, owner) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             state = excluded.state, cart_id = excluded.cart_id, token = excluded.token,
             method = excluded.method, acquired_at = excluded.acquired_at,
             expires_at = excluded.expires_at, transaction_id = excluded.transaction_id,
             fingerprint = excluded.fingerprint, amount = excluded.amount,
             reason = excluded.reason, refusals = excluded.refusals",
        to_rows::<StoredLock, _>(locks.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds to the history of locks, in the order given.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save_history(connection: &mut PgConnection, rows: &[HistoryRow]) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.cart_lock_history
             (tenant, owner, cart_id, token, action, method, reason, actor, at)
         select tenant, owner, cart_id, token, action, method, reason, actor, at
         from jsonb_populate_recordset(null::brigade.cart_lock_history, $1) with ordinality
         order by ordinality",
        to_rows::<LockHistoryRow<'_>, _>(rows) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl<'a> From<&'a HistoryRow> for LockHistoryRow<'a> {
    fn from(row: &'a HistoryRow) -> Self {
        Self {
            tenant: &row.tenant,
            owner: &row.owner,
            cart_id: &row.cart_id,
            token: row.token,
            action: row.action.as_str(),
            method: row.method,
            reason: row.reason.as_deref(),
            actor: row.actor.as_ref(),
            at: row.at,
        }
    }
}

impl From<&Lock> for StoredLock {
    fn from(lock: &Lock) -> Self {
        Self {
            tenant: lock.head.address.tenant.clone(),
            owner: lock.head.address.id.clone(),
            version: lock.head.version,
            updated_at: lock.head.at,
            state: lock.state,
            cart_id: lock.cart_id.clone(),
            token: lock.token,
            method: lock.method,
            acquired_at: lock.acquired_at,
            expires_at: lock.expires_at,
            transaction_id: lock.transaction_id.clone(),
            fingerprint: lock.fingerprint.clone(),
            amount: lock.amount,
            reason: lock.reason.clone(),
            refusals: lock.refusals,
        }
    }
}

impl From<StoredLock> for Lock {
    fn from(row: StoredLock) -> Self {
        let key = (row.tenant, row.owner);
        Self {
            head: head_of_core(Aggregate::Lock, key, row.version, row.updated_at),
            state: row.state,
            cart_id: row.cart_id,
            token: row.token,
            method: row.method,
            acquired_at: row.acquired_at,
            expires_at: row.expires_at,
            transaction_id: row.transaction_id,
            fingerprint: row.fingerprint,
            amount: row.amount,
            reason: row.reason,
            refusals: row.refusals,
        }
    }
}
