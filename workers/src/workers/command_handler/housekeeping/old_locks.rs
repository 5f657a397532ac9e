//! Deletes the locks of owners who are long gone: most owners are sessions that never come back.
//!
//! A round goes through all rows by key, page by page, so that no index has to be kept by those who
//! change locks. What was done with a lock stays in `cart_lock_history`. A row that is made again
//! for the same owner has a higher version than the one that was deleted (`brigade.lock_floors`).

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::infra::{Context, postgres::bounded};

/// A lock is kept this long after its release, in days.
const KEPT_DAYS: i32 = 30;
/// Most rows of a page, which takes some milliseconds.
const PAGE: i64 = 2000;
/// Most locks deleted in one transaction, so that nobody waits long for an owner.
const AT_ONCE: usize = 100;
/// Least time between the ends of two rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The progress of a round through all locks, by key.
pub struct OldLocks {
    /// Tenant and owner of the last row of the page before.
    after: (String, String),
    /// The time at which the next page is due.
    next: Instant,
}

/// A row of `cart_locks`.
struct OwnerLock {
    tenant: String,
    owner: String,
    /// Released for longer than it is kept.
    old: bool,
}

impl Default for OldLocks {
    fn default() -> Self {
        Self { after: Default::default(), next: Instant::now() }
    }
}

impl OldLocks {
    /// Deletes the old locks of the next page, if one is due.
    ///
    /// # Errors
    /// If Postgres refuses; the rest of the page is deleted in the next round.
    pub async fn delete(&mut self, cx: &Context) -> sqlx::Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        let after = &self.after;
        let page = bounded(&cx.postgres, async |c| page(c, after, KEPT_DAYS, PAGE).await).await?;
        let full = page.len() as i64 == PAGE;
        match page.last().filter(|_| full) {
            Some(last) => self.after = (last.tenant.clone(), last.owner.clone()),
            None => *self = Self { next: Instant::now() + ROUND_INTERVAL, ..Self::default() },
        }
        let old: Vec<&OwnerLock> = page.iter().filter(|row| row.old).collect();
        let mut deleted = 0;
        for some in old.chunks(AT_ONCE) {
            deleted += bounded(&cx.postgres, async |c| delete(c, some, KEPT_DAYS).await).await?;
        }
        if deleted > 0 {
            tracing::info!(worker = %cx.worker, deleted, "locks of owners long gone deleted");
        }
        Ok(())
    }
}

/// Loads the next rows by key.
async fn page(
    postgres: &mut PgConnection,
    after: &(String, String),
    days: i32,
    most: i64,
) -> sqlx::Result<Vec<OwnerLock>> {
    sqlx::query_as!(
        OwnerLock,
        r#"select tenant, owner,
                  state = 'released'
                  and updated_at < statement_timestamp() - make_interval(days => $3) as "old!"
           from brigade.cart_locks where (tenant, owner) > ($1, $2)
           order by tenant, owner limit $4"#,
        after.0,
        after.1,
        days,
        most,
    )
    .fetch_all(postgres)
    .await
}

