//! The known tenants (`brigade.tenants`): each that ever had a command decided, and those that
//! `brigade up` adds. The commands of an unknown tenant are decided as well, but they overtake no
//! flood: see [`super::overtaking`].

use std::{collections::BTreeSet, time::Duration};

use brigade_contracts::{Command, Token};
use moka::{policy::EvictionPolicy, sync::Cache};
use sqlx::PgPool;

use crate::infra::postgres::bounded;

/// The number of tenants that are remembered as known; others are only written once more.
const REMEMBERED: u64 = 10_000;
/// A tenant without a command for this long is not remembered.
const ACTIVE: Duration = Duration::from_secs(600);

/// The tenants that this process has seen lately, all of which are in SQL.
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
    /// Stores the tenants of these commands that were not seen before.
    pub async fn remember(&self, postgres: &PgPool, commands: impl Iterator<Item = &Command>) {
        let tenants: BTreeSet<_> = commands.map(|command| &command.tenant).collect();
        let unknown: Vec<_> =
            tenants.into_iter().filter(|tenant| self.seen.get(*tenant).is_none()).collect();
        if unknown.is_empty() {
            return;
        }
        let names: Vec<_> = unknown.iter().map(|tenant| tenant.as_str()).collect();
        match add(postgres, &names).await {
            Ok(()) => unknown.into_iter().for_each(|tenant| self.seen.insert(tenant.clone(), ())),
            Err(error) => tracing::debug!(%error, "new tenants are written with a later batch"),
        }
    }

    /// Returns up to so many tenants: first those that were seen lately, then the newest.
    ///
    /// # Errors
    /// If Postgres refuses.
    pub async fn list(&self, postgres: &PgPool, most: usize) -> sqlx::Result<Vec<String>> {
        let newest = bounded(postgres, async |connection| {
            sqlx::query_scalar!(
                "select tenant from brigade.tenants order by created_at desc, tenant limit $1",
                i64::try_from(most).unwrap_or(i64::MAX),
            )
            .fetch_all(&mut **connection)
            .await
        });
        let newest = newest.await?;
        let mut listed: Vec<_> = self.seen.iter().map(|(tenant, ())| tenant.to_string()).collect();
        let seen: BTreeSet<_> = listed.iter().cloned().collect();
        listed.extend(newest.into_iter().filter(|tenant| !seen.contains(tenant)));
        listed.truncate(most);
        Ok(listed)
    }
}

/// Stores tenants that may be known already.
///
/// # Errors
/// If Postgres refuses.
pub async fn add(postgres: &PgPool, tenants: &[&str]) -> sqlx::Result<()> {
    bounded(postgres, async |connection| {
        sqlx::query!(
            "insert into brigade.tenants (tenant) select unnest($1::text[])
             on conflict do nothing",
            tenants as _,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    #[tokio::test]
    async fn tenants_are_those_that_had_something_and_those_that_came_since() -> anyhow::Result<()>
    {
        let database = TestDatabase::start().await?;
        let TestDatabase { sql, .. } = &database;
        let rows = "insert into brigade.command_inbox
                        (tenant, command_id, subject, payload_hash, outcome, decided_at)
                    select 't' || n % 3, 'k' || n, 'cmd.x', '', '{}', now()
                    from generate_series(1, 100) n;
                    insert into brigade.tenants values ('t1', now() - interval '1 hour')";
        sqlx::raw_sql(rows).execute(sql).await?;
        let migration = include_str!("../../../../migrations/0018_tenants.sql");
        let (_, fill) = migration.split_once("do $$").expect("a block");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("do $${fill}"))).execute(sql).await?;
        let tenants = KnownTenants::default();
        assert_eq!(tenants.list(sql, 10).await?, ["t0", "t2", "t1"]);
        add(sql, &["t1", "t3"]).await?;
        assert_eq!(tenants.list(sql, 2).await?, ["t3", "t0"]);
        // One that was seen comes first, however old it is.
        tenants.seen.insert(Token::new("t1")?, ());
        assert_eq!(tenants.list(sql, 2).await?, ["t1", "t3"]);
        Ok(())
    }
}
