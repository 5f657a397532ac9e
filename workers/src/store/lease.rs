use std::time::Duration;

use sqlx::PgPool;

use super::postgres::{acquire, bounded};

/// What one instance does alone for a while: a duty. It only saves work: whatever is done under
/// a lease stays right when two hold it for a moment.
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
    /// Those of Postgres; see [`bounded`].
    pub async fn take(postgres: &PgPool, name: &str, holder: &str) -> sqlx::Result<bool> {
        let taken = bounded(postgres, async |connection| {
            sqlx::query!(
                "insert into brigade.leases as l (name, holder, until)
                 values ($1, $2, clock_timestamp() + make_interval(secs => $3))
                 on conflict (name) do update set holder = excluded.holder, until = excluded.until
                 where l.holder = excluded.holder or l.until < clock_timestamp()",
                name,
                holder,
                LASTS.as_secs_f64(),
            )
            .execute(&mut **connection)
            .await
        });
        Ok(taken.await?.rows_affected() > 0)
    }

    /// Gives back all leases of an instance, so that others have them at once.
    ///
    /// # Errors
    /// Those of Postgres; see [`bounded`].
    pub async fn give_back(postgres: &PgPool, holder: &str) -> sqlx::Result<()> {
        bounded(postgres, async |connection| {
            sqlx::query!("delete from brigade.leases where holder = $1", holder)
                .execute(&mut **connection)
                .await
        })
        .await?;
        Ok(())
    }
}

/// Work cut into equal shares that the live members of a group divide among themselves, each
/// holding at most its fair part. A lease like any other: it only saves work.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// The first part of the leases' names: `<group>.member.<member>`, `<group>.share.<n>`.
    pub group: &'static str,
    pub count: u8,
}

/// What a round of [`Shares::take`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub shares: Vec<i16>,
    /// Some were given up in favour of others, who do not know yet.
    pub released: bool,
}

impl Shares {
    /// One round, in one statement, every [`RENEW`]: says that `member` is alive, gives up what
    /// is above its fair part, takes what is free or was held by the dead.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn take(self, postgres: &PgPool, member: &str) -> sqlx::Result<Held> {
        loop {
            let round = sqlx::query_file!(
                "src/store/shares.sql",
                self.group,
                member,
                LASTS.as_secs_f64(),
                i64::from(self.count),
            )
            .fetch_one(&mut *acquire(postgres).await?)
            .await?;
            // The first round ever only makes the rows; a statement does not see its own.
            if round.made == 0 {
                return Ok(Held { shares: round.held, released: round.released > 0 });
            }
        }
    }

    /// Gives back all shares of a member that leaves, so that others have them at once.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn give_back(self, postgres: &PgPool, member: &str) -> sqlx::Result<()> {
        sqlx::query!(
            "with gone as (
                 delete from brigade.leases where name = $1 || '.member.' || $2
             )
             update brigade.leases set holder = ''
             where holder = $2 and starts_with(name, $1 || '.share.')",
            self.group,
            member,
        )
        .execute(&mut *acquire(postgres).await?)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Error, PgConnection, postgres::PgPoolOptions};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        config::StackConfig,
        migrate,
        stack::{self, Binaries},
        store::postgres::connection,
    };

    #[tokio::test]
    async fn who_gives_up_on_a_lease_keeps_no_place_in_the_pool() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = stack::Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
        let url = server.superuser_url("postgres");
        migrate::run(&url, |_| None).await?;
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy(&url)?;
        assert!(Lease::take(&pool, "duty", "me").await?);

        let mut other = PgConnection::connect(&url).await?;
        let mut frozen = other.begin().await?;
        sqlx::raw_sql("lock table brigade.leases").execute(&mut *frozen).await?;
        let given_up = Lease::take(&pool, "duty", "me").await;
        assert!(matches!(given_up, Err(Error::PoolTimedOut)), "{given_up:?}");
        // The pool has room for one connection, and the first one still waits.
        connection(&pool, Instant::now() + Duration::from_secs(10)).await?;
        frozen.rollback().await?;
        assert!(Lease::take(&pool, "duty", "me").await?);
        Ok(())
    }
}