/// Deletes those locks that are still old when their owners are locked, as everybody locks them who
/// changes a lock. An owner that somebody has locked is passed over, so nothing is waited for.
/// Returns the number of deleted locks.
async fn delete(postgres: &mut PgConnection, old: &[&OwnerLock], days: i32) -> sqlx::Result<i64> {
    let mut tx = postgres.begin().await?;
    let locked = sqlx::query!(
        r#"select tenant as "tenant!", owner as "owner!"
           from unnest($1::text[], $2::text[]) as old (tenant, owner)
           where pg_try_advisory_xact_lock(hashtextextended(tenant || '.' || owner, 0))"#,
        &old.iter().map(|row| row.tenant.as_str()).collect::<Vec<_>>() as _,
        &old.iter().map(|row| row.owner.as_str()).collect::<Vec<_>>() as _,
    )
    .fetch_all(&mut *tx)
    .await?;
    // A statement of its own, which begins when they are locked.
    let deleted = sqlx::query_file_scalar!(
        "src/workers/command_handler/housekeeping/forget_locks.sql",
        &locked.iter().map(|row| row.tenant.as_str()).collect::<Vec<_>>() as _,
        &locked.iter().map(|row| row.owner.as_str()).collect::<Vec<_>>() as _,
        days,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    fn locks(owners: &str, state: &str, days: u32, count: u32) -> String {
        format!(
            "insert into brigade.cart_locks
                 (tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
                  expires_at, fingerprint, amount)
             select 't' || n % 2, '{owners}' || n, n, now() - interval '{days} days', '{state}',
                    'c', n, 'card', now(), now(), '', 0
             from generate_series(1, {count}) n"
        )
    }

    async fn forget(database: &TestDatabase) -> sqlx::Result<i64> {
        let mut connection = database.sql.acquire().await?;
        let (mut after, mut deleted) = (Default::default(), 0);
        loop {
            let page = page(&mut connection, &after, KEPT_DAYS, 7).await?;
            let old: Vec<&OwnerLock> = page.iter().filter(|row| row.old).collect();
            deleted += delete(&mut connection, &old, KEPT_DAYS).await?;
            let Some(last) = page.into_iter().next_back() else { return Ok(deleted) };
            after = (last.tenant, last.owner);
        }
    }

    async fn left(database: &TestDatabase) -> sqlx::Result<Vec<String>> {
        let left = "select owner from brigade.cart_locks order by owner";
        sqlx::query_scalar(left).fetch_all(&database.sql).await
    }

    async fn floors(database: &TestDatabase) -> sqlx::Result<Vec<(String, i64)>> {
        let floors = "select tenant, version from brigade.lock_floors order by tenant";
        sqlx::query_as(floors).fetch_all(&database.sql).await
    }

    #[tokio::test]
    async fn s8_07_locks_of_owners_long_gone_are_deleted() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        assert_eq!(forget(&database).await?, 0);
        database.run(&locks("gone", "released", 31, 50)).await?;
        database.run(&locks("young", "released", 29, 2)).await?;
        database.run(&locks("held", "held", 31, 2)).await?;
        database.run(&locks("waiting", "released", 31, 2)).await?;
        database
            .run(
                "insert into brigade.projection_backlog
                 select tenant, 'lock', owner, version, now() from brigade.cart_locks
                 where starts_with(owner, 'waiting')",
            )
            .await?;
        assert_eq!(forget(&database).await?, 50);
        let stay = ["held1", "held2", "waiting1", "waiting2", "young1", "young2"];
        assert_eq!(left(&database).await?, stay);
        let raised = [("t0".to_owned(), 50), ("t1".to_owned(), 49)];
        assert_eq!(floors(&database).await?, raised);
        // Once more there is nothing; lower versions lower no floor.
        assert_eq!(forget(&database).await?, 0);
        database.run(&locks("gone", "released", 31, 4)).await?;
        assert_eq!(forget(&database).await?, 4);
        assert_eq!(floors(&database).await?, raised);
        Ok(())
    }

    #[tokio::test]
    async fn an_owner_at_work_keeps_its_lock_and_is_not_waited_for() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        database.run(&locks("gone", "released", 31, 2)).await?;
        let mut work = database.sql.begin().await?;
        let lock = "select pg_advisory_xact_lock_shared(hashtextextended('t1.gone1', 0))";
        sqlx::query(lock).execute(&mut *work).await?;
        assert_eq!(forget(&database).await?, 1);
        assert_eq!(left(&database).await?, ["gone1"]);
        // It was used after it was found.
        let mut connection = database.sql.acquire().await?;
        let found = page(&mut connection, &Default::default(), KEPT_DAYS, 7).await?;
        let used = "update brigade.cart_locks set updated_at = now()";
        sqlx::query(used).execute(&mut *work).await?;
        work.commit().await?;
        let found: Vec<&OwnerLock> = found.iter().collect();
        assert!(found[0].old);
        assert_eq!(delete(&mut connection, &found, KEPT_DAYS).await?, 0);
        assert_eq!(left(&database).await?, ["gone1"]);
        Ok(())
    }
}
