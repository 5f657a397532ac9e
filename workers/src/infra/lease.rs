use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use super::postgres::bounded;
use crate::infra::Context;

/// What one instance does alone for a while: a duty. It only saves work: whatever is done under
/// a lease stays right when two hold it for a moment.
pub struct Lease;

/// How long a lease lasts without renewal. With a renewal every [`RENEW`] the work of a
/// holder that dies moves within 2 s.
pub const LASTS: Duration = Duration::from_millis(1500);
/// How often a lease is renewed, or asked for.
pub const RENEW: Duration = Duration::from_millis(500);

/// What an instance has of a duty that it has failed at for so long is given to another one.
const FAILS: Duration = Duration::from_secs(2);
/// Who gave a duty up leaves it to the others for this long; twice as long each time that it has
/// failed again, up to [`LONGEST_PAUSE`]: the others may all be no better.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Whether an instance can do a duty. Postgres alone says who holds it, and whoever reaches
/// Postgres can hold it for ever, though nothing comes of it where NATS cannot be used.
#[derive(Debug)]
pub struct Fitness {
    /// Since when nothing came of the duty.
    failing: Option<Instant>,
    pause: Duration,
    paused_until: Option<Instant>,
}

impl Default for Fitness {
    fn default() -> Self {
        Self { failing: None, pause: PAUSE, paused_until: None }
    }
}

impl Fitness {
    /// Something came of the duty.
    pub fn works(&mut self) {
        *self = Self::default();
    }

    /// Nothing came of it, for a reason that another instance may not have.
    pub fn fails(&mut self) {
        let now = Instant::now();
        let failing = *self.failing.get_or_insert(now);
        if now.duration_since(failing) >= FAILS {
            self.failing = None;
            self.paused_until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the instance may hold the duty.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.paused_until.is_none_or(|until| Instant::now() >= until)
    }
}

impl Lease {
    /// Takes or renews the lease of a duty that needs NATS. False: another instance holds it, or
    /// this one cannot do the duty and has given it back.
    ///
    /// # Errors
    /// Those of Postgres; see [`bounded`].
    pub async fn hold(cx: &Context, name: &str, fitness: &Fitness) -> sqlx::Result<bool> {
        if fitness.is_fit() && !cx.nats.is_away() {
            return Self::take(&cx.postgres, name, &cx.instance).await;
        }
        let given_up = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.leases where name = $1 and holder = $2",
                name,
                &*cx.instance,
            )
            .execute(&mut **connection)
            .await
        });
        if given_up.await?.rows_affected() > 0 {
            tracing::warn!(worker = %cx.worker, name, "cannot be done here: it is left to others");
        }
        Ok(false)
    }

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
    /// Those of Postgres; see [`bounded`].
    pub async fn take(self, postgres: &PgPool, member: &str) -> sqlx::Result<Held> {
        loop {
            let round = bounded(postgres, async |connection| {
                sqlx::query_file!(
                    "src/store/shares.sql",
                    self.group,
                    member,
                    LASTS.as_secs_f64(),
                    i64::from(self.count),
                )
                .fetch_one(&mut **connection)
                .await
            });
            let round = round.await?;
            // The first round ever only makes the rows; a statement does not see its own.
            if round.made == 0 {
                return Ok(Held { shares: round.held, released: round.released > 0 });
            }
        }
    }

    /// Gives back all shares of a member that leaves, so that others have them at once.
    ///
    /// # Errors
    /// Those of Postgres; see [`bounded`].
    pub async fn give_back(self, postgres: &PgPool, member: &str) -> sqlx::Result<()> {
        bounded(postgres, async |connection| {
            sqlx::query!(
                "with gone as (
                     delete from brigade.leases where name = $1 || '.member.' || $2
                 )
                 update brigade.leases set holder = ''
                 where holder = $2 and starts_with(name, $1 || '.share.')",
                self.group,
                member,
            )
            .execute(&mut **connection)
            .await
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Error, PgConnection, postgres::PgPoolOptions};
    use tokio::time::advance;

    use super::*;
    use crate::{infra::postgres::connection, testing::TestDatabase};

    #[tokio::test(start_paused = true)]
    async fn who_fails_for_two_seconds_leaves_the_duty_to_others_and_ever_longer() {
        let mut fitness = Fitness::default();
        let fail_for = async |fitness: &mut Fitness, time: Duration| {
            let until = Instant::now() + time;
            while Instant::now() < until {
                fitness.fails();
                advance(Duration::from_millis(100)).await;
            }
        };
        fail_for(&mut fitness, FAILS).await;
        assert!(fitness.is_fit(), "not yet");
        fitness.fails();
        assert!(!fitness.is_fit());
        advance(PAUSE).await;
        assert!(fitness.is_fit());
        fail_for(&mut fitness, FAILS).await;
        fitness.fails();
        advance(PAUSE).await;
        assert!(!fitness.is_fit(), "twice as long");
        advance(PAUSE).await;
        assert!(fitness.is_fit());
        // What works in between counts anew.
        fail_for(&mut fitness, FAILS).await;
        fitness.works();
        fail_for(&mut fitness, FAILS).await;
        assert!(fitness.is_fit());
    }

    #[tokio::test]
    async fn who_gives_up_on_a_lease_keeps_no_place_in_the_pool() -> anyhow::Result<()> {
        let TestDatabase { url, .. } = TestDatabase::start().await?;
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
