//! Writes locks, and their history.

use brigade_contracts::Timestamp;
use brigade_domain::{HistoryRow, Lock};
use sqlx::{Postgres, Transaction};

use super::columns::Columns;

/// Writes locks of owners that are locked themselves.
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, locks: &[&Lock]) -> sqlx::Result<()> {
    if locks.is_empty() {
        return Ok(());
    }
    let c = Columns(locks);
    let refusals: Vec<i32> = locks.iter().map(|l| l.refusals.cast_signed()).collect();
    sqlx::query!(
        "insert into brigade.cart_locks as l
             (tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
              expires_at, transaction_id, fingerprint, amount, reason, refusals)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[],
                              $6::text[], $7::bigint[], $8::text[], $9::timestamptz[],
                              $10::timestamptz[], $11::text[], $12::text[], $13::bigint[],
                              $14::text[], $15::integer[])
         on conflict (tenant, owner) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             state = excluded.state, cart_id = excluded.cart_id, token = excluded.token,
             method = excluded.method, acquired_at = excluded.acquired_at,
             expires_at = excluded.expires_at, transaction_id = excluded.transaction_id,
             fingerprint = excluded.fingerprint, amount = excluded.amount,
             reason = excluded.reason, refusals = excluded.refusals",
        &c.text(|l| l.head.address.tenant.as_str()) as _,
        &c.text(|l| l.head.address.id.as_str()) as _,
        &c.number(|l| l.head.version.cast_signed()),
        &c.time(|l| l.head.at),
        &c.text(|l| l.state.as_str()) as _,
        &c.text(|l| l.cart_id.as_str()) as _,
        &c.number(|l| l.token),
        &c.text(|l| l.method.as_str()) as _,
        &c.time(|l| l.acquired_at),
        &c.time(|l| l.expires_at),
        &c.token(|l| l.transaction_id.as_ref()) as _,
        &c.text(|l| l.fingerprint.as_str()) as _,
        &c.number(|l| l.amount.minor_units()),
        &c.optional(|l| l.reason.as_deref()) as _,
        &refusals,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Adds to the history of locks.
///
/// # Errors
/// Those of Postgres.
pub async fn record(tx: &mut Transaction<'_, Postgres>, rows: &[HistoryRow]) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<&HistoryRow> = rows.iter().collect();
    let c = Columns(&rows);
    let tokens: Vec<Option<i64>> = rows.iter().map(|row| row.token).collect();
    let times: Vec<_> = rows.iter().map(|row| Timestamp::inner(row.at)).collect();
    sqlx::query!(
        "insert into brigade.cart_lock_history
             (tenant, owner, cart_id, token, action, method, reason, actor, at)
         select tenant, owner, cart_id, token, action, method, reason, actor, at
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[],
                     $7::text[], $8::text[], $9::timestamptz[])
              with ordinality
              as new (tenant, owner, cart_id, token, action, method, reason, actor, at, place)
         order by place",
        &c.text(|r| r.tenant.as_str()) as _,
        &c.text(|r| r.owner.as_str()) as _,
        &c.text(|r| r.cart_id.as_str()) as _,
        &tokens as _,
        &c.text(|r| r.action.as_str()) as _,
        &c.optional(|r| r.method.map(brigade_contracts::payment::Method::as_str)) as _,
        &c.optional(|r| r.reason.as_deref()) as _,
        &c.token(|r| r.actor.as_ref()) as _,
        &times,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
