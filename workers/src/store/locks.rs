//! Locks of owners in SQL, as every reader gets them. Only command-handler locks and writes them.

use brigade_contracts::{Address, Aggregate, Money, Timestamp, Token, lock, payment::Method};
use brigade_domain::Lock;
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head_of_core, keys, parse};

/// A row of `brigade.cart_locks`.
#[derive(Deserialize)]
pub(crate) struct LockRow {
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

/// Reads locks without locking them.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Lock>> {
    let (tenants, owners) = keys(Aggregate::Lock, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(l)::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, owner)
           join brigade.cart_locks l using (tenant, owner)"#,
        &tenants as _,
        &owners as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<LockRow>(row).map(LockRow::into_lock)).collect()
}

impl LockRow {
    pub(crate) fn into_lock(self) -> Lock {
        let key = (self.tenant, self.owner);
        Lock {
            head: head_of_core(Aggregate::Lock, key, self.version, self.updated_at),
            state: self.state,
            cart_id: self.cart_id,
            token: self.token,
            method: self.method,
            acquired_at: self.acquired_at,
            expires_at: self.expires_at,
            transaction_id: self.transaction_id,
            fingerprint: self.fingerprint,
            amount: self.amount,
            reason: self.reason,
            refusals: self.refusals,
        }
    }
}
