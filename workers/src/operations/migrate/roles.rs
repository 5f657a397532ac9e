//! The Postgres roles: one a worker, with its password, its settings and the least that it needs.

use brigade_contracts::{WorkerName, permissions::Grants};
use postgres_protocol::password::scram_sha_256;
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::MigrateError};

use super::quoted;
use crate::infra::postgres::role_settings;

/// Returns the role of a worker. Roles belong to the whole server, so installations that share one
/// have prefixes.
#[must_use]
pub fn role(prefix: &str, worker: WorkerName) -> String {
    format!("{prefix}{worker}")
}

/// Makes the roles of all workers, or brings them up to date.
pub(super) async fn set_up_roles(
    connection: &mut PgConnection,
    prefix: &str,
    password: &impl Fn(WorkerName) -> Option<String>,
    granted: &[fn(WorkerName) -> Grants],
) -> Result<(), MigrateError> {
    let mut tx = connection.begin().await?;
    // Two migrations of this database must not meet there.
    let lock = "select pg_advisory_xact_lock(hashtext('brigade roles'))";
    sqlx::raw_sql(lock).execute(&mut *tx).await?;
    for worker in WorkerName::ALL {
        let role = role(prefix, worker);
        let statements = [
            identity(&role, password(worker).as_deref()),
            settings(&role, worker),
            privileges(&role, granted.iter().flat_map(|grants| grants(worker))),
        ];
        sqlx::raw_sql(AssertSqlSafe(statements.concat())).execute(&mut *tx).await?;
    }
    sqlx::raw_sql(NOBODY_ELSE).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Rights that every role of the server has by default, or had before Postgres 15. It comes last: by then
/// the workers have what they need in their own name.
const NOBODY_ELSE: &str = "revoke all on all routines in schema brigade from public;
                           revoke create on schema public from public;
                           do $$ begin
                               execute format('revoke temporary on database %I from public',
                                              current_database());
                           end $$;";

/// Makes the role. Of its password the server gets what it stores of it, not the password itself:
/// statements stand in its log.
fn identity(role: &str, password: Option<&str>) -> String {
    let login = password.map_or_else(String::new, |password| {
        let verifier = scram_sha_256(password.as_bytes());
        format!("alter role {} login password {};\n", quoted(role), literal(&verifier))
    });
    format!(
        "do $$ begin
             if not exists (select from pg_roles where rolname = {name}) then
                 create role {role};
             end if;
         end $$;
         {login}",
        name = literal(role),
        role = quoted(role),
    )
}

/// Gives the role its settings, and takes away all others.
fn settings(role: &str, worker: WorkerName) -> String {
    let name = quoted(role);
    let mut statements = format!(
        "alter role {name} reset all;
         do $$ begin
             execute format('alter role %I in database %I reset all', {}, current_database());
         end $$;\n",
        literal(role),
    );
    for (setting, value) in role_settings(worker) {
        statements += &format!("alter role {name} set {setting} = {};\n", literal(value));
    }
    statements
}

/// Takes away what the role has in the schema and grants what the table of permissions says, so
/// that a privilege that was dropped there goes here too.
fn privileges<'a>(role: &str, granted: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let role = quoted(role);
    let mut statements = format!(
        "grant usage on schema brigade to {role};
         revoke all on all tables in schema brigade from {role};
         revoke all on all sequences in schema brigade from {role};
         revoke all on all routines in schema brigade from {role};\n"
    );
    for (object, privileges) in granted {
        let (kind, name) = object.split_once(' ').unwrap_or(("TABLE", object));
        statements += &format!("grant {privileges} on {kind} brigade.{name} to {role};\n");
    }
    statements
}

/// Nothing of ours has a backslash; Postgres reads `'` doubled.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
