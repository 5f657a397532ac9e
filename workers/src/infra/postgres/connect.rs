//! The pool of connections to Postgres, with the settings that were measured to survive outages.
//!
//! Nothing here or in the workers' statements belongs to a session: no parameter is set beyond a
//! transaction, no lock is held beyond one, nothing is listened to, and there are no temporary
//! tables. So a PgBouncer in transaction mode may stand in between, if it knows prepared statements
//! (1.21, `max_prepared_statements`).

use std::{future::pending, str::FromStr, time::Duration};

use anyhow::Context as _;
use brigade_contracts::WorkerName;
use sqlx::{
    ConnectOptions, Connection, Error, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use super::settings::{Setting, check, checked_settings};

/// The time that a connection to Postgres may take. Some milliseconds are usual; on a machine that
/// is far too busy it is seconds, and a lower limit would keep the worker from ever being
/// connected.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The time that an operator's command waits for a connection.
const OPERATOR_LIMIT: Duration = Duration::from_secs(5);
/// Pause before Postgres is asked again for the settings of a role.
const PAUSE: Duration = Duration::from_secs(1);

/// A pool for one worker, which connects on first use. Its connections have the settings of the
/// worker's role, or are refused. The time-outs bound how long a stopped process can hold anything
/// up.
///
/// # Errors
/// A URL that cannot be read.
pub fn pool(url: &str, worker: WorkerName, connections: u32) -> anyhow::Result<PgPool> {
    let options = options(url, worker.as_str())?;
    Ok(checked_pool(options, checked_settings(worker), connections))
}

/// A pool of a user whose role has no settings: they are given to each session.
///
/// # Errors
/// A URL that cannot be read.
#[cfg(any(test, feature = "testing"))]
pub fn superuser_pool(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let settings = super::settings::COMMON;
    let options = options(url, "test")?.options(settings);
    Ok(checked_pool(options, settings.into(), connections))
}

fn options(url: &str, application: &str) -> anyhow::Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    // A pooler refuses a start-up parameter that it does not know; nothing here is a float.
    Ok(options.application_name(application).extra_float_digits(None))
}

fn checked_pool(options: PgConnectOptions, settings: Vec<Setting>, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_LIMIT)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move { check(connection, &settings).await })
        })
        .connect_lazy_with(options)
}

/// Connects for a command that an operator waits for.
///
/// # Errors
/// With the place that was tried, and never the password, if Postgres does not let it in within
/// [`OPERATOR_LIMIT`].
pub async fn operator_connection(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    match timeout(OPERATOR_LIMIT, options.connect()).await {
        Ok(connected) => {
            connected.with_context(|| format!("cannot connect to Postgres at {place}"))
        }
        Err(_) => anyhow::bail!(
            "no answer from Postgres at {place} within {} s: does it run, and may this machine \
             reach it?",
            OPERATOR_LIMIT.as_secs()
        ),
    }
}

/// Returns a pool for a command that an operator waits for. A pool by itself would try again, and
/// say in the end only that it has no connection.
///
/// # Errors
/// If the URL cannot be read, and those of [`operator_connection`].
pub async fn operator_pool(url: &str) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    operator_connection(&options).await?.close().await?;
    Ok(PgPoolOptions::new().acquire_timeout(OPERATOR_LIMIT).connect_lazy_with(options))
}

/// Resolves if the role of a worker does not have its settings. Its pool gives no connection then,
/// and whoever waits for one is only told that there is none.
pub async fn wrong_settings(pool: &PgPool, worker: WorkerName) -> anyhow::Error {
    loop {
        let checked = timeout(CONNECT_LIMIT, async {
            let mut connection = pool.connect_options().connect().await?;
            check(&mut connection, &checked_settings(worker)).await
        });
        match checked.await {
            Ok(Err(error @ Error::Configuration(_))) => return error.into(),
            Ok(Ok(())) => return pending().await,
            // Postgres is not there yet: whoever needs it says so.
            Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        infra::postgres::connection,
        testing::{TestDatabase, until},
    };

    async fn run(url: &str, statement: &str) -> anyhow::Result<()> {
        let mut owner = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut owner).await?;
        Ok(())
    }

    /// The clock stands still while anything happens, so the time-out comes at once.
    #[tokio::test(start_paused = true)]
    async fn an_operator_is_told_soon_which_postgres_is_not_there() -> anyhow::Result<()> {
        let url = |port: u16| format!("postgres://owner:s3cret@127.0.0.1:{port}/brigade");
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let port = silent.local_addr()?.port();
        let why = format!("{:#}", operator_pool(&url(port)).await.unwrap_err());
        let expected = format!("no answer from Postgres at 127.0.0.1:{port} within 5 s");
        assert!(why.starts_with(&expected) && !why.contains("s3cret"), "{why}");
        Ok(())
    }

    #[tokio::test]
    async fn an_operator_is_told_at_once_that_nobody_listens() -> anyhow::Result<()> {
        let port = brigade_servers::port::free_port()?;
        let url = format!("postgres://owner:s3cret@127.0.0.1:{port}/brigade");
        let why = format!("{:#}", operator_pool(&url).await.unwrap_err());
        let expected = format!("cannot connect to Postgres at 127.0.0.1:{port}: ");
        assert!(why.starts_with(&expected) && why.contains("refused"), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
        Ok(())
    }

    #[tokio::test]
    async fn a_worker_refuses_a_role_without_its_settings_and_names_the_cure() -> anyhow::Result<()>
    {
        let database = TestDatabase::with_own_postgres().await?;
        let (edge, relay) = (WorkerName::Edge, WorkerName::OutboxRelay);
        for (worker, timeout) in [(edge, "3500ms"), (relay, "30s")] {
            let pool = pool(&database.worker_url(worker), worker, 1)?;
            let shown: String =
                sqlx::query_scalar("show statement_timeout").fetch_one(&pool).await?;
            assert_eq!(shown, timeout, "{worker}");
            pool.close().await;
        }
        for (change, named) in [
            ("alter role edge reset all", "lock_timeout = 0 instead of 500ms"),
            ("alter role edge set jit = on", "jit = on instead of off"),
        ] {
            run(&database.url, change).await?;
            let pool = pool(&database.worker_url(edge), edge, 1)?;
            let until = tokio::time::Instant::now() + CONNECT_LIMIT;
            assert!(matches!(connection(&pool, until).await, Err(Error::PoolTimedOut)));
            let why = wrong_settings(&pool, edge).await.to_string();
            assert!(why.contains(named) && why.contains("brigade migrate"), "{why}");
            crate::operations::migrate::run(&database.url, "", |_| None).await?;
        }
        // Whatever is set for the database alone goes too.
        run(&database.url, "alter role edge in database brigade_template set jit = on").await?;
        crate::operations::migrate::run(&database.url, "", |_| None).await?;
        let pool = pool(&database.worker_url(edge), edge, 1)?;
        until("a connection", || async { pool.acquire().await.ok() }).await;
        Ok(())
    }
}
