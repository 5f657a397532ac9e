//! One PgBouncer in transaction mode before a Postgres, in a folder of its own: `pgbouncer.ini`,
//! `users.txt` and `pgbouncer.log`. For tests: a local stack has none.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::{
    account::SystemAccount,
    log::Log,
    port::{PortTaken, start_on_port},
    process::{ChildProcess, Program},
    secret_file::write_secret,
};

const CONFIGURATION: &str = "pgbouncer.ini";
const USERS: &str = "users.txt";
const LOG: &str = "pgbouncer.log";

/// It is up in some milliseconds.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Less than the connections of one worker, so that none has a session to itself.
const SESSIONS: usize = 2;

/// Kills it when it is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    dir: PathBuf,
    account: Option<SystemAccount>,
    process: ChildProcess,
}

impl PgBouncer {
    /// Starts one before the Postgres on this port of this machine, for these users with their
    /// passwords. It finds the databases by their names.
    pub async fn start(
        binary: &Path,
        dir: &Path,
        postgres: u16,
        users: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_as(binary, dir, users, |port| configuration(port, postgres)).await
    }

    /// Starts one with the whole configuration that is returned for a port.
    pub async fn start_as(
        binary: &Path,
        dir: &Path,
        users: &[(&str, &str)],
        configuration: impl Fn(u16) -> String,
    ) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let account = SystemAccount::instead_of_root()?;
        let write = |name: &str, text: &str| write(dir, name, text, account.as_ref());
        write(USERS, &lines(users))?;
        let (port, process) = start_on_port(0, async |port| {
            write(CONFIGURATION, &configuration(port))?;
            launch(binary, dir, port, account.as_ref()).await
        })
        .await?;
        Ok(Self { port, dir: dir.to_owned(), account, process })
    }

    /// Gives it these users, with their passwords, in the place of those before.
    pub fn change_users(&self, users: &[(&str, &str)]) -> Result<()> {
        write(&self.dir, USERS, &lines(users), self.account.as_ref())?;
        self.process.signal(Signal::HUP);
        Ok(())
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn lines(users: &[(&str, &str)]) -> String {
    users.iter().map(|(user, password)| format!("\"{user}\" \"{password}\"\n")).collect()
}

/// Writes a file that only the account reads.
fn write(dir: &Path, name: &str, text: &str, account: Option<&SystemAccount>) -> Result<()> {
    let (path, fresh) = (dir.join(name), write_secret(&dir.join(name), text)?);
    if let Some(account) = account {
        account.own(&fresh)?;
    }
    Ok(fs::rename(fresh, &path)?)
}

async fn launch(
    binary: &Path,
    dir: &Path,
    port: u16,
    account: Option<&SystemAccount>,
) -> Result<ChildProcess> {
    let log = Log::claim(&dir.join(LOG)).await?;
    let mut arguments = vec![CONFIGURATION.into()];
    if let Some(account) = account {
        // It changes the user itself, who need not reach the program.
        arguments.extend(["-u".into(), account.name.clone().into()]);
    }
    let mut process = ChildProcess::spawn(&Program {
        binary,
        arguments,
        environment: Vec::new(),
        dir,
        log: &log,
        account: None,
        last_signal: "KILL",
    })?;
    let takes = async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
    match process.ready("PgBouncer", READY_LIMIT, takes).await {
        Err(_) if process.log().tail().contains("in use") => Err(PortTaken(port).into()),
        Err(error) => Err(error),
        Ok(()) => Ok(process),
    }
}

fn configuration(port: u16, postgres: u16) -> String {
    format!(
        "[databases]
* = host=127.0.0.1 port={postgres}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {USERS}
pool_mode = transaction
max_prepared_statements = 200
default_pool_size = {SESSIONS}
; Neither does anything leave this machine, nor has it a certificate to show.
server_tls_sslmode = disable
max_client_conn = 1000
; By default it waits 15 s after a login that failed.
server_login_retry = 1
"
    )
}
