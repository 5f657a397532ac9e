//! The tenants that are registered (`brigade.tenants`), as far as command-handler asks beside its
//! batches: whose passwords are hashed, and whose commands overtake a flood
//! ([`super::overtaking`]). Whether a command is decided is found in its batch.

use std::{collections::HashSet, time::Duration};

use brigade_contracts::{Command, Token};
use moka::{policy::EvictionPolicy, sync::Cache};
use sqlx::{PgConnection, PgPool};

use crate::infra::postgres::bounded;

/// The number of tenants that are remembered as seen.
const REMEMBERED: u64 = 10_000;
/// A tenant without a command for this long is not remembered.
const ACTIVE: Duration = Duration::from_secs(600);

/// The tenants of whom this process has lately decided a command.
pub struct KnownTenants {
    seen: Cache<Token, ()>,
}

impl Default for KnownTenants {
    fn default() -> Self {
        let seen = Cache::builder()
            .max_capacity(REMEMBERED)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(ACTIVE)
            .build();
        Self { seen }
    }
}

impl KnownTenants {
    /// Remembers the tenants of these commands, which were decided.
    pub fn remember<'a>(&self, commands: impl Iterator<Item = &'a Command>) {
        for tenant in commands.map(|command| &command.tenant).collect::<HashSet<_>>() {
            if self.seen.get(tenant).is_none() {
                self.seen.insert(tenant.clone(), ());
            }
        }
    }

    /// Returns up to so many tenants: first those that were seen lately, then the newest.
    ///
    /// # Errors
    /// If Postgres refuses.
    pub async fn list(&self, postgres: &PgPool, most: usize) -> sqlx::Result<Vec<String>> {
        let newest = bounded(postgres, async |connection| {
            sqlx::query_scalar!(
                "select tenant from brigade.tenants where state = 'active'
                 order by created_at desc, tenant limit $1",
                i64::try_from(most).unwrap_or(i64::MAX),
            )
            .fetch_all(&mut **connection)
            .await
        });
        let newest = newest.await?;
        let mut listed: Vec<_> = self.seen.iter().map(|(tenant, ())| tenant.to_string()).collect();
        let seen: HashSet<_> = listed.iter().cloned().collect();
        listed.extend(newest.into_iter().filter(|tenant| !seen.contains(tenant)));
        listed.truncate(most);
        Ok(listed)
    }
}

/// Returns those of some tenants that are active.
///
/// # Errors
/// If Postgres refuses.
pub async fn active(
    connection: &mut PgConnection,
    tenants: &[&str],
) -> sqlx::Result<HashSet<String>> {
    let active = sqlx::query_scalar!(
        "select tenant from brigade.tenants where tenant = any($1) and state = 'active'",
        tenants as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(active.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    /// The rows of one that was decided before there were any stay its rows.
    #[tokio::test]
    async fn tenants_are_those_that_had_something_and_those_that_are_registered()
    -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let TestDatabase { sql, .. } = &database;
        let rows = "delete from brigade.tenants;
                    insert into brigade.command_inbox
                        (tenant, command_id, subject, payload_hash, outcome, decided_at)
                    select 't' || n % 3, 'k' || n, 'cmd.x', '', '{}', now()
                    from generate_series(1, 100) n;
                    insert into brigade.tenants values
                        ('t1', now() - interval '1 hour'), ('t4', now() - interval '2 hours');
                    update brigade.tenants set state = 'suspended' where tenant = 't4'";
        sqlx::raw_sql(rows).execute(sql).await?;
        let migration = include_str!("../../../../migrations/0025_registered_tenants.sql");
        let (_, fill) = migration.split_once("do $$").expect("a block");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("do $${fill}"))).execute(sql).await?;
        let tenants = KnownTenants::default();
        assert_eq!(tenants.list(sql, 10).await?, ["t0", "t2", "t1"]);
        assert_eq!(tenants.list(sql, 2).await?, ["t0", "t2"]);
        // One that was seen comes first, however old it is.
        tenants.seen.insert(Token::new("t1")?, ());
        assert_eq!(tenants.list(sql, 2).await?, ["t1", "t0"]);
        let mut connection = sql.acquire().await?;
        let found = active(&mut connection, &["t1", "t4", "t5"]).await?;
        assert_eq!(found, HashSet::from(["t1".to_owned()]));
        Ok(())
    }
}
