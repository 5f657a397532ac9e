//! I-15: no lock outlives its deadline, checked from outside in SQL.

use sqlx::Row;

use crate::{TestFleet, until};

/// The time by which a lock may outlive its deadline while the fleet runs, in milliseconds (I-15).
pub const OUTLIVES: i64 = 1000;
/// The same where the fleet was down, counted from its restart.
pub const OUTLIVES_RESTART: i64 = 2000;

/// Waits until no lock is held.
pub async fn until_no_lock_is_held(fleet: &TestFleet) {
    until("every lock to end", || async {
        let held = "select count(*) from brigade.cart_locks where state = 'held'";
        let held: i64 = sqlx::query_scalar(held).fetch_one(&fleet.sql).await.ok()?;
        (held == 0).then_some(())
    })
    .await;
}

/// Returns the locks that outlived their deadline by more than [`OUTLIVES`]: the cart, by how much,
/// and when they were extended or ended, both in milliseconds, the time since 1970 on the
/// database's clock.
///
/// # Panics
/// Where Postgres does not answer.
pub async fn outlived(fleet: &TestFleet) -> Vec<(String, i64, i64)> {
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
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    rows.iter().map(|row| (row.get("id"), row.get("late"), row.get("at"))).collect()
}
