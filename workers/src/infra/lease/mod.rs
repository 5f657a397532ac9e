//! Leases: rows in SQL that say which instance does a duty that only one should do.
//!
//! A lease only saves work: whatever is done under one stays right when two instances hold it for a
//! moment. A duty that goes in rounds is a [`LeasedRounds`]; one that several instances divide
//! among themselves is [`Shares`].

mod rounds;
mod shares;

use std::time::Duration;

use brigade_contracts::planted::PlantedBug;
use sqlx::PgPool;
use tokio::time::Instant;

pub use self::{
    rounds::LeasedRounds,
    shares::{HeldShares, Shares},
};
use super::postgres::bounded;
use crate::infra::Context;

/// The leases of duties, by name.
pub struct Lease;

/// The time that a lease lasts without renewal. With a renewal every [`RENEW`] the work of a holder
/// that dies moves within 2 s.
pub const LASTS: Duration = Duration::from_millis(1500);
/// The time between two renewals of a lease, or two attempts to acquire it.
pub const RENEW: Duration = Duration::from_millis(500);

/// An instance that has failed at a duty for so long gives it up.
const FAILS: Duration = Duration::from_secs(2);
/// An instance that gave a duty up leaves it to the others for this long; twice as long each time
/// that it fails again, up to [`LONGEST_PAUSE`]: the others may all be no better.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The fitness of an instance for a duty. Postgres alone says which instance holds a lease, and one
/// that reaches Postgres could hold it for ever without getting anything done, such as one that
/// cannot use NATS.
#[derive(Debug)]
pub struct Fitness {
    /// The first failure since the duty last succeeded.
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
    /// Records that the duty succeeded.
    pub fn works(&mut self) {
        *self = Self::default();
    }

    /// Records that the duty failed, for a reason that another instance may not have.
    pub fn fails(&mut self) {
        let now = Instant::now();
        let failing = *self.failing.get_or_insert(now);
        if now.duration_since(failing) >= FAILS {
            self.failing = None;
            self.paused_until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Returns true if the instance may hold the lease.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.paused_until.is_none_or(|until| Instant::now() >= until)
    }
}

impl Lease {
    /// Acquires or renews the lease of a duty that needs NATS. Returns false if another instance
    /// holds it, or if this one is not fit for the duty and has given the lease back.
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
    pub async fn hold(cx: &Context, name: &str, fitness: &Fitness) -> sqlx::Result<bool> {
        let is_fit = fitness.is_fit() && !cx.nats.is_away();
        if is_fit || PlantedBug::LeaseNotGivenUp.is_planted() {
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
            tracing::warn!(
                worker = %cx.worker, lease = name,
                "lease given back, since this instance cannot do the duty: another one takes it"
            );
        }
        Ok(false)
    }

    /// Acquires or renews a lease. Returns false if another instance holds it.
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
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

    /// Gives back all leases of an instance, so that others need not wait until they expire.
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
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

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Error, PgConnection, postgres::PgPoolOptions};
    use tokio::time::advance;

    use super::*;
    use crate::{infra::postgres::connection, testing::TestDatabase};

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_fails_for_two_seconds_is_unfit_for_longer_each_time() {
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
        // A success in between starts over.
        fail_for(&mut fitness, FAILS).await;
        fitness.works();
        fail_for(&mut fitness, FAILS).await;
        assert!(fitness.is_fit());
    }

    #[tokio::test]
    async fn a_lease_that_is_not_acquired_in_time_keeps_no_connection_of_the_pool()
    -> anyhow::Result<()> {
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
