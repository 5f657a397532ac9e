//! The schema, and a Postgres role for each worker with the least that it needs.
//!
//! Migrations run while the fleet is at work. Each is a transaction, in which it waits for a lock
//! for 200 ms at most, again and again: whoever waits for a lock of a whole table keeps out all who
//! come after. An index on a table that is not new is built in a migration of its own: `--
//! no-transaction` in the first line, then the one statement `create index concurrently`.
//!
//! Functions do not stand in migrations but in `migrations/functions/`, one file each, which always
//! has the text of today. Each run makes them anew, after the migrations.

mod locks;
mod roles;
mod schema_drift;

use std::str::FromStr;

use anyhow::{Context, Result};
use brigade_contracts::{
    WorkerName,
    permissions::{Grants, former_grants, grants},
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::{PgConnectOptions, PgDatabaseError},
};

use crate::infra::postgres::operator_connection;

use self::{
    locks::{LOCK_TIMEOUT, patiently, set_lock_timeout},
    roles::set_up_roles,
};
pub use self::{roles::role, schema_drift::schema_drift};

/// Forward only; one that has landed is never edited.
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");
/// The functions of the schema, in the order in which they call each other.
const FUNCTIONS: [&str; 32] = [
    include_str!("../../../migrations/functions/beat.sql"),
    include_str!("../../../migrations/functions/server_timeline.sql"),
    include_str!("../../../migrations/functions/assert_era.sql"),
    include_str!("../../../migrations/functions/begin_era.sql"),
    include_str!("../../../migrations/functions/current_era.sql"),
    include_str!("../../../migrations/functions/era_to_reset.sql"),
    include_str!("../../../migrations/functions/era_was_reset.sql"),
    include_str!("../../../migrations/functions/turn_at.sql"),
    include_str!("../../../migrations/functions/load_batch.sql"),
    include_str!("../../../migrations/functions/read_users.sql"),
    include_str!("../../../migrations/functions/read_versions.sql"),
    include_str!("../../../migrations/functions/read_aggregates.sql"),
    include_str!("../../../migrations/functions/read_owners.sql"),
    include_str!("../../../migrations/functions/read_outcomes.sql"),
    include_str!("../../../migrations/functions/read_active_orders.sql"),
    include_str!("../../../migrations/functions/read_ended_orders.sql"),
    include_str!("../../../migrations/functions/read_product_digests.sql"),
    include_str!("../../../migrations/functions/read_product_pages.sql"),
    include_str!("../../../migrations/functions/read_table_pages.sql"),
    include_str!("../../../migrations/functions/read_cart_pages.sql"),
    include_str!("../../../migrations/functions/read_order_pages.sql"),
    include_str!("../../../migrations/functions/read_ended_order_pages.sql"),
    include_str!("../../../migrations/functions/read_refund_task_pages.sql"),
    include_str!("../../../migrations/functions/read_unknown_payment_pages.sql"),
    include_str!("../../../migrations/functions/read_live_locks.sql"),
    include_str!("../../../migrations/functions/read_lock_history.sql"),
    include_str!("../../../migrations/functions/read_tenants.sql"),
    include_str!("../../../migrations/functions/read_day_closes.sql"),
    include_str!("../../../migrations/functions/read_gateways.sql"),
    include_str!("../../../migrations/functions/erase_users.sql"),
    include_str!("../../../migrations/functions/server_incarnation.sql"),
    include_str!("../../../migrations/functions/assert_incarnation.sql"),
];
/// Makes the database if it is not there.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn create_database(url: &str, database: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    let there: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(database)
            .fetch_one(&mut connection)
            .await?;
    if !there {
        let create = format!("create database {}", quoted(database));
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
    }
    Ok(())
}

/// Brings schema and roles up to date; may be repeated at any time, also while the fleet runs. The
/// names of the roles begin with `prefix`. A role whose `password` is `None` keeps the one it has;
/// a new one then cannot log in until it is given one.
///
/// # Errors
/// If Postgres refuses a statement, or somebody keeps a lock for longer than a minute.
pub async fn run(
    url: &str,
    prefix: &str,
    password: impl Fn(WorkerName) -> Option<String>,
) -> Result<()> {
    run_with(url, prefix, password, &[grants]).await
}

/// Does the same, and leaves the roles what workers of the release before need besides: as long as
/// some of them run, until [`run`] takes it away.
///
/// # Errors
/// Those of [`run`].
pub async fn run_beside_former(
    url: &str,
    prefix: &str,
    password: impl Fn(WorkerName) -> Option<String>,
) -> Result<()> {
    run_with(url, prefix, password, &[grants, former_grants]).await
}

