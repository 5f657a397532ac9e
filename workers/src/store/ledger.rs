//! The ledger of money in SQL. Rows are only ever added.

use brigade_contracts::{Currency, Timestamp, Token};
use brigade_domain::{Ledger, LedgerEntry, LedgerKey};
use serde::Serialize;
use sqlx::PgConnection;

use super::rows::to_rows;

/// A row of `brigade.money_ledger`.
#[derive(Serialize)]
struct LedgerRow<'a> {
    tenant: &'a Token,
    method: &'static str,
    currency: Currency,
    captured: i128,
    applied: i128,
    refunded: i128,
    owed: i128,
    settled: i128,
}

/// Adds what a batch has moved.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(
    connection: &mut PgConnection,
    now: Timestamp,
    ledger: &Ledger,
) -> sqlx::Result<()> {
    if ledger.entries().next().is_none() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.money_ledger
             (tenant, at, method, currency, captured, applied, refunded, owed, settled)
         select tenant, $2, method, currency, captured, applied, refunded, owed, settled
         from jsonb_populate_recordset(null::brigade.money_ledger, $1)",
        to_rows::<LedgerRow<'_>, _>(ledger.entries()) as _,
        now.inner(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl<'a> From<(&'a LedgerKey, &'a LedgerEntry)> for LedgerRow<'a> {
    fn from((key, entry): (&'a LedgerKey, &'a LedgerEntry)) -> Self {
        let LedgerEntry { captured, applied, refunded, owed, settled } = *entry;
        Self {
            tenant: &key.tenant,
            method: key.method,
            currency: key.currency,
            captured,
            applied,
            refunded,
            owed,
            settled,
        }
    }
}
