use sqlx::PgPool;

use super::LASTS;
use crate::infra::postgres::bounded;

/// Work cut into equal shares, which the live members of a group divide among themselves: each
/// holds at most its fair part. Like any lease, a share only saves work.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// The first part of the leases' names: `<group>.member.<member>`, `<group>.share.<n>`.
    pub group: &'static str,
    pub count: u8,
}

/// The shares that a member holds after a round of [`Shares::take`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldShares {
    pub shares: Vec<i16>,
    /// Some were given up in favour of other members, which do not know yet.
    pub released: bool,
}

impl Shares {
    /// Records that `member` is alive, gives up what exceeds its fair part, and takes shares that
    /// are free or whose holder is dead: one round, in one statement, every [`RENEW`].
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
    ///
    /// [`RENEW`]: super::RENEW
    pub async fn take(self, postgres: &PgPool, member: &str) -> sqlx::Result<HeldShares> {
        loop {
            let round = bounded(postgres, async |connection| {
                sqlx::query_file!(
                    "src/infra/lease/shares.sql",
                    self.group,
                    member,
                    LASTS.as_secs_f64(),
                    i64::from(self.count),
                )
                .fetch_one(&mut **connection)
                .await
            });
            let round = round.await?;
            // The first round of all only inserts the rows: a statement does not see its own.
            if round.made == 0 {
                return Ok(HeldShares { shares: round.held, released: round.released > 0 });
            }
        }
    }

    /// Gives back all shares of a member that leaves, so that others need not wait until they
    /// expire.
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
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
