//! The era of the database that a worker works in.

use std::time::Duration;

use brigade_contracts::Era;
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout_at};

use super::{bounded, connection};

/// Longest wait for the era when a worker starts. Without Postgres it starts all the same: then
/// it can confirm and decide nothing, and it is started again when the era turns out to be another.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Interval of the looks whether it is still the same. Meanwhile each statement that relies on it
/// fails.
const LOOK: Duration = Duration::from_millis(500);

/// Returns the era of the database; the first one if Postgres does not tell soon.
pub async fn begin(pool: &PgPool) -> Era {
    let until = Instant::now() + MAX_WAIT;
    let asked = async {
        let mut connection = connection(pool, until).await.ok()?;
        let era = sqlx::query_scalar!(r#"select brigade.current_era() as "era!""#);
        era.fetch_one(&mut *connection).await.ok()
    };
    let era = timeout_at(until, asked).await.ok().flatten();
    era.map_or(Era::FIRST, |era| Era::new(era.cast_unsigned()))
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
