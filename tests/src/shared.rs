//! What all tests of a process share: the programs, and one Postgres with a template database.

use std::{sync::OnceLock, thread};

use brigade::operations::migrate;
use brigade_contracts::WorkerName;
use brigade_servers::{Binaries, Postgres, config::StackConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime::Runtime;

/// The database that every test copies: schema and roles, no rows.
pub const TEMPLATE: &str = "brigade_template";

/// Postgres with the template, and where the programs are.
pub struct Shared {
    pub binaries: Binaries,
    pub superuser_url: String,
    pub port: u16,
}

/// The password of a worker's role in tests.
#[must_use]
pub fn role_password(worker: WorkerName) -> String {
    format!("{worker}-secret")
}

/// Starts the shared Postgres at the first call. It lives in a runtime of its own, since each test
/// has one that ends with it, and dies with the process.
///
/// # Panics
/// Where the servers cannot be found or started: no test can run.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        thread::spawn(|| {
            let runtime = Box::leak(Box::new(Runtime::new().expect("a runtime")));
            runtime.block_on(start())
        })
        .join()
        .expect("the shared Postgres starts")
    })
}

async fn start() -> Shared {
    let binaries = Binaries::find(&StackConfig::from_env()).await.expect("both servers are found");
    let dir = Box::leak(Box::new(tempfile::tempdir().expect("a temporary folder")));
    let postgres = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await.expect("Postgres");
    let postgres = Box::leak(Box::new(postgres));
    prepare(&postgres.superuser_url("postgres"), &postgres.superuser_url(TEMPLATE)).await;
    Shared { binaries, superuser_url: postgres.superuser_url("postgres"), port: postgres.port() }
}

/// Makes the template.
///
/// # Panics
/// Where Postgres refuses.
pub async fn prepare(server_url: &str, template_url: &str) {
    migrate::create_database(server_url, TEMPLATE).await.expect("a template database");
    migrate::run(template_url, |worker| Some(role_password(worker))).await.expect("the schema");
}

/// Makes a database of the template.
///
/// # Panics
/// Where Postgres refuses.
pub async fn copy_template(server_url: &str, database: &str) {
    let mut connection = PgConnection::connect(server_url).await.expect("a connection");
    let create = format!("create database {database} template {TEMPLATE}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.expect("a copy");
}
