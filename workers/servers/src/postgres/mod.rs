//! One Postgres, in a folder of its own: `data` (the cluster), `password` (of the superuser
//! `postgres`) and `postgres.log`.

mod cluster;
mod postmaster;
mod standby;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::timeout;

use self::postmaster::{children, says_ready, unix_time};
use super::{
    account::SystemAccount,
    log::Log,
    port::{PortTaken, start_on_port},
    process::{ChildProcess, Program, signal_pid},
    secret_file::private_folder,
};

const LOG: &str = "postgres.log";
const SUPERUSER: &str = "postgres";

/// Given at every start, so that an older folder gets them as well. Durable, and made for a
/// machine with few cores: the queries are short, so neither compiling them nor sharing one among
/// cores would pay.
const SETTINGS: [&str; 14] = [
    "listen_addresses=127.0.0.1",
    // A socket's path is limited to some 100 bytes, which a test's folder may well exceed.
    "unix_socket_directories=",
    "fsync=on",
    "synchronous_commit=on",
    "max_connections=200",
    "shared_buffers=128MB",
    "max_wal_size=1GB",
    "jit=off",
    "max_parallel_workers_per_gather=0",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_line_prefix=%m [%p] %q%u@%d ",
    "logging_collector=off",
    "password_encryption=scram-sha-256",
];

/// An empty cluster is up in some 30 ms; after a crash under load the log is replayed first, up to
/// `max_wal_size`.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Both servers together have to end within the 10 s that a whole process is given; the last
/// checkpoint is most of it.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The time that the processes of a killed server may take to end: those that were killed too end
/// in milliseconds.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// An immediate shutdown takes some 10 ms.
const QUIT_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    password: String,
    account: Option<SystemAccount>,
    process: ChildProcess,
}

impl Postgres {
    /// Starts a server on the folder, new or with the data of an earlier one; port 0 takes any
    /// free one. As root it runs as the user `postgres`, else `nobody`.
    pub async fn start(bin: &Path, dir: &Path, port: u16) -> Result<Self> {
        private_folder(dir)?;
        let account = SystemAccount::instead_of_root()?;
        if let Some(account) = &account {
            account.reach(dir)?;
        }
        let password = cluster::prepare(bin, dir, account.as_ref()).await?;
        let (port, process) =
            start_on_port(port, async |port| launch(bin, dir, port, account.as_ref()).await)
                .await?;
        Ok(Self { bin: bin.to_owned(), dir: dir.to_owned(), port, password, account, process })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The present postmaster, or the last one when it is down.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> PathBuf {
        self.process.log().path().to_owned()
    }

    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{}:{}@127.0.0.1:{}/{}",
            escape(user),
            escape(password),
            self.port,
            escape(database)
        )
    }

    pub fn superuser_url(&self, database: &str) -> String {
        self.url(SUPERUSER, &self.password, database)
    }

    /// Kills all of its processes at once, as a crash of the machine would, and waits until they
    /// are gone: none can commit anything after this.
    pub async fn kill(&mut self) {
        self.kill_now();
        self.process.wait().await;
        if timeout(GONE_LIMIT, Log::claim(self.process.log().path())).await.is_err() {
            tracing::error!("processes of a killed Postgres still run");
        }
    }

    /// Ends it in good order without waiting for clients to leave, and by force when that takes
    /// too long.
    pub async fn stop(&mut self) {
        if !self.process.ends_after(Signal::INT, STOP_LIMIT).await {
            self.kill().await;
        }
    }

    /// Starts it again on the same port and data, after stopping it if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        self.process = launch(&self.bin, &self.dir, self.port, self.account.as_ref()).await?;
        Ok(())
    }

    /// Resolves when the postmaster has ended.
    pub async fn exited(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// The backends as well: one that is busy notices only after its statement that its postmaster
    /// is gone, and may commit in between.
    fn kill_now(&self) {
        let children = children(self.process.pid());
        self.process.signal(Signal::KILL);
        for child in children {
            signal_pid(child, Signal::KILL);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
    fn gone_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.process.is_running()
            || matches!(Log::try_claim(self.process.log().path()), Ok(None))
        {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Drop for Postgres {
    /// Waits for the processes (milliseconds), so that the folder may be removed after.
    fn drop(&mut self) {
        if !self.process.is_running() {
            return;
        }
        // The postmaster ends its processes at once and reaps them; nobody else would, where the
        // first process of the machine does not.
        self.process.signal(Signal::QUIT);
        if !self.gone_within(QUIT_LIMIT) {
            self.kill_now();
            self.gone_within(GONE_LIMIT);
        }
    }
}

async fn launch(
    bin: &Path,
    dir: &Path,
    port: u16,
    account: Option<&SystemAccount>,
) -> Result<ChildProcess> {
    let log = Log::claim(&dir.join(LOG)).await?;
    let data = std::path::absolute(dir.join(cluster::DATA))?;
    let started = unix_time();
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.clone().into()];
    arguments.extend(["-p".into(), port.to_string().into()]);
    arguments.extend(SETTINGS.iter().flat_map(|set| ["-c".into(), set.into()]));
    let mut process = ChildProcess::spawn(&Program {
        binary: &bin.join("postgres"),
        arguments,
        dir: &data,
        log: &log,
        account,
        // Only the postmaster can end busy backends, and this signal makes it do so at once.
        environment: Vec::new(),
        last_signal: "QUIT",
    })?;
    let pid = process.pid();
    let is_ready = async || {
        fs::read_to_string(data.join("postmaster.pid"))
            .is_ok_and(|status| says_ready(&status, pid, started))
    };
    match process.ready("Postgres", READY_LIMIT, is_ready).await {
        Err(_) if process.log().tail().contains("Address already in use") => {
            Err(PortTaken(port).into())
        }
        Err(error) => Err(error),
        Ok(()) => Ok(process),
    }
}

/// Percent-encodes what has a meaning in a URL.
fn escape(part: &str) -> String {
    let mut escaped = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_carries_any_password() {
        assert_eq!(escape("a@b:c/d é"), "a%40b%3Ac%2Fd%20%C3%A9");
    }
}
