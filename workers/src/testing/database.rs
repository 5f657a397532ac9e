//! A database of one test.

use anyhow::{Context as _, Result};
use brigade_contracts::WorkerName;
use brigade_servers::{Binaries, PgBouncer, Postgres, StackConfig, config};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row, raw_sql};
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    shared::{self, TEMPLATE, password},
    tls::{Authority, encrypt_postgres},
};
use crate::infra::postgres::superuser_pool;

/// Connections of the pool for a test's own statements.
const CONNECTIONS: u32 = 4;

/// A database with schema and roles, and nothing in it.
pub struct TestDatabase {
    /// The superuser, with the settings of workers.
    pub sql: PgPool,
    /// The same user; a connection to it has the settings of the server.
    pub url: String,
    /// Set only where the test has a Postgres of its own.
    pub postgres: Option<Postgres>,
    /// Stands between the workers and Postgres, if the test or the environment wants it.
    pgbouncer: Option<(PgBouncer, TempDir)>,
    /// Removed after the Postgres whose data it holds.
    dir: Option<TempDir>,
}

/// Set to 1, every test puts a PgBouncer between the workers and Postgres.
const ALWAYS: &str = "BRIGADE_TEST_PGBOUNCER";

impl TestDatabase {
    /// Makes a copy of the template in the Postgres that all tests of the process share.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn start() -> Result<Self> {
        let name = format!("t_{}", Uuid::now_v7().simple());
        shared::copy_template(&name).await?;
        Self::at(shared::superuser_url(&name), None, None).await
    }

    /// Makes one in a Postgres of its own, which the test may stop and kill.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with_own_postgres() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let postgres = Postgres::start(&shared::binaries().postgres_bin, dir.path(), 0).await?;
        shared::make_template(&postgres).await?;
        let (url, postgres) = (postgres.superuser_url(TEMPLATE), Some(postgres));
        Self::at(url, postgres, Some(dir)).await
    }

    async fn at(url: String, postgres: Option<Postgres>, dir: Option<TempDir>) -> Result<Self> {
        let sql = superuser_pool(&url, CONNECTIONS)?;
        let mut database = Self { sql, url, postgres, pgbouncer: None, dir };
        if config::set(ALWAYS).is_some_and(|value| value == "1") {
            anyhow::ensure!(database.put_pgbouncer_between().await?, "{ALWAYS}: no PgBouncer");
        }
        Ok(database)
    }

    /// Has its own Postgres encrypt all sessions from now on, which show a certificate.
    ///
    /// # Errors
    /// Where it does not start again.
    pub(super) async fn encrypt(&mut self) -> Result<()> {
        let authority = Authority::new();
        let postgres = self.postgres.as_mut().context("a Postgres of its own")?;
        encrypt_postgres(postgres, &authority, "127.0.0.1").await?;
        let dir = self.dir.as_ref().context("its folder")?;
        let files = authority.certify_client(dir.path());
        self.url += &files.postgres_query();
        self.sql = superuser_pool(&self.url, CONNECTIONS)?;
        Ok(())
    }

    /// Puts a PgBouncer in transaction mode between Postgres and the workers that are started from
    /// now on. Returns false if the machine has none, and says so.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn put_pgbouncer_between(&mut self) -> Result<bool> {
        if self.pgbouncer.is_some() {
            return Ok(true);
        }
        let Some(binary) = Binaries::pgbouncer(&StackConfig::from_env()).await? else {
            eprintln!(
                "SKIPPED: no PgBouncer of 1.21 or newer: put one on the PATH, name it in \
                 BRIGADE_PGBOUNCER, or run .ci/pgbouncer"
            );
            return Ok(false);
        };
        let dir = tempfile::tempdir()?;
        let users = WorkerName::ALL.map(|worker| (worker.as_str(), password(worker.as_str())));
        let users: Vec<_> =
            users.iter().map(|(user, password)| (*user, password.as_str())).collect();
        let postgres = self.sql.connect_options().get_port();
        let pgbouncer = PgBouncer::start(&binary, dir.path(), postgres, &users).await?;
        self.pgbouncer = Some((pgbouncer, dir));
        Ok(true)
    }

    /// Returns the URL by which a worker connects to it.
    ///
    /// # Panics
    /// Never: the superuser's URL has a database.
    #[must_use]
    pub fn worker_url(&self, worker: WorkerName) -> String {
        // What is behind it says how sessions of Postgres itself are encrypted.
        let mut database = self.url.splitn(4, '/').nth(3).expect("a database");
        let mut port = self.sql.connect_options().get_port();
        if let Some((pgbouncer, _)) = &self.pgbouncer {
            port = pgbouncer.port();
            database = database.split('?').next().unwrap_or_default();
        }
        format!("postgres://{worker}:{}@127.0.0.1:{port}/{database}", password(worker.as_str()))
    }

    /// Runs statements that may take long.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn run(&self, statements: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await?;
        Ok(())
    }

    /// Counts the rows that a statement reads of tables and indexes, those included that it leaves
    /// out. It is planned as the workers' statements are, without its values.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn rows_read(&self, types: &str, statement: &str, values: &str) -> Result<u64> {
        let mut connection = self.sql.acquire().await?;
        let prepare = format!("prepare looked ({types}) as {statement}");
        raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await?;
        let explain = format!("explain (analyze, format json) execute looked ({values})");
        let plan = raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *connection).await?;
        let plan: Value = plan.try_get(0)?;
        raw_sql("deallocate looked").execute(&mut *connection).await?;
        let read = rows_of(plan.pointer("/0/Plan").context("no plan")?);
        println!("{read} rows: {values:.80}");
        Ok(read)
    }
}

/// Counts the rows that a node of a plan and those below it read.
fn rows_of(node: &Value) -> u64 {
    let number = |field: &str| node[field].as_u64().unwrap_or(0);
    let own = if node["Relation Name"].is_string() {
        let each = number("Actual Rows")
            + number("Rows Removed by Filter")
            + number("Rows Removed by Index Recheck");
        each * number("Actual Loops")
    } else {
        0
    };
    let below = node["Plans"].as_array().into_iter().flatten().map(rows_of);
    own + below.sum::<u64>()
}
