//! The pool of connections to Postgres, with the settings that were measured to survive outages.

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use sqlx::{
    FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::refuse_standby;

/// The time that a connection to Postgres may take. Some milliseconds are usual; on a machine that
/// is far too busy it is seconds, and a lower limit would keep the worker from ever being
/// connected.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A pool for one worker, which connects on first use. The time-outs bound how long a stopped
/// process can hold anything up.
///
/// # Errors
/// A URL that cannot be read.
pub fn pool(url: &str, worker: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(url)
        .context("the Postgres URL cannot be read")?
        .application_name(worker)
        .options([ISOLATION, LOCK_TIMEOUT])
        .options([
            // Else a statement with arrays is planned again each time, which takes longer than
            // executing it: the planner thinks that it knows their lengths.
            ("plan_cache_mode", "force_generic_plan"),
            // Plans are kept, and a table that is empty when they are made is large later. What
            // has no index to go by looks expensive then, and is not worth compiling.
            ("enable_seqscan", "off"),
            ("jit", "off"),
            ("idle_in_transaction_session_timeout", "1s"),
            ("statement_timeout", "3500ms"),
            ("tcp_user_timeout", "2s"),
            // A statement that nobody waits for any more ends.
            ("client_connection_check_interval", "1s"),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_LIMIT)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                has_its_settings(connection).await?;
                refuse_standby(connection).await
            })
        })
        .connect_lazy_with(options))
}

/// A batch reads what it has locked before: that is right at this level only.
const ISOLATION: (&str, &str) = ("default_transaction_isolation", "read committed");
const LOCK_TIMEOUT: (&str, &str) = ("lock_timeout", "500ms");

/// Refuses a connection that does not have what was asked for when it was made: a pooler between
/// may drop it, and nothing would protect this server from a process that is stopped.
async fn has_its_settings(connection: &mut PgConnection) -> sqlx::Result<()> {
    let settings = "select current_setting('default_transaction_isolation'),
                           current_setting('lock_timeout')";
    let row = sqlx::raw_sql(settings).fetch_one(connection).await?;
    let found: (String, String) = FromRow::from_row(&row)?;
    let wanted = (ISOLATION.1.to_owned(), LOCK_TIMEOUT.1.to_owned());
    if found == wanted {
        return Ok(());
    }
    let why = format!(
        "the connection to Postgres has the settings {found:?} instead of {wanted:?}: a pooler \
         between drops the start-up parameter `options`; let it pass, or connect directly"
    );
    Err(sqlx::Error::Configuration(why.into()))
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;
    use crate::testing::TestDatabase;

    #[tokio::test]
    async fn a_session_without_its_settings_is_refused() -> anyhow::Result<()> {
        let TestDatabase { url, .. } = TestDatabase::start().await?;
        // As a pooler that drops the options would give it out.
        let mut bare = PgConnection::connect(&url).await?;
        let other = "do $$ begin
            execute format('alter database %I set default_transaction_isolation = %L',
                           current_database(), 'repeatable read');
        end $$";
        sqlx::raw_sql(other).execute(&mut bare).await?;
        let refused = has_its_settings(&mut bare).await.unwrap_err().to_string();
        assert!(refused.contains("pooler"), "{refused}");
        // Whatever the database's default is.
        let level: String = sqlx::query_scalar("show transaction_isolation")
            .fetch_one(&pool(&url, "test", 1)?)
            .await?;
        assert_eq!(level, "read committed");
        Ok(())
    }
}
