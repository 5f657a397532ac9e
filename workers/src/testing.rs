//! Servers for unit tests: a database for single statements, and both servers with all users.

use std::path::Path;

use anyhow::{Context as _, Result};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, NatsServer, Postgres, StackConfig};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row, raw_sql};
use tempfile::TempDir;

use crate::{
    fleet::{Servers, Settings},
    infra::postgres::pool,
    operations::{migrate, provision},
};

const DATABASE: &str = "brigade";

/// Both servers with schema, streams and users; the password of each user is its name.
pub struct Stack {
    pub nats: NatsServer,
    pub postgres: Postgres,
}

impl Stack {
    pub async fn start(dir: &Path, tenant: &str) -> Result<Self> {
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let users = permissions::all_users(&[Token::new(tenant)?]);
        let accounts = permissions::accounts(users.iter().map(|user| (user, user.name.as_str())));
        let (nats_dir, postgres_dir) = (dir.join("nats"), dir.join("postgres"));
        let (nats, postgres) = tokio::try_join!(
            NatsServer::start(&binaries.nats_server, &nats_dir, 0, &accounts),
            Postgres::start(&binaries.postgres_bin, &postgres_dir, 0),
        )?;
        let stack = Self { nats, postgres };
        migrate::create_database(&stack.postgres.superuser_url("postgres"), DATABASE).await?;
        migrate::run(&stack.superuser_url(), |worker| Some(worker.as_str().into())).await?;
        provision::run(&stack.nats_url("operator"), 1).await?;
        Ok(stack)
    }

    pub fn nats_url(&self, user: &str) -> String {
        format!("nats://{user}:{user}@127.0.0.1:{}", self.nats.port())
    }

    pub fn superuser_url(&self) -> String {
        self.postgres.superuser_url(DATABASE)
    }

    pub fn servers(&self, worker: WorkerName) -> Servers {
        let user = worker.as_str();
        Servers {
            nats_url: self.nats_url(user),
            postgres_url: self.postgres.url(user, user, DATABASE),
            replicas: 1,
            settings: Settings::default(),
        }
    }
}

/// A Postgres with the schema and nothing in it.
pub struct Database {
    /// With the settings of workers.
    pub sql: PgPool,
    pub url: String,
    _server: Postgres,
    _dir: TempDir,
}

impl Database {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
        let url = server.superuser_url("postgres");
        migrate::run(&url, |_| None).await?;
        Ok(Self { sql: pool(&url, "test", 4)?, url, _server: server, _dir: dir })
    }

    /// Runs statements that may take long.
    pub async fn run(&self, statements: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await?;
        Ok(())
    }

    /// How many rows a statement reads of tables and indexes, those included that it leaves out.
    /// It is planned as the workers' statements are, without its values.
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
