//! The heal backlog: aggregates all of whose keys command-handler has yet to write again.

use std::collections::BTreeSet;

use brigade_contracts::Address;
use sqlx::PgConnection;

use crate::{
    infra::{Context, postgres::bounded},
    store::rows::columns,
};

/// Adds aggregates to the heal backlog. An entry that is there already stands for this loss too,
/// which may have come after command-handler has read it.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn add(postgres: &mut PgConnection, aggregates: &[Address]) -> sqlx::Result<u64> {
    let (tenants, kinds, ids) = columns(aggregates);
    let added = sqlx::query!(
        "insert into brigade.heal_backlog as entry (tenant, aggregate, id, at)
         select distinct tenant, aggregate, id, clock_timestamp()
         from unnest($1::text[], $2::text[], $3::text[]) as lost (tenant, aggregate, id)
         order by tenant, aggregate, id
         on conflict (tenant, aggregate, id) do update set at = excluded.at",
        &tenants as _,
        &kinds as _,
        &ids as _,
    )
    .execute(postgres)
    .await?;
    Ok(added.rows_affected())
}

/// Returns those of the aggregates that are in either backlog, as text.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn in_backlog(cx: &Context, addresses: &[Address]) -> sqlx::Result<BTreeSet<String>> {
    let (tenants, kinds, ids) = columns(addresses);
    let rows = bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            r#"with suspects as (
                   select * from unnest($1::text[], $2::text[], $3::text[])
                                 as suspect (tenant, aggregate, id)
               )
               select tenant as "tenant!", aggregate as "aggregate!", id as "id!"
               from suspects join brigade.projection_backlog using (tenant, aggregate, id)
               union
               select tenant, aggregate, id
               from suspects join brigade.heal_backlog using (tenant, aggregate, id)"#,
            &tenants as _,
            &kinds as _,
            &ids as _,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    Ok(rows.iter().map(|row| format!("{}.{}.{}", row.tenant, row.aggregate, row.id)).collect())
}

/// A queue into which healing puts what others then do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealQueue {
    /// The heal backlog.
    Backlog,
    /// Events that are published once more.
    Outbox,
}

/// More rows of a queue are not counted.
const COUNTED: i64 = 20_000;

impl HealQueue {
    /// Returns how many rows are left in the queue, up to [`COUNTED`].
    ///
    /// # Errors
    /// If Postgres refuses the statement.
    pub async fn count(self, cx: &Context) -> sqlx::Result<i64> {
        bounded(&cx.postgres, async |connection| match self {
            Self::Backlog => {
                sqlx::query_scalar!(
                    r#"select count(*) as "count!"
                       from (select from brigade.heal_backlog limit $1) entries"#,
                    COUNTED,
                )
                .fetch_one(&mut **connection)
                .await
            }
            // What is published for the first time has the number of its event as its place.
            Self::Outbox => {
                sqlx::query_scalar!(
                    r#"select count(*) as "count!"
                       from (select from brigade.outbox where seq <> event_seq limit $1) events"#,
                    COUNTED,
                )
                .fetch_one(&mut **connection)
                .await
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::Aggregate;
    use sqlx::{Connection, raw_sql};

    use super::*;
    use crate::testing::TestDatabase;

    /// command-handler holds the entry of a lock and is about to take that of an order: both go by
    /// the text of the kinds, in which a lock comes first.
    #[tokio::test]
    async fn healing_locks_entries_in_the_order_of_their_keys() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let address = |kind, id| Address::new("t1", kind, id).unwrap();
        let both = [address(Aggregate::Order, "o1"), address(Aggregate::Lock, "ada")];
        let mut other = PgConnection::connect(&database.url).await?;
        let mut heal = PgConnection::connect(&database.url).await?;
        assert_eq!(add(&mut heal, &both).await?, 2);
        let waits = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        let waits = waits.fetch_one(&mut heal).await?;
        raw_sql("begin; set local lock_timeout = '5s'").execute(&mut other).await?;
        let lock_entry = "select from brigade.heal_backlog where aggregate = 'lock' for update";
        raw_sql(lock_entry).execute(&mut other).await?;
        let healing = tokio::spawn(async move { add(&mut heal, &both).await });
        let waiting = "select exists (select from pg_stat_activity
                                      where pid = $1 and wait_event_type = 'Lock')";
        while !sqlx::query_scalar(waiting).bind(waits).fetch_one(&database.sql).await? {}
        // Nothing is held there by whoever waits.
        let free = "select from brigade.heal_backlog where aggregate = 'order' for update nowait";
        raw_sql(free).execute(&mut other).await?;
        raw_sql("commit").execute(&mut other).await?;
        assert_eq!(healing.await??, 2);
        Ok(())
    }
}