async fn run_with(
    url: &str,
    prefix: &str,
    password: impl Fn(WorkerName) -> Option<String>,
    granted: &[fn(WorkerName) -> Grants],
) -> Result<()> {
    let mut connection = connect_without_pooler(url).await?;
    let schema = patiently(&mut connection, async |connection| {
        migrate(connection, &MIGRATIONS).await?;
        replace_functions(connection, &FUNCTIONS).await
    });
    schema.await.context("cannot migrate the schema")?;
    let roles = patiently(&mut connection, async |connection| {
        set_up_roles(connection, prefix, &password, granted).await
    });
    roles.await.map_err(with_detail).context("cannot set up the roles")
}

/// Adds what Postgres says besides, such as the privilege that is missing.
fn with_detail(error: anyhow::Error) -> anyhow::Error {
    let Some(MigrateError::Execute(sqlx::Error::Database(of_database))) =
        error.downcast_ref::<MigrateError>()
    else {
        return error;
    };
    let detail =
        of_database.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail);
    match detail {
        Some(detail) => anyhow::anyhow!("{} ({detail})", of_database.message()),
        None => error,
    }
}

/// Runs the migrations that are pending.
async fn migrate(connection: &mut PgConnection, all: &Migrator) -> Result<(), MigrateError> {
    set_lock_timeout(connection, LOCK_TIMEOUT).await?;
    // Kept until the connection ends: while an index is built nobody may wait for it, since the
    // build waits for everybody who waits.
    connection.lock().await?;
    let migrations: Vec<_> = all.iter().collect();
    for group in migrations.chunk_by(|one, next| one.no_tx == next.no_tx) {
        let Some(last) = group.last() else { continue };
        if last.no_tx && !is_applied(connection, last.version).await? {
            // An index that is built beside others' work waits for all that are at work, and nobody
            // waits for it.
            drop_unfinished_indexes(connection).await?;
            set_lock_timeout(connection, "0").await?;
        }
        all.run_to(last.version, &mut *connection).await?;
        set_lock_timeout(connection, LOCK_TIMEOUT).await?;
    }
    Ok(())
}

/// Makes the functions as their texts say, and drops every other one of the schema, such as a
/// former version with other parameters. All of that is one transaction: who calls a function
/// meanwhile finds the former one or the new one. [`migrate`] keeps other runs out before.
async fn replace_functions(
    connection: &mut PgConnection,
    functions: &[&'static str],
) -> Result<(), MigrateError> {
    let mut tx = connection.begin().await?;
    for function in functions {
        sqlx::raw_sql(*function).execute(&mut *tx).await?;
    }
    // What was just made has a row of this transaction, even if it was the same before.
    let drops: Option<String> = sqlx::query_scalar(
        "select string_agg(format('drop routine %s', oid::regprocedure), '; ') from pg_proc
         where pronamespace = 'brigade'::regnamespace and xmin <> pg_current_xact_id()::xid",
    )
    .fetch_one(&mut *tx)
    .await?;
    if let Some(drops) = drops {
        sqlx::raw_sql(AssertSqlSafe(drops)).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// Returns whether a migration was done, after some that stand before it.
async fn is_applied(connection: &mut PgConnection, version: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from _sqlx_migrations where version = $1 and success)",
    )
    .bind(version)
    .fetch_one(connection)
    .await
}

/// Drops what an index that could not be built has left behind, which stands in the way of its
/// repetition.
async fn drop_unfinished_indexes(connection: &mut PgConnection) -> sqlx::Result<()> {
    let drops: Vec<String> = sqlx::query_scalar(
        "select format('drop index concurrently %s', i.indexrelid::regclass)
         from pg_index i
         join pg_class c on c.oid = i.indexrelid
         where not i.indisvalid and c.relnamespace = to_regnamespace('brigade')
           and not exists (select from pg_stat_progress_create_index p
                           where p.index_relid = i.indexrelid)",
    )
    .fetch_all(&mut *connection)
    .await?;
    for drop in drops {
        tracing::warn!("an index was not finished: {drop}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Connects to Postgres itself: locks and settings here are kept for a whole session, and one of a
/// pooler is not the server's. A pooler refuses the settings of a session, or passes over them.
async fn connect_without_pooler(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    let options = options.options([("lock_timeout", LOCK_TIMEOUT)]);
    let connected = operator_connection(&options).await;
    let mut connection =
        connected.context("this command needs Postgres itself, and no pooler in between")?;
    let limit: String = sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await?;
    anyhow::ensure!(
        limit == LOCK_TIMEOUT,
        "a pooler stands before Postgres, and this command needs Postgres itself"
    );
    Ok(connection)
}

async fn connect(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    operator_connection(&options).await
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
