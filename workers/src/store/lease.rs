use std::time::Duration;

use sqlx::PgPool;

/// What one instance does alone for a while: a shard, a duty. It only saves work: whatever is
/// done under a lease stays right when two hold it for a moment.
pub struct Lease;

/// How long a lease lasts without renewal. With a renewal every [`RENEW`] the work of a
/// holder that dies moves within 2 s.
pub const LASTS: Duration = Duration::from_millis(1500);
/// How often a lease is renewed, or asked for.
pub const RENEW: Duration = Duration::from_millis(500);

impl Lease {
    /// Takes or renews a lease. False: another instance holds it.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn take(postgres: &PgPool, name: &str, holder: &str) -> sqlx::Result<bool> {
        let taken = sqlx::query!(
            "insert into brigade.leases as l (name, holder, until)
             values ($1, $2, clock_timestamp() + make_interval(secs => $3))
             on conflict (name) do update set holder = excluded.holder, until = excluded.until
             where l.holder = excluded.holder or l.until < clock_timestamp()",
            name,
            holder,
            LASTS.as_secs_f64(),
        )
        .execute(postgres)
        .await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Gives back all leases of an instance, so that others have them at once.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn give_back(postgres: &PgPool, holder: &str) -> sqlx::Result<()> {
        sqlx::query!("delete from brigade.leases where holder = $1", holder)
            .execute(postgres)
            .await?;
        Ok(())
    }
}
