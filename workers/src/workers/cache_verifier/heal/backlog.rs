//! The projection backlog: aggregates that command-handler has yet to project.

use std::collections::BTreeSet;

use brigade_contracts::Address;
use sqlx::PgConnection;

use super::{BATCH, VersionedAddress};
use crate::infra::{Context, postgres::bounded};

/// The most aggregates whose progress is read.
const SAMPLE_SIZE: usize = 1000;

/// Some of the aggregates that were added to the backlog, evenly spread: from them healing
/// estimates how many are left. Counting all entries would take longer the more there are.
pub struct BacklogSample {
    addresses: Vec<Address>,
    /// Aggregates that were added in all.
    aggregates: i64,
    batches: usize,
    /// One address is kept of so many batches.
    every: usize,
}

impl Default for BacklogSample {
    fn default() -> Self {
        Self { addresses: Vec::new(), aggregates: 0, batches: 0, every: 1 }
    }
}

impl BacklogSample {
    pub fn add(&mut self, batch: &[VersionedAddress]) {
        let Some((last, _)) = batch.last() else { return };
        self.aggregates += batch.len() as i64;
        if self.batches.is_multiple_of(self.every) {
            self.addresses.push(last.clone());
        }
        self.batches += 1;
        if self.addresses.len() > SAMPLE_SIZE {
            let mut place = 0;
            self.addresses.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.every *= 2;
        }
    }
}

/// Estimates how many aggregates are overdue; 0 only if none is. Entries outside the sample are
/// looked at only when nothing of it is left.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn estimate_overdue(cx: &Context, sample: &BacklogSample) -> sqlx::Result<i64> {
    let [tenants, kinds, ids] = columns(&sample.addresses);
    let overdue = bounded(&cx.postgres, async |connection| {
        sqlx::query_file!(
            "src/workers/cache_verifier/heal/overdue.sql",
            &tenants as _,
            &kinds as _,
            &ids as _,
        )
        .fetch_one(&mut **connection)
        .await
    })
    .await?;
    let stands_for = sample.every as i64 * BATCH;
    Ok((overdue.sampled * stands_for).min(sample.aggregates).max(i64::from(overdue.any)))
}

/// Adds aggregates to the backlog, as overdue. They are sorted by the database, as by a batch of
/// command-handler: the two would else wait for each other in a circle.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn add(
    postgres: &mut PgConnection,
    aggregates: &[VersionedAddress],
) -> sqlx::Result<u64> {
    let [tenants, kinds, ids] = columns(aggregates.iter().map(|(address, _)| address));
    let versions: Vec<i64> = aggregates.iter().map(|(_, version)| *version).collect();
    let added = sqlx::query!(
        "insert into brigade.projection_backlog as entry (tenant, aggregate, id, version, at)
         select tenant, aggregate, id, version, clock_timestamp() - interval '2 seconds'
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
              as lost (tenant, aggregate, id, version)
         order by tenant, aggregate, id
         on conflict (tenant, aggregate, id)
         do update set version = greatest(entry.version, excluded.version),
                       at = least(entry.at, excluded.at)",
        &tenants as _,
        &kinds as _,
        &ids as _,
        &versions,
    )
    .execute(postgres)
    .await?;
    Ok(added.rows_affected())
}

/// Returns those of the aggregates that are in the backlog, as text.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn in_backlog(cx: &Context, addresses: &[Address]) -> sqlx::Result<BTreeSet<String>> {
    let [tenants, kinds, ids] = columns(addresses);
    let rows = bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "select tenant, aggregate, id from brigade.projection_backlog
             join unnest($1::text[], $2::text[], $3::text[]) as suspect (tenant, aggregate, id)
                  using (tenant, aggregate, id)",
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

/// Returns tenants, kinds and ids of addresses as columns for SQL.
fn columns<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> [Vec<&'a str>; 3] {
    let mut columns = [const { Vec::new() }; 3];
    for address in addresses {
        let fields = [address.tenant.as_str(), address.aggregate.as_str(), address.id.as_str()];
        for (column, field) in columns.iter_mut().zip(fields) {
            column.push(field);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use brigade_contracts::Aggregate;
    use sqlx::{Connection, raw_sql};

    use super::*;
    use crate::testing::TestDatabase;

    fn address(aggregate: Aggregate, id: &str) -> Address {
        Address::new("t1", aggregate, id).unwrap()
    }

    #[test]
    fn a_sample_stays_small_and_is_spread_evenly() {
        let mut sample = BacklogSample::default();
        for batch in 0..10_000 {
            sample.add(&[(address(Aggregate::Cart, &format!("c{batch}")), 1)]);
        }
        assert_eq!((sample.every, sample.addresses.len(), sample.aggregates), (16, 625, 10_000));
        let expected: Vec<_> =
            (0..625).map(|n| address(Aggregate::Cart, &format!("c{}", 16 * n))).collect();
        assert_eq!(sample.addresses, expected);
    }

    #[tokio::test]
    async fn progress_is_estimated_from_a_sample_without_counting() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let overdue = async |ids: &str| {
            let values = format!("'{{t1,t1}}', '{{cart,cart}}', '{{{ids}}}'");
            let types = "text[], text[], text[]";
            database.rows_read(types, include_str!("overdue.sql"), &values).await
        };
        let entries = "insert into brigade.projection_backlog
                     select 't1', 'cart', 'c' || n, 1, now() - interval '1 minute'
                     from generate_series(1, 20000) n";
        for more in [entries, "analyze brigade.projection_backlog"] {
            database.run(more).await?;
            assert_eq!(overdue("c1,c20000").await?, 2);
            assert_eq!(overdue("x,y").await?, 1, "whether there is any");
        }
        Ok(())
    }

    /// The batch holds the entry of a lock, and is about to add one of an order: it goes by the
    /// text of the kinds, in which a lock comes first.
    #[tokio::test]
    async fn healing_and_a_batch_write_the_backlog_in_the_same_order() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let (lock, order) = (address(Aggregate::Lock, "ada"), address(Aggregate::Order, "o1"));
        let both = [(order, 1), (lock, 1)];
        let mut batch = PgConnection::connect(&database.url).await?;
        let mut heal = PgConnection::connect(&database.url).await?;
        add(&mut heal, &both).await?;
        let waits = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        let waits = waits.fetch_one(&mut heal).await?;
        let lock_entry = |kind: &str| {
            format!("update brigade.projection_backlog set version = 2 where aggregate = '{kind}'")
        };
        raw_sql("begin; set local lock_timeout = '5s'").execute(&mut batch).await?;
        raw_sql(sqlx::AssertSqlSafe(lock_entry("lock"))).execute(&mut batch).await?;
        let healing = tokio::spawn(async move { add(&mut heal, &both).await });
        let waiting = "select exists (select from pg_stat_activity
                                      where pid = $1 and wait_event_type = 'Lock')";
        while !sqlx::query_scalar(waiting).bind(waits).fetch_one(&database.sql).await? {}
        // Nothing is held there by whoever waits.
        let free = "select from brigade.projection_backlog
                    where aggregate = 'order' for update nowait";
        raw_sql(free).execute(&mut batch).await?;
        raw_sql("commit").execute(&mut batch).await?;
        assert_eq!(healing.await??, 2);
        Ok(())
    }
}
