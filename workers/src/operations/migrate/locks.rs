//! Waiting for locks that others have.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{AssertSqlSafe, PgConnection, migrate::MigrateError};
use tokio::time::sleep;

/// Below the 500 ms that a worker waits for a lock, so that none of them is held up by a migration
/// that waits itself.
pub const LOCK_TIMEOUT: &str = "200ms";
/// Pause before a lock is waited for again: the others come first.
const PAUSE: Duration = Duration::from_millis(500);
/// A lock is waited for so long in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does something that needs locks which others have, again until it has them. It waits for each
/// only so long that nobody who waits behind it notices.
pub async fn patiently(
    connection: &mut PgConnection,
    work: impl AsyncFn(&mut PgConnection) -> Result<(), MigrateError>,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match work(connection).await {
            Err(error) if is_locked(&error) => {
                let open = open_transactions(connection).await.unwrap_or_default();
                let why = format!("somebody has locked what is to be changed ({error}); {open}");
                anyhow::ensure!(Instant::now() < until, "{why}");
                tracing::warn!("{why}; trying again");
                sleep(PAUSE).await;
            }
            done => return Ok(done?),
        }
    }
}

/// Sets the time for which statements of this session wait for a lock.
pub async fn set_lock_timeout(connection: &mut PgConnection, limit: &str) -> sqlx::Result<()> {
    let set = format!("set lock_timeout = '{limit}'");
    sqlx::raw_sql(AssertSqlSafe(set)).execute(connection).await?;
    Ok(())
}

/// Returns whether others had locked what was needed, so that trying again may help.
fn is_locked(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    // Lock time-out, deadlock.
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

/// Says who has had a transaction open for longer than a second.
async fn open_transactions(connection: &mut PgConnection) -> sqlx::Result<String> {
    let open: Option<String> = sqlx::query_scalar(
        "select string_agg(format('%s of %s (%s) for %s s: %s', pid, usename, state,
                                  extract(epoch from now() - xact_start)::integer,
                                  left(query, 100)), '; ' order by xact_start)
         from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()
           and xact_start < now() - interval '1 s'",
    )
    .fetch_one(connection)
    .await?;
    Ok(open.map_or_else(
        || "no transaction has been open for long".to_owned(),
        |open| format!("open transactions: {open}"),
    ))
}
