//! A Postgres with a synchronous standby and a PgBouncer, with the configuration of the page.

use std::{fs, path::Path, process::Command};

use brigade_contracts::WorkerName;
use brigade_servers::{Binaries, PgBouncer, Postgres, StackConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{PAGE, PASSWORD, here};
use crate::{
    binaries,
    tls::{Authority, own_by_postgres},
    until,
};

/// Starts both. The second has each commit before it counts.
pub(super) async fn start(dir: &Path, authority: &Authority) -> (Postgres, Postgres) {
    let (first, second) = (dir.join("pg-1"), dir.join("pg-2"));
    let bin = &binaries().postgres_bin;
    let mut primary = Postgres::start(bin, &first, 0).await.expect("Postgres starts");
    certify(dir, authority);
    configure(dir, &first.join("data"));
    primary.restart().await.expect("with the configuration of the page");
    run(&primary, statements("create role replicator")).await;
    primary.stop().await;
    become_standby(dir, &first, &second, primary.port());
    primary.restart().await.expect("it comes back");
    let standby = Postgres::start(bin, &second, 0).await.expect("a standby");
    until_standby(&primary, "streaming", "async").await;
    let mut synchronous = statements("alter system set synchronous_standby_names");
    // The last one looks at what is waited for here.
    synchronous.pop();
    run(&primary, synchronous).await;
    until_standby(&primary, "streaming", "quorum").await;
    (primary, standby)
}

/// Starts a standby on another port, and makes it the primary.
pub(super) async fn promote(folder: &Path, port: u16) -> Postgres {
    let standby = Postgres::start(&binaries().postgres_bin, folder, port).await;
    let standby = standby.expect("the standby");
    run(&standby, vec!["select pg_promote()".to_owned()]).await;
    standby
}

/// Waits until a standby is in this state.
pub(super) async fn until_standby(primary: &Postgres, state: &str, sync: &str) {
    until("the standby", || async {
        let url = primary.superuser_url("postgres");
        let mut connection = PgConnection::connect(&url).await.ok()?;
        let found = "select exists (select from pg_stat_replication
                     where (application_name, state, sync_state) = ('pg_2', $1, $2))";
        let found = sqlx::query_scalar::<_, bool>(found).bind(state).bind(sync);
        found.fetch_one(&mut connection).await.ok()?.then_some(())
    })
    .await;
}

fn certify(dir: &Path, authority: &Authority) {
    let folder = dir.join("etc/postgresql/tls");
    fs::create_dir_all(&folder).expect("made");
    let files = authority.issue(&folder, "server", "127.0.0.1", false);
    own_by_postgres(&[&files.certificate, &files.key]).expect("owned");
}

/// Adds the configuration of the page to a stopped server, and lets the superuser of tests in.
fn configure(dir: &Path, data: &Path) {
    let own = fs::read_to_string(data.join("postgresql.conf")).expect("its configuration");
    let of_page = here(dir, include_str!("../../../docs/production/postgresql.conf"));
    fs::write(data.join("postgresql.conf"), format!("{own}\n{of_page}")).expect("written");
    let rules = include_str!("../../../docs/production/pg_hba.conf");
    let rules = rules.replace("10.0.0.0/8", "127.0.0.1/32");
    let superuser = "host all postgres 127.0.0.1/32 scram-sha-256\n";
    fs::write(data.join("pg_hba.conf"), format!("{superuser}{rules}")).expect("written");
}

/// Returns the statements of the block of the page that has this text.
fn statements(text: &str) -> Vec<String> {
    let mut blocks = PAGE.split("```sql").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains(text)).expect("a block of the page");
    let lines = block.lines().map(|line| line.split("--").next().unwrap_or_default());
    let block = lines.collect::<Vec<_>>().join("\n").replace('…', PASSWORD);
    let statements = block.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    statements.map(ToOwned::to_owned).collect()
}

async fn run(primary: &Postgres, statements: Vec<String>) {
    let mut superuser =
        PgConnection::connect(&primary.superuser_url("postgres")).await.expect("connected");
    for statement in statements {
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut superuser).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Copies a server that is stopped, as `pg_basebackup` does with one that runs, to follow it.
fn become_standby(dir: &Path, first: &Path, second: &Path, port: u16) {
    let copied = Command::new("cp").arg("-a").args([first, second]).status().expect("cp");
    assert!(copied.success());
    let data = second.join("data");
    let signal = data.join("standby.signal");
    let copied = Command::new("cp").arg("-p").args([data.join("PG_VERSION"), signal]).status();
    assert!(copied.expect("cp").success());
    let tls = dir.join("etc/postgresql/tls");
    let tls = tls.display();
    // The certificate is asked for by nobody; without one it looks into the home folder, which may
    // be that of root.
    let follows = format!(
        "host=127.0.0.1 port={port} user=replicator password={PASSWORD} application_name=pg_2 \
         sslmode=verify-full sslrootcert={tls}/ca.pem sslcert={tls}/server-cert.pem \
         sslkey={tls}/server-key.pem"
    );
    let path = data.join("postgresql.auto.conf");
    let own = fs::read_to_string(&path).expect("its configuration");
    let more = format!("primary_conninfo = '{follows}'\nprimary_slot_name = 'pg_2'\n");
    fs::write(path, format!("{own}{more}")).expect("written");
}

/// Starts a PgBouncer, if this machine has one.
pub(super) async fn pgbouncer(
    dir: &Path,
    authority: &Authority,
    postgres: u16,
) -> Option<PgBouncer> {
    let Some(binary) = Binaries::pgbouncer(&StackConfig::from_env()).await.expect("looked") else {
        eprintln!("without a PgBouncer: this machine has none (.ci/pgbouncer)");
        return None;
    };
    let folder = dir.join("etc/pgbouncer");
    fs::create_dir_all(&folder).expect("made");
    authority.write(&folder.join("ca.pem"));
    let ini = here(dir, include_str!("../../../docs/production/pgbouncer.ini"))
        .replace("host=pg.internal port=5432", &format!("host=127.0.0.1 port={postgres}"));
    let users = users(&[]);
    let users: Vec<_> = users.iter().map(|(user, password)| (*user, password.as_str())).collect();
    let started = PgBouncer::start_as(&binary, &folder, &users, |port| {
        ini.replace("listen_port = 6432", &format!("listen_port = {port}"))
    });
    Some(started.await.expect("a PgBouncer"))
}

/// Returns the lines of its `users.txt`, with other passwords for some.
pub(super) fn users(other: &[(WorkerName, &str)]) -> Vec<(&'static str, String)> {
    let password = |worker: WorkerName| {
        let other = other.iter().find(|(name, _)| *name == worker);
        other.map_or(PASSWORD, |(_, password)| password).to_owned()
    };
    let mut users = WorkerName::ALL.map(|worker| (worker.as_str(), password(worker))).to_vec();
    users.push(("pgbouncer", PASSWORD.to_owned()));
    users
}
