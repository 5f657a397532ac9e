//! The release before: its program, and what is written down of it in `tests/upgrade/`.
//!
//! `commit` is the commit of that release. `previous.json` is what has to stay for it as long as
//! processes of it may run: its statements, each with the roles that may run it, the columns of its
//! tables, its permissions on nats-server, and its golden messages by their hashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use brigade_contracts::WorkerName;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};
use tempfile::TempDir;
use tokio::process::Command;

use crate::interop::variable;

/// Names the program of the release before; `.ci/previous` builds it.
const PROGRAM: &str = "BRIGADE_TEST_PREVIOUS";
/// The role that stands for whoever runs a statement that no worker may.
pub const OWNER: &str = "none";

/// Returns the workspace's folder.
#[must_use]
pub fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Returns the program of the release before.
///
/// # Errors
/// Where none is named.
pub fn program() -> Result<PathBuf> {
    let named = variable(PROGRAM).with_context(|| format!("{PROGRAM}, as .ci/previous sets it"))?;
    let program = PathBuf::from(named);
    ensure!(program.exists(), "{PROGRAM}: there is no {}", program.display());
    Ok(program)
}

fn file() -> PathBuf {
    workspace().join("tests/upgrade/previous.json")
}

/// Reads what is written down.
///
/// # Panics
/// Where the file cannot be read.
#[must_use]
pub fn record() -> Value {
    let text = fs::read(file()).expect("tests/upgrade/previous.json");
    serde_json::from_slice(&text).expect("JSON")
}

/// Has a release's `migrate` make the schema, and writes down what that release has.
///
/// # Errors
/// Where the release or git refuses.
pub async fn write(program: &Path, database_url: &str) -> Result<()> {
    let commit = fs::read_to_string(workspace().join("tests/upgrade/commit"))?;
    let migrate = Command::new(program)
        .arg("migrate")
        .env("BRIGADE_DATABASE_URL", database_url)
        .stdin(Stdio::null())
        .status();
    ensure!(migrate.await?.success(), "{} migrate", program.display());
    let source = source(commit.trim()).await?;
    let mut connection = PgConnection::connect(database_url).await?;
    let record = json!({
        "columns": columns(&mut connection).await?.into_keys().collect::<BTreeSet<_>>(),
        "golden": golden(source.path())?,
        "nats": nats_permissions(source.path())?,
        "statements": statements(source.path(), &mut connection).await?,
    });
    Ok(fs::write(file(), format!("{record:#}\n"))?)
}

/// Returns the files of a commit that are written down.
async fn source(commit: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("archive.tar");
    let git = Command::new("git")
        .args(["archive", commit, ".sqlx", "contracts/golden/v1", "nats/permissions", "--output"])
        .arg(&archive)
        .current_dir(workspace())
        .status();
    ensure!(git.await?.success(), "git archive {commit}");
    let tar = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path()).status();
    ensure!(tar.await?.success(), "tar");
    Ok(folder)
}

/// Returns the files of a folder below another, by name.
fn files(below: &Path, folder: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let entries = fs::read_dir(below.join(folder)).with_context(|| folder.to_owned())?;
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
    };
    entries.map(read).collect()
}

/// Returns the hash of each golden message in a source tree.
///
/// # Errors
/// Where a file cannot be read.
pub fn golden(source: &Path) -> Result<BTreeMap<String, String>> {
    let files = files(source, "contracts/golden/v1")?.into_iter();
    Ok(files.map(|(name, bytes)| (name, hex::encode(Sha256::digest(bytes)))).collect())
}

/// Returns the permissions of each user of nats-server in a source tree.
///
/// # Errors
/// Where a file cannot be read.
pub fn nats_permissions(source: &Path) -> Result<BTreeMap<String, Value>> {
    let read = |(name, bytes): (String, Vec<u8>)| {
        let text = String::from_utf8(bytes)?;
        let json = text.trim().strip_prefix("permissions:").context(name.clone())?;
        Ok((name, serde_json::from_str(json)?))
    };
    files(source, "nats/permissions")?.into_iter().map(read).collect()
}

/// Returns the columns of all tables (`carts.id`), each with whether whoever inserts a row has to give
/// it a value.
///
/// # Errors
/// Where Postgres refuses the statement.
pub async fn columns(connection: &mut PgConnection) -> Result<BTreeMap<String, bool>> {
    let rows: Vec<(String, bool)> = sqlx::query_as(
        "select c.relname || '.' || a.attname,
                a.attnotnull and not a.atthasdef and a.attidentity = ''
         from pg_attribute a
         join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'brigade'::regnamespace and c.relkind in ('r', 'p')
           and a.attnum > 0 and not a.attisdropped",
    )
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Returns the statements of a source tree, with the roles that may run each.
async fn statements(source: &Path, connection: &mut PgConnection) -> Result<Vec<Value>> {
    let mut statements = Vec::new();
    for (name, bytes) in files(source, ".sqlx")? {
        let described: Value = serde_json::from_slice(&bytes)?;
        let statement = described["query"].as_str().context(name.clone())?;
        explain(connection, OWNER, statement).await.with_context(|| name.clone())?;
        let mut roles = Vec::new();
        for worker in WorkerName::ALL {
            if explain(connection, worker.as_str(), statement).await.is_ok() {
                roles.push(worker.as_str());
            }
        }
        statements.push(json!({ "roles": roles, "statement": statement }));
    }
    Ok(statements)
}

/// Plans a statement as it is planned for any values, and has a role begin it: whatever it names has
/// to be there, and the role has to be allowed to use it. Nothing is read or written.
///
/// # Errors
/// Those of Postgres.
pub async fn explain(
    connection: &mut PgConnection,
    role: &str,
    statement: &str,
) -> sqlx::Result<()> {
    let role = if role == OWNER { role.to_owned() } else { format!("\"{role}\"") };
    let prepare = format!(
        "begin; set local role {role}; set local plan_cache_mode = force_generic_plan;
         prepare looked as {statement}"
    );
    let explained = async {
        raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await?;
        let count = "select cardinality(parameter_types) from pg_prepared_statements
                     where name = 'looked'";
        let count: i32 = raw_sql(count).fetch_one(&mut *connection).await?.try_get(0)?;
        let nulls = vec!["null"; usize::try_from(count).unwrap_or_default()].join(", ");
        let values = if count == 0 { String::new() } else { format!("({nulls})") };
        let explain = format!("explain execute looked {values}");
        raw_sql(AssertSqlSafe(explain)).execute(&mut *connection).await
    };
    let explained = explained.await;
    // What was prepared outlives the transaction.
    raw_sql("rollback; deallocate all").execute(connection).await?;
    explained.map(|_| ())
}
