//! All tests of a process share the server programs and one Postgres with a template
//! database.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    sync::OnceLock,
    thread,
};

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD as STANDARD, Engine};
use brigade_contracts::WorkerName;
use brigade_servers::{Binaries, Postgres, StackConfig};
use ring::hmac;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::runtime::Runtime;

use super::tls::{self, Authority, Certificate, encrypt_postgres};
use crate::operations::{
    migrate::{self, role},
    tenants,
};

/// The database that tests copy: schema, roles and tenants, no other rows.
pub const TEMPLATE: &str = "brigade_template";
/// The registered tenants of every test; the last one has no account on nats-server.
pub const REGISTERED: [&str; 3] = ["t1", "t2", "t3"];
/// The lock in the folder of a Postgres, held by the process whose tests share it.
const IN_USE: &str = "in-use";

/// Returns the password that a user has on both servers.
#[must_use]
pub fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// Returns where the server programs are; they are fetched at the first call, where the machine
/// has none.
///
/// # Panics
/// Where they cannot be found: no test can run.
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        block_on(async || Binaries::find(&StackConfig::from_env()).await.expect("both servers"))
    })
}

/// Returns the Postgres that all tests of this process share, with the template; it is started at
/// the first call and ends with the process.
///
/// # Panics
/// Where it cannot be started: no test can run.
pub(super) fn postgres() -> &'static Postgres {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    POSTGRES.get_or_init(|| {
        let bin = &binaries().postgres_bin;
        block_on(async || {
            let dir = folder().expect("a folder for Postgres");
            let mut postgres = Postgres::start(bin, &dir, 0).await.expect("Postgres starts");
            make_template(&postgres).await.expect("a template database");
            if tls::everywhere() {
                let authority = Authority::new();
                let encrypted = encrypt_postgres(&mut postgres, &authority, "127.0.0.1").await;
                encrypted.expect("a Postgres with TLS");
                let certificate = authority.certify_client(&dir);
                CERTIFICATE.set(certificate).expect("the only one");
            }
            postgres
        })
    })
}

/// The certificate that sessions with the shared Postgres show, if they are encrypted.
static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();

/// Returns the URL by which the superuser connects to a database of the shared Postgres.
pub(super) fn superuser_url(database: &str) -> String {
    let url = postgres().superuser_url(database);
    let query = CERTIFICATE.get().map(Certificate::postgres_query);
    format!("{url}{}", query.unwrap_or_default())
}

/// Runs on a runtime that lives as long as the process: that of a test ends with the test.
fn block_on<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"));
    thread::scope(|scope| scope.spawn(|| runtime.block_on(work())).join().expect("no panic"))
}

/// Makes a folder for the Postgres of this process and removes those of processes that have ended:
/// nothing runs at the end of a test process that could remove its own.
fn folder() -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let all = env::temp_dir().join(format!("brigade-tests-{user}"));
    fs::create_dir_all(&all)?;
    // Held until this function ends, so that no folder is removed before it is marked.
    let one_at_a_time = File::create(all.join("lock"))?;
    one_at_a_time.lock()?;
    for entry in fs::read_dir(&all)? {
        let path = entry?.path();
        if File::open(path.join(IN_USE)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            fs::remove_dir_all(path)?;
        }
    }
    let own = tempfile::tempdir_in(&all)?.keep();
    let in_use = Box::leak(Box::new(File::create(own.join(IN_USE))?));
    in_use.lock()?;
    Ok(own)
}

/// Makes the template in a new Postgres.
pub(super) async fn make_template(postgres: &Postgres) -> Result<()> {
    migrate::create_database(&postgres.superuser_url("postgres"), TEMPLATE).await?;
    let password = |worker: WorkerName| Some(password(worker.as_str()));
    migrate::run(&postgres.superuser_url(TEMPLATE), "", password).await?;
    let sql = PgPool::connect(&postgres.superuser_url(TEMPLATE)).await?;
    shorten_logins(postgres, &sql).await?;
    let added = tenants::ensure_added(&sql, &REGISTERED).await;
    // Nobody may be connected to what is copied.
    sql.close().await;
    Ok(added?)
}

/// Gives the roles the passwords that they have with one round of hashing instead of 4,096, which
/// is most of what a new connection costs in a build for development.
async fn shorten_logins(postgres: &Postgres, sql: &PgPool) -> Result<()> {
    let url = postgres.superuser_url(TEMPLATE);
    let of_superuser = url.split([':', '@']).nth(2).expect("a password").to_owned();
    let of_workers = WorkerName::ALL.map(|worker| (role("", worker), password(worker.as_str())));
    for (role, password) in of_workers.into_iter().chain([("postgres".into(), of_superuser)]) {
        let verifier = verifier_of_one_round(&password);
        let statement = format!("alter role \"{role}\" password '{verifier}'");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(sql).await?;
    }
    Ok(())
}

/// Returns what Postgres stores of a password; see RFC 5803.
fn verifier_of_one_round(password: &str) -> String {
    let keyed = |key: &[u8], of: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), of);
    let salt = [7; 16];
    let salted = keyed(password.as_bytes(), &[&salt[..], &1_u32.to_be_bytes()].concat());
    let client = keyed(salted.as_ref(), b"Client Key");
    let (stored, server) = (Sha256::digest(client), keyed(salted.as_ref(), b"Server Key"));
    let [salt, stored, server] =
        [&salt, &stored[..], server.as_ref()].map(|of| STANDARD.encode(of));
    format!("SCRAM-SHA-256$1:{salt}${stored}:{server}")
}

/// Makes a database in the shared Postgres, as a copy of the template.
pub(super) async fn copy_template(database: &str) -> Result<()> {
    let mut connection = PgConnection::connect(&superuser_url("postgres")).await?;
    let create = format!("create database {database} template {TEMPLATE}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
    Ok(())
}
