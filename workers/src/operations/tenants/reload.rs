use std::{fs, io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use brigade_contracts::Token;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{sleep, timeout};

use super::accounts::Credential;
use crate::infra::nats::{NatsCredentials, NatsOptions};

/// nats-server 2.15.1 answers "no responders" to the requests of an account that came with a
/// reload, until the next one. The first takes milliseconds; a second signal that comes while the
/// server still reads the configuration is kept, one that comes before it began is not.
const PAUSE: Duration = Duration::from_secs(1);
/// The signals that the server gets at most, until it is seen to know a credential.
const MAX_SIGNALS: usize = 10;

/// The furthest point to which a new credential was seen to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The server does not take it.
    Nothing,
    /// The server takes it, but nobody answers its queries.
    Server,
    /// An edge answers its queries.
    Edge,
}

/// Has a nats-server of this machine read its configuration again, twice. Nobody is disconnected
/// but users that are there no more.
///
/// # Errors
/// If the file names no nats-server, or one that may not be signalled.
pub async fn reload(pid_file: &Path) -> Result<()> {
    let pid = server(pid_file)?;
    signal(pid)?;
    sleep(PAUSE).await;
    signal(pid)
}

/// Has a nats-server of this machine read its configuration again, until edge answers a query that
/// is sent with the new credential of a tenant. `nats_url` and `options` are the operator's.
/// Returns how far the credential works: edge may not run.
///
/// # Errors
/// If the file names no nats-server, or one that may not be signalled; if the URL cannot be read.
pub async fn reload_until_known(
    pid_file: &Path,
    nats_url: &str,
    options: &NatsOptions,
    tenant: &Token,
    credential: &Credential,
) -> Result<Reached> {
    let pid = server(pid_file)?;
    let (user, password) = (&credential.user, &credential.password);
    let with_login = nats_url.split(',').map(|url| with_login(url.trim(), user, password));
    let url = with_login.collect::<Result<Vec<_>>>()?.join(",");
    let by_password =
        NatsOptions { user: None, url_file: None, creds: None, nkey_seed: None, ..options.clone() };
    let credentials = NatsCredentials::parse(&url, "brigade tenants", &by_password)?;
    let mut reached = Reached::Nothing;
    for _ in 0..MAX_SIGNALS {
        signal(pid)?;
        sleep(PAUSE).await;
        reached = reach(&credentials, tenant).await;
        if reached == Reached::Edge {
            break;
        }
    }
    Ok(reached)
}

fn with_login(url: &str, user: &str, password: &str) -> Result<String> {
    let server: async_nats::ServerAddr = url.parse().context("the NATS URL cannot be read")?;
    let mut url = server.into_inner();
    let set = url.set_username(user).and_then(|()| url.set_password(Some(password)));
    ensure!(set.is_ok(), "the NATS URL takes no user");
    Ok(url.into())
}

/// Returns how far a credential works now.
async fn reach(credentials: &NatsCredentials, tenant: &Token) -> Reached {
    let (options, servers) = credentials.options();
    let Ok(Ok(client)) = timeout(PAUSE, options.connect(servers)).await else {
        return Reached::Nothing;
    };
    // Not a query of the contract: it is answered with an error, and answered is what counts.
    let query = client.request(format!("q.{tenant}.reload"), "".into());
    match timeout(PAUSE, query).await {
        Ok(Ok(_)) => Reached::Edge,
        _ => Reached::Server,
    }
}

fn signal(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::HUP)
        .with_context(|| format!("cannot signal nats-server, process {}", pid.as_raw_pid()))
}

/// Checks that a file names a nats-server that may be signalled.
///
/// # Errors
/// If it does not.
pub fn check(pid_file: &Path) -> Result<()> {
    server(pid_file).map(drop)
}

fn server(pid_file: &Path) -> Result<Pid> {
    let file = pid_file.display();
    let text = match fs::read_to_string(pid_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{file} is missing"),
        text => text.with_context(|| format!("cannot read {file}"))?,
    };
    let raw = text.trim().parse().ok().filter(|raw| *raw > 0);
    let pid = raw.and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{file} holds no process id"))?;
    let raw = pid.as_raw_pid();
    test_kill_process(pid)
        .with_context(|| format!("cannot signal process {raw}, which {file} names"))?;
    // Only Linux tells.
    if let Ok(name) = fs::read_to_string(format!("/proc/{raw}/comm")) {
        let name = name.trim();
        ensure!(
            name.contains("nats"),
            "{file} names process {raw}, which is {name}, not nats-server"
        );
    }
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_names_no_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let refused = || format!("{:#}", check(&file).unwrap_err());
        assert!(refused().contains("is missing"), "{}", refused());
        // Above the highest process id of Linux.
        for (text, expected) in [
            ("", "holds no process id"),
            ("one", "holds no process id"),
            ("0", "holds no process id"),
            ("-1", "holds no process id"),
            ("4194999", "cannot signal process 4194999"),
        ] {
            fs::write(&file, text).unwrap();
            assert!(refused().contains(expected), "{text}: {}", refused());
        }
        if Path::new("/proc/self/comm").exists() {
            fs::write(&file, std::process::id().to_string()).unwrap();
            assert!(refused().contains("not nats-server"), "{}", refused());
        }
    }
}
