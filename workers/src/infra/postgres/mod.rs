//! Statements with limits: whose fault an error is, and connections that are given up in time.

mod connect;
pub mod era;
mod login;
mod settings;

use std::{
    borrow::Cow,
    iter,
    ops::{Deref, DerefMut},
    time::Duration,
};

use futures::future::join_all;
use sqlx::{Connection, Error, PgConnection, PgPool, pool::PoolConnection, postgres::Postgres};
use tokio::{
    runtime::Handle,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

#[cfg(any(test, feature = "testing"))]
pub use connect::superuser_pool;
pub use connect::{CONNECT_LIMIT, operator_connection, operator_pool, pool, wrong_settings};
pub use login::{SeenLogin, follow_file, login_of, stays_private};
pub use settings::role_settings;

/// Longest wait for anything of Postgres, above the longest statement that it allows itself
/// (3.5 s). The server's own time-outs say nothing to a client whose server is frozen or cut off,
/// and a connection that is dead on the way is not noticed in any other way: nothing is sent that
/// could fail. Together with [`ANSWERS`] below the 5 s that such a connection may cost.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Longest wait for a connection; after it Postgres is away for those who asked.
const CONNECTED: Duration = Duration::from_secs(1);
/// Longest wait for the answer to a ping.
const ANSWERS: Duration = Duration::from_millis(500);

/// A connection of a pool. It goes back when it is dropped, if it answers: the pool itself would
/// wait for that answer without limit, and a dead connection would keep its place for ever.
#[derive(Debug)]
pub struct Pooled(Option<PoolConnection<Postgres>>);

impl Pooled {
    /// Closes it without a farewell, which might never be taken. Its place is free at once.
    pub fn give_up(mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

impl Deref for Pooled {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let (Some(mut connection), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            let returned = connection.return_to_pool();
            runtime.spawn(async move { timeout(PATIENCE, returned).await });
        }
    }
}

/// A connection of the pool, within the pool's own limit.
///
/// Unless one is idle it is awaited on a thread of its own, where a new one may be made. Its login
/// takes 4,096 rounds of hashing, after each five of which `sqlx` lets everything else that is
/// ready go first: among many busy tasks that is 820 turns of all of them, and takes longer than
/// any limit. On a thread nobody is let go first.
///
/// # Errors
/// If Postgres refuses; [`Error::PoolTimedOut`] if there is no connection by then.
async fn acquire(pool: &PgPool) -> sqlx::Result<Pooled> {
    if let Some(idle) = pool.try_acquire() {
        return Ok(Pooled(Some(idle)));
    }
    let (pool, runtime) = (pool.clone(), Handle::current());
    let acquired = spawn_blocking(move || {
        // A pool that is closed ends it, or the thread might outlive its runtime.
        let acquired = runtime.block_on(pool.close_event().do_until(pool.acquire())).flatten();
        acquired.map(|connection| Pooled(Some(connection)))
    });
    acquired.await.unwrap_or(Err(Error::PoolTimedOut))
}

/// A connection of the pool. One that takes longer is made all the same, for whoever asks next: if
/// it were given up each time, a machine too busy to connect that fast would never be connected.
///
/// # Errors
/// If Postgres refuses; [`Error::PoolTimedOut`] if there is no connection by then.
pub async fn connection(pool: &PgPool, until: Instant) -> sqlx::Result<Pooled> {
    // A thread that connects is not stopped by whoever does not wait for it any more.
    timeout_at(until, acquire(pool)).await.unwrap_or(Err(Error::PoolTimedOut))
}

/// Does something on a connection of the pool, and gives up on both when it takes too long: that
/// is an error like a server that cannot be reached.
///
/// # Errors
/// If Postgres refuses a statement; [`Error::PoolTimedOut`] if it does not answer in time.
pub async fn bounded<T>(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut Pooled) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let mut connection = connection(pool, Instant::now() + CONNECTED).await?;
    let done = timeout(PATIENCE, work(&mut connection)).await;
    finish(pool, connection, done.unwrap_or(Err(Error::PoolTimedOut))).await
}

/// Ends the work on a connection. After [`Error::PoolTimedOut`] the connection is closed, and the
/// idle ones of its pool are tested: they have most likely died with it, and the next ones who
/// need a connection would each wait for one of them in vain.
///
/// # Errors
/// If `done` is an error.
pub async fn finish<T>(
    pool: &PgPool,
    connection: Pooled,
    done: sqlx::Result<T>,
) -> sqlx::Result<T> {
    if matches!(done, Err(Error::PoolTimedOut)) {
        connection.give_up();
        test_idle(pool).await;
    } else if matches!(&done, Err(error) if is_stale(error)) {
        connection.give_up();
    }
    done
}

/// Pings what is idle in a pool, all at once, and closes what does not answer.
pub async fn test_idle(pool: &PgPool) {
    let idle = iter::from_fn(|| pool.try_acquire()).map(|idle| Pooled(Some(idle)));
    let tested = idle.map(|mut connection| async move {
        if !answers(&mut connection).await {
            connection.give_up();
        }
    });
    join_all(tested.collect::<Vec<_>>()).await;
}

/// Returns true if the server answers on a connection.
async fn answers(connection: &mut PgConnection) -> bool {
    matches!(timeout(ANSWERS, connection.ping()).await, Ok(Ok(())))
}

/// Refuses a server in recovery: a standby shows what was true a while ago, and takes no writes.
/// A server does not go back into recovery without ending its sessions, so a session whose server
/// was once found a primary is one for as long as it lasts. (A pooler in between gives sessions
/// that are not the server's: what edge confirms says so in its own statement.)
///
/// # Errors
/// If Postgres refuses: `55000` in recovery.
pub async fn refuse_standby(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query_scalar!(r#"select pg_current_wal_lsn() is not null as "primary!""#)
        .fetch_one(connection)
        .await
        .map(|_: bool| ())
}

/// The kind of a failure of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Postgres cannot be reached, does not take work now, or is not the database that this program
    /// was made for: nothing that a message could be blamed for. Whether a commit that was under
    /// way took place is not known.
    Away,
    /// Others got in the way: a conflict, a deadlock. Trying again may help.
    Conflict,
    /// The data is wrong; trying again does not help.
    Fault,
}

/// Returns true if a statement waited too long: for a lock that somebody else has, or at all.
#[must_use]
pub fn is_held_up(error: &Error) -> bool {
    matches!(code(error).as_deref(), Some(LOCK_TIMEOUT | STATEMENT_TIMEOUT))
}

/// Returns true if a statement took longer than any may.
#[must_use]
pub fn is_too_slow(error: &Error) -> bool {
    code(error).as_deref() == Some(STATEMENT_TIMEOUT)
}

/// Returns true if a statement speaks of what this database does not have, or not so: another
/// version of the schema, a right that is missing, a row that this program did not write.
#[must_use]
pub fn is_mismatch(error: &Error) -> bool {
    matches!(error, Error::Decode(_) | Error::ColumnDecode { .. } | Error::ColumnNotFound(_))
        || code(error).is_some_and(|code| MISMATCH.contains(&code.get(..2).unwrap_or_default()))
}

/// Returns true if a connection remembers a statement that cannot be used any more.
fn is_stale(error: &Error) -> bool {
    code(error).is_some_and(|code| ["0A", "26"].contains(&code.get(..2).unwrap_or_default()))
}

fn code(error: &Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Not supported (a plan of before the schema changed), no such prepared statement, no such schema,
/// no such table, column or function, or not allowed to use it.
const MISMATCH: [&str; 4] = ["0A", "26", "3F", "42"];
const LOCK_TIMEOUT: &str = "55P03";
const STATEMENT_TIMEOUT: &str = "57014";

/// SQLSTATE classes and codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
#[must_use]
pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Database(error) => failure_of(error.code().as_deref().unwrap_or_default()),
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::Configuration(_)
        | Error::BeginFailed
        | Error::ColumnNotFound(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => Failure::Away,
        _ => Failure::Fault,
    }
}

/// Classifies an SQLSTATE, by its class if that is enough. The statements are constant, so a
/// message can only cause failures that depend on its data: classes 22 (data), 23 (constraints) and
/// 54 (limits).
fn failure_of(code: &str) -> Failure {
    match code {
        // Unique violation, snapshot too old.
        "23505" | "72000" => Failure::Conflict,
        _ => match code.get(..2).unwrap_or_default() {
            // Serialization, deadlock, another end of the transaction that trying again mends.
            "40" => Failure::Conflict,
            // Connection exceptions; a plan that does not fit the schema any more; read only (a
            // standby, a disk that is full) or idle in a transaction for too long; a statement that
            // a pooler has forgotten; no right to log in; no such database or schema.
            "08" | "0A" | "25" | "26" | "28" | "3D" | "3F"
            // No such table, column or function, or not allowed to use it.
            | "42"
            // Out of memory, disk or connections; not ready for it, locked; cancelled, timed out,
            // shutting down or starting; errors of the system, of the configuration, of itself.
            | "53" | "55" | "57" | "58" | "F0" | "XX" => Failure::Away,
            _ => Failure::Fault,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::postgres::PgPoolOptions;
    use tokio::sync::Semaphore;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::testing::TestDatabase;

    #[test]
    fn what_is_the_databases_fault_is_no_failure_of_a_message() {
        use Failure::{Away, Conflict, Fault};
        for (code, what, expected) in [
            ("08006", "connection failure", Away),
            ("0A000", "cached plan must not change result type", Away),
            ("25006", "read-only transaction", Away),
            ("25P03", "idle in transaction for too long", Away),
            ("26000", "no such prepared statement", Away),
            ("28P01", "wrong password", Away),
            ("3D000", "no such database", Away),
            ("3F000", "no such schema", Away),
            ("42501", "not allowed", Away),
            ("42703", "no such column", Away),
            ("42883", "no such function", Away),
            ("42P01", "no such table", Away),
            ("53100", "disk full", Away),
            ("53300", "too many connections", Away),
            ("55000", "not in a state for it", Away),
            ("55P03", "lock time-out", Away),
            ("57014", "statement time-out", Away),
            ("57P01", "shut down by an operator", Away),
            ("57P03", "cannot connect now", Away),
            ("58030", "input or output error", Away),
            ("F0001", "lock file exists", Away),
            ("XX002", "index corrupted", Away),
            ("40001", "serialization failure", Conflict),
            ("40P01", "deadlock", Conflict),
            ("23505", "unique violation", Conflict),
            ("22P02", "not a number", Fault),
            ("22021", "not UTF-8", Fault),
            ("23514", "check violation", Fault),
            ("54000", "index row too large", Fault),
            ("", "no code", Fault),
        ] {
            assert_eq!(failure_of(code), expected, "{code} {what}");
        }
        assert_eq!(failure(&Error::PoolTimedOut), Away);
        assert_eq!(failure(&Error::RowNotFound), Fault);
    }

    /// On one thread that always has something else to do: with 5 ms a turn, a login that lets
    /// the others go first 820 times takes longer than the limit.
    #[tokio::test]
    async fn a_busy_process_is_connected_all_the_same() -> anyhow::Result<()> {
        let TestDatabase { url, .. } = TestDatabase::start().await?;
        let pool = superuser_pool(&url, 1)?;
        let busy = AbortOnDropHandle::new(tokio::spawn(async {
            loop {
                let turn = Instant::now();
                while turn.elapsed() < Duration::from_millis(5) {}
                tokio::task::yield_now().await;
            }
        }));
        let in_use = acquire(&pool).await?;
        // Whoever waits for one that is in use may have to make another one in its place.
        let waits = acquire(&pool);
        let ends = async { in_use.give_up() };
        let (waited, ()) = tokio::join!(waits, ends);
        waited?;
        drop(busy);
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_that_comes_late_serves_the_next() -> anyhow::Result<()> {
        let TestDatabase { url, .. } = TestDatabase::start().await?;
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
            .connect_lazy(&url)?;
        let late = connection(&pool, Instant::now()).await;
        assert!(matches!(late, Err(Error::PoolTimedOut)), "{late:?}");
        slow.add_permits(1);
        // There is no permit for another connection: this can only be the first one.
        connection(&pool, Instant::now() + PATIENCE).await?;
        Ok(())
    }
}
