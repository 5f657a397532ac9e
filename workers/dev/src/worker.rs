//! A worker in a process of its own, as in production, which a demo can pause and kill.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use brigade::fleet::Servers;
use brigade_contracts::WorkerName;
use brigade_servers::{
    log::Log,
    port::free_port,
    process::{ChildProcess, Program},
    secret_file::private_folder,
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::LocalStack;

/// A worker connects and is ready within some 50 ms.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// A process has promised to drain within 10 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Returns the arguments and the variables with which this very program is `brigade <arguments>`
/// once more.
pub type Launch = fn(&str) -> (Vec<OsString>, Vec<(String, String)>);

/// The program `brigade` as it is.
#[must_use]
pub fn as_it_is(arguments: &str) -> (Vec<OsString>, Vec<(String, String)>) {
    (arguments.split(' ').map(Into::into).collect(), Vec::new())
}

/// `brigade run WORKER…` on a local stack.
pub struct WorkerProcess {
    pub name: String,
    process: ChildProcess,
    http: u16,
    admin: u16,
}

impl WorkerProcess {
    /// Starts this very program once more and waits until its worker is ready.
    ///
    /// # Errors
    /// If it does not get ready; the end of its log is part of the error.
    pub async fn start(stack: &LocalStack, worker: WorkerName) -> Result<Self> {
        Self::start_as(stack, worker.as_str(), &[(worker, stack.servers(worker))]).await
    }

    /// Starts workers in one process, with a folder of its own, and waits until all are ready.
    ///
    /// # Errors
    /// If one does not get ready; the end of the log is part of the error.
    pub async fn start_as(
        stack: &LocalStack,
        name: &str,
        workers: &[(WorkerName, Servers)],
    ) -> Result<Self> {
        Self::launch(stack, name, workers, (None, as_it_is), &[]).await
    }

    /// The same with variables of the environment besides, by a program (`None`: this very one) that
    /// is to be launched in some way.
    ///
    /// # Errors
    /// If one does not get ready; the end of the log is part of the error.
    pub async fn launch(
        stack: &LocalStack,
        name: &str,
        workers: &[(WorkerName, Servers)],
        (program, launch): (Option<&Path>, Launch),
        variables: &[(String, String)],
    ) -> Result<Self> {
        let binary: PathBuf = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe().context("this program's file is unknown")?,
        };
        let dir = stack.dir.join(name);
        private_folder(&dir)?;
        let log = Log::claim(&dir.join("log")).await?;
        let (http, admin) = (free_port()?, free_port()?);
        let names: Vec<_> = workers.iter().map(|(worker, _)| worker.as_str()).collect();
        let (arguments, mut environment) = launch(&format!("run {}", names.join(" ")));
        environment.extend([
            ("BRIGADE_HTTP_ADDR".to_owned(), format!("127.0.0.1:{http}")),
            ("BRIGADE_ADMIN_ADDR".to_owned(), format!("127.0.0.1:{admin}")),
            ("BRIGADE_HTTP_OPEN".to_owned(), "1".to_owned()),
            // Whoever measures or breaks things sends more than a guest may.
            ("BRIGADE_HTTP_RATES".to_owned(), "off".to_owned()),
            ("BRIGADE_LOG".to_owned(), String::new()),
        ]);
        for (worker, servers) in workers {
            let (suffix, servers) = (worker.env_suffix(), servers.clone());
            environment.push((format!("BRIGADE_NATS_URL_{suffix}"), servers.nats_url));
            environment.push((format!("BRIGADE_DATABASE_URL_{suffix}"), servers.postgres_url));
        }
        environment.extend_from_slice(variables);
        let mut process = ChildProcess::spawn(&Program {
            binary: &binary,
            arguments,
            environment,
            dir: &dir,
            log: &log,
            account: None,
            last_signal: "KILL",
        })?;
        let says_ready =
            async |port| get(port, "/readyz").await.is_ok_and(|text| text.contains(" 200 "));
        // A release that had no address for probes says it at that of the API.
        let ready =
            async || says_ready(admin).await || (program.is_some() && says_ready(http).await);
        process.ready(name, READY_LIMIT, ready).await?;
        let admin = if program.is_some() && !says_ready(admin).await { http } else { admin };
        Ok(Self { name: name.to_owned(), process, http, admin })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the address of the API, where edge is among its workers.
    pub fn http(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.http).into()
    }

    /// Returns the address of `/livez`, `/readyz` and `/metrics`.
    pub fn admin(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.admin).into()
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        get(self.admin, "/metrics").await
    }

    /// SIGSTOP: it does nothing any more, and nobody is told.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// SIGTERM, and SIGKILL to one that does not drain in time.
    pub async fn stop(mut self) {
        self.go_on();
        if !self.process.ends_after(Signal::TERM, DRAIN_LIMIT).await {
            self.process.kill().await;
        }
    }
}

/// The answer to a GET, head and all.
async fn get(port: u16, path: &str) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    timeout(Duration::from_secs(1), asked).await?
}
