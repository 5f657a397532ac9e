//! The schema, and a Postgres role for each worker with the least that it needs.

use anyhow::{Context, Result};
use brigade_contracts::{WorkerName, permissions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::Migrator};

/// Forward only; one that has landed is never edited.
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Makes the database if it is not there.
///
/// # Errors
/// Those of Postgres.
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

/// Brings schema and roles up to date; may be repeated at any time. A role whose `password` is
/// `None` keeps the one it has; a new one then cannot log in until it is given one.
///
/// # Errors
/// Those of Postgres.
pub async fn run(url: &str, password: impl Fn(WorkerName) -> Option<String>) -> Result<()> {
    let mut connection = connect(url).await?;
    MIGRATIONS.run(&mut connection).await.context("cannot migrate the schema")?;
    let mut tx = connection.begin().await?;
    // Roles belong to the whole server: two migrations of two databases must not meet there.
    let lock = "select pg_advisory_xact_lock(hashtext('brigade roles'))";
    sqlx::raw_sql(lock).execute(&mut *tx).await?;
    for worker in WorkerName::ALL {
        let statements = role_statements(worker, password(worker).as_deref());
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut *tx)
            .await
            .with_context(|| format!("cannot set up the role of {worker}"))?;
    }
    Ok(tx.commit().await?)
}

async fn connect(url: &str) -> Result<PgConnection> {
    PgConnection::connect(url).await.context("cannot connect to Postgres")
}

/// Makes the role, takes away what it has in the schema and grants what the table of permissions
/// says, so that a privilege that was dropped there goes here too.
fn role_statements(worker: WorkerName, password: Option<&str>) -> String {
    let role = quoted(worker.as_str());
    let login = match password {
        Some(password) => format!("alter role {role} login password {};", literal(password)),
        None => String::new(),
    };
    let mut statements = format!(
        "do $$ begin
             if not exists (select from pg_roles where rolname = {name}) then
                 create role {role};
             end if;
         end $$;
         {login}
         grant usage on schema brigade to {role};
         revoke all on all tables in schema brigade from {role};
         revoke all on all sequences in schema brigade from {role};\n",
        name = literal(worker.as_str()),
    );
    for (object, privileges) in permissions::grants(worker) {
        let (kind, name) = object.split_once(' ').unwrap_or(("TABLE", object));
        statements += &format!("grant {privileges} on {kind} brigade.{name} to {role};\n");
    }
    statements
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A password of ours has no backslash; Postgres reads `'` doubled.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
