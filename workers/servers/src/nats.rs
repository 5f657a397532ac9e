//! One nats-server with JetStream, in a folder of its own: `nats-server.conf`, `nats-server.log`,
//! `nats-server.pid` and the `jetstream` store.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{
    log::Log,
    port::{PortTaken, start_on_port},
    process::{ChildProcess, Program},
    secret_file::{private_folder, write_secret},
};
use crate::config::set;

const CONFIGURATION: &str = "nats-server.conf";
const LOG: &str = "nats-server.log";

/// An empty store is up in 10 ms, one of 400,000 messages in 180 ms; a store that has to be
/// rebuilt after a power cut may take some seconds.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A server that takes the connection greets at once.
const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// The memory above which the server collects garbage as often as it must, where nobody knows how
/// much the machine has.
const DEFAULT_LIMIT: u64 = 4 << 30;

/// Both servers together have to end within the 10 s that a whole process is given.
const STOP_LIMIT: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    /// Tells this server from any other that might answer on its port.
    name: String,
    process: ChildProcess,
}

impl NatsServer {
    /// Starts a server on the folder, new or with the data of an earlier one; port 0 takes any
    /// free one. `authorization` is configuration text, such as `accounts { … }`.
    pub async fn start(binary: &Path, dir: &Path, port: u16, authorization: &str) -> Result<Self> {
        private_folder(dir)?;
        let name = format!("brigade-{}", hex::encode(rand::random::<[u8; 4]>()));
        let (port, process) = start_on_port(port, async |port| {
            write_configuration(dir, &configuration(&name, port, authorization))?;
            launch(binary, dir, port, &name).await
        })
        .await?;
        Ok(Self { binary: binary.to_owned(), dir: dir.to_owned(), port, name, process })
    }

    /// Starts a server on the folder with a whole configuration, which says this port and this
    /// name.
    pub async fn start_as(
        binary: &Path,
        dir: &Path,
        (name, port): (&str, u16),
        configuration: &str,
    ) -> Result<Self> {
        private_folder(dir)?;
        write_configuration(dir, configuration)?;
        let process = launch(binary, dir, port, name).await?;
        Ok(Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            port,
            name: name.to_owned(),
            process,
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its `server_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present process, or the last one when it is down.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> PathBuf {
        self.process.log().path().to_owned()
    }

    /// Kills it at once, as a crash would.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Ends it in good order, and by force when that takes too long.
    pub async fn stop(&mut self) {
        if !self.process.ends_after(Signal::TERM, STOP_LIMIT).await {
            self.kill().await;
        }
    }

    /// Starts it again on the same port and data, after stopping it if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        self.process = launch(&self.binary, &self.dir, self.port, &self.name).await?;
        Ok(())
    }

    /// Resolves when the server has ended.
    pub async fn exited(&mut self) -> ExitStatus {
        self.process.wait().await
    }
}

async fn launch(binary: &Path, dir: &Path, port: u16, name: &str) -> Result<ChildProcess> {
    let log = Log::claim(&dir.join(LOG)).await?;
    let mut process = ChildProcess::spawn(&Program {
        binary,
        arguments: vec!["--config".into(), CONFIGURATION.into()],
        dir,
        log: &log,
        account: None,
        environment: garbage_collection(),
        last_signal: "KILL",
    })?;
    let greets = async || greets(port, name).await.unwrap_or(false);
    match process.ready("nats-server", READY_LIMIT, greets).await {
        Err(_) if process.log().tail().contains("address already in use") => {
            Err(PortTaken(port).into())
        }
        Err(error) => Err(error),
        Ok(()) => Ok(process),
    }
}

/// The server keeps some objects of each subject in memory, and looks through all of them to find
/// garbage: half a core for half a second with 2 million. By default that is each time the memory
/// doubled, every 5 s under load; at five times as much it is every 25 s. What waits for clients
/// that do not read is multiplied as well, so above half of the memory it collects as often as it
/// must. Whoever set one of them, means it.
fn garbage_collection() -> Vec<(String, String)> {
    if ["GOGC", "GOMEMLIMIT"].iter().any(|name| set(name).is_some()) {
        return Vec::new();
    }
    let limit = memory().map_or(DEFAULT_LIMIT, |bytes| bytes / 2);
    vec![("GOGC".to_owned(), "400".to_owned()), ("GOMEMLIMIT".to_owned(), limit.to_string())]
}

/// Returns the bytes of memory that processes here can have, where that is known: on Linux.
fn memory() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| in_meminfo(&text));
    // "max", where the container has no limit of its own.
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    [machine, container].into_iter().flatten().min()
}

fn in_meminfo(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Clients are let in only once JetStream is recovered, so the greeting says all.
async fn greets(port: u16, name: &str) -> Result<bool> {
    let mut greeting = String::new();
    timeout(GREETING_LIMIT, async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        BufReader::new(stream).read_line(&mut greeting).await
    })
    .await??;
    Ok(greeting.starts_with("INFO ") && greeting.contains(&format!("\"{name}\"")))
}

/// Paths are relative to the folder, in which the server is started: no path needs quoting.
fn configuration(name: &str, port: u16, authorization: &str) -> String {
    format!(
        r#"# Written at every start of this server.
server_name: "{name}"
listen: "127.0.0.1:{port}"
pid_file: "nats-server.pid"

# A connection that is dead and does not say so still gets its part of the requests, until the
# server finds out: after three of these, which is as long as a worker takes to find out itself.
ping_interval: "1500ms"
ping_max: 2
# What is kept for a connection that does not read: less than usual, since each may do so. It is
# more than any worker takes at once.
max_pending: 32MB

jetstream {{
  store_dir: "."
  # What was acknowledged survives a power cut, at the price of an fsync per message.
  sync_interval: always
}}

{authorization}
"#
    )
}

/// Writes the configuration, which holds passwords.
fn write_configuration(dir: &Path, text: &str) -> Result<()> {
    let path = dir.join(CONFIGURATION);
    let fresh = write_secret(&path, text)?;
    fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let text = "MemFree: 5 kB\nMemTotal:       16384256 kB\nMemAvailable: 7 kB\n";
        assert_eq!(in_meminfo(text), Some(16_384_256 * 1024));
        for bad in ["", "MemTotal: 5", "MemTotal: x kB"] {
            assert_eq!(in_meminfo(bad), None, "{bad}");
        }
    }
}
