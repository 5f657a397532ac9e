use std::time::Duration;

use sqlx::{Error, PgPool, pool::PoolConnection, postgres::Postgres};
use tokio::{
    runtime::Handle,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

/// Longest wait for anything of Postgres, above the longest statement that it allows itself (5 s).
/// The server's own time-outs say nothing to a client whose server is frozen or cut off.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest wait for a connection; after it Postgres is away for those who asked.
const CONNECTED: Duration = Duration::from_secs(1);

/// A connection of the pool, within the pool's own limit.
///
/// Unless one is idle it is awaited on a thread of its own, where a new one may be made. Its login
/// takes 4,096 rounds of hashing, after each five of which `sqlx` lets everything else that is ready
/// go first: among many busy tasks that is 820 turns of all of them, and takes longer than any limit.
/// On a thread nobody is let go first.
///
/// # Errors
/// Those of Postgres; [`Error::PoolTimedOut`] when there is none by then.
pub async fn acquire(pool: &PgPool) -> sqlx::Result<PoolConnection<Postgres>> {
    if let Some(idle) = pool.try_acquire() {
        return Ok(idle);
    }
    let (pool, runtime) = (pool.clone(), Handle::current());
    let acquired = spawn_blocking(move || {
        // A pool that is closed ends it, or the thread might outlive its runtime.
        runtime.block_on(pool.close_event().do_until(pool.acquire())).flatten()
    });
    acquired.await.unwrap_or(Err(Error::PoolTimedOut))
}

/// A connection of the pool. One that takes longer is made all the same, for whoever asks next: if
/// it were given up each time, a machine too busy to connect that fast would never be connected.
///
/// # Errors
/// Those of Postgres; [`Error::PoolTimedOut`] when there is none by then.
pub async fn connection(pool: &PgPool, until: Instant) -> sqlx::Result<PoolConnection<Postgres>> {
    // A thread that connects is not stopped by whoever does not wait for it any more.
    timeout_at(until, acquire(pool)).await.unwrap_or(Err(Error::PoolTimedOut))
}

/// Does something on a connection of the pool, and gives up on both when it takes too long: that
/// is an error like a server that cannot be reached.
///
/// # Errors
/// Those of Postgres; [`Error::PoolTimedOut`] when patience is over.
pub async fn bounded<T>(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut PoolConnection<Postgres>) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let mut connection = connection(pool, Instant::now() + CONNECTED).await?;
    let done = timeout(PATIENCE, work(&mut connection)).await;
    if done.is_err() {
        connection.close_on_drop();
    }
    done.unwrap_or(Err(Error::PoolTimedOut))
}

/// What a failed statement means for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Postgres cannot be reached, or does not take work now. Whether a commit that was under
    /// way took place is not known.
    Away,
    /// Others got in the way: a conflict, a deadlock, a time-out. Trying again may help.
    Conflict,
    /// The statement or the data is wrong; trying again does not help.
    Fault,
}

/// SQLSTATE classes and codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
#[must_use]
pub fn failure(error: &Error) -> Failure {
    let Error::Database(error) = error else {
        return match error {
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed => Failure::Away,
            _ => Failure::Fault,
        };
    };
    match error.code().as_deref().unwrap_or_default() {
        // Connection exceptions; out of connections or memory; shutting down or starting;
        // idle in a transaction for too long (this process was stopped in the middle).
        code if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            Failure::Away
        }
        "25P03" => Failure::Away,
        // Read only: a standby, or a disk that is full. Not allowed, not known, not there: the
        // database is not (yet) the one that was set up, which no message is to blame for.
        "25006" | "42501" | "42P01" | "3D000" => Failure::Away,
        code if code.starts_with("58") || code.starts_with("28") => Failure::Away,
        // Unique violation, serialization, deadlock, lock time-out, statement time-out.
        "23505" | "40001" | "40P01" | "55P03" | "57014" => Failure::Conflict,
        _ => Failure::Fault,
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use sqlx::postgres::PgPoolOptions;
    use tokio::sync::Semaphore;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{
        config::StackConfig,
        runtime::connect::postgres,
        stack::{self, Binaries},
    };

    async fn server(dir: &Path) -> anyhow::Result<stack::Postgres> {
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        stack::Postgres::start(&binaries.postgres_bin, dir, 0).await
    }

    /// On one thread that always has something else to do: with 5 ms a turn, a login that lets
    /// the others go first 820 times takes longer than the limit.
    #[tokio::test]
    async fn a_busy_process_is_connected_all_the_same() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let server = server(dir.path()).await?;
        let pool = postgres(&server.superuser_url("postgres"), "test", 1)?;
        let busy = AbortOnDropHandle::new(tokio::spawn(async {
            loop {
                let turn = Instant::now();
                while turn.elapsed() < Duration::from_millis(5) {}
                tokio::task::yield_now().await;
            }
        }));
        let mut in_use = acquire(&pool).await?;
        // Whoever waits for one that is in use may have to make another one in its place.
        let waits = acquire(&pool);
        let ends = async {
            in_use.close_on_drop();
            drop(in_use);
        };
        let (waited, ()) = tokio::join!(waits, ends);
        waited?;
        drop(busy);
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_that_comes_late_serves_the_next() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let server = server(dir.path()).await?;
        let slow = Arc::new(Semaphore::new(0));
        let waits = slow.clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .after_connect(move |_, _| {
                let waits = waits.clone();
                Box::pin(async move {
                    waits.acquire().await.expect("open").forget();
                    Ok(())
                })
            })
            .connect_lazy(&server.superuser_url("postgres"))?;
        let late = connection(&pool, Instant::now()).await;
        assert!(matches!(late, Err(Error::PoolTimedOut)), "{late:?}");
        slow.add_permits(1);
        // There is no permit for another connection: this can only be the first one.
        connection(&pool, Instant::now() + PATIENCE).await?;
        Ok(())
    }
}
