//! I-15: no lock outlives its deadline.

use sqlx::{PgConnection, PgPool, Row};

/// The time by which a lock may outlive its deadline while the fleet runs, in milliseconds (I-15).
pub const OUTLIVES: i64 = 1000;

/// Returns the locks that expired before their deadline (I-15).
///
/// # Errors
/// If Postgres does not answer.
pub async fn expired_early(sql: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('I-15: the lock of %s.%s expired at %s, and was to live until %s', tenant,
                       id, at, until)
         from (select *, lag((payload::jsonb #>> '{data,expires_at}')::timestamptz)
                      over (partition by tenant, id, payload::jsonb #>> '{data,token}'
                            order by version) as until
               from brigade.events where aggregate = 'cart'
                 and type in ('locked', 'lock_extended', 'lock_expired')) e
         where type = 'lock_expired' and at < until",
    )
    .fetch_all(sql)
    .await
}

/// Returns the locks that outlived their deadline by more than [`OUTLIVES`]: the cart, by how much,
/// and when they were extended or ended, both in milliseconds, the time since 1970 on the
/// database's clock.
///
/// # Errors
/// If Postgres does not answer.
pub async fn outlived(sql: &PgPool) -> sqlx::Result<Vec<(String, i64, i64)>> {
    let rows = sqlx::query(
        "select id, late, at from (
             select id, type, (1000 * extract(epoch from at))::bigint as at,
                    (1000 * extract(epoch from at - lag(until)
                        over (partition by tenant, id, token order by version)))::bigint as late
             from (select *, payload::jsonb #>> '{data,token}' as token,
                          (payload::jsonb #>> '{data,expires_at}')::timestamptz as until
                   from brigade.events
                   where aggregate = 'cart'
                     and type in ('locked', 'lock_extended', 'unlocked', 'lock_expired')) e) e
         where late > $1",
    )
    .bind(OUTLIVES)
    .fetch_all(sql)
    .await?;
    Ok(rows.iter().map(|row| (row.get("id"), row.get("late"), row.get("at"))).collect())
}
