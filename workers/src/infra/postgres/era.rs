//! The era of the database that a worker works in.

use std::time::Duration;

use brigade_contracts::Era;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout_at};

use super::{bounded, connection};

/// Longest wait for the era when a worker starts. Without Postgres it starts all the same: then
/// it can confirm and decide nothing, and is started again when the era turns out to be another.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Interval of the looks whether it is still the same. Meanwhile each statement that relies on it
/// fails.
const LOOK: Duration = Duration::from_millis(500);

/// Returns the era of the database; the one that was known before if Postgres does not tell soon.
pub async fn begin(pool: &PgPool, known: Era) -> Era {
    let until = Instant::now() + MAX_WAIT;
    let asked = async {
        let mut connection = connection(pool, until).await.ok()?;
        let era = sqlx::query_scalar!(r#"select brigade.current_era() as "era!""#);
        era.fetch_one(&mut *connection).await.ok()
    };
    let era = timeout_at(until, asked).await.ok().flatten();
    era.map_or(known, |era| Era::new(era.cast_unsigned()))
}

/// Reads something of a database that is in this era, on whatever server the session is.
///
/// # Errors
/// If Postgres refuses: `55000` in recovery and in another era.
pub async fn read<T>(
    connection: &mut PgConnection,
    era: Era,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    // A pooler leads a transaction to one server.
    let mut transaction = connection.begin().await?;
    assert_era(&mut transaction, era).await?;
    let read = work(&mut transaction).await?;
    transaction.commit().await?;
    Ok(read)
}

/// Refuses a server in recovery, and one whose database is in another era than this.
async fn assert_era(connection: &mut PgConnection, era: Era) -> sqlx::Result<()> {
    sqlx::query_scalar!(r#"select brigade.assert_era($1) as "is!""#, era.as_sql())
        .fetch_one(connection)
        .await
        .map(|_: bool| ())
}

/// Resolves when the database is in another era than this.
pub async fn ended(pool: &PgPool, era: Era) -> Era {
    loop {
        sleep(LOOK).await;
        let found = bounded(pool, async |connection| {
            sqlx::query_scalar!(r#"select brigade.current_era() as "era!""#)
                .fetch_one(&mut **connection)
                .await
        });
        if let Ok(found) = found.await.map(|found| Era::new(found.cast_unsigned()))
            && found != era
        {
            return found;
        }
    }
}
