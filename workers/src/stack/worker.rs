//! A worker in a process of its own, as in production, which a demo can pause and kill.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use brigade_contracts::WorkerName;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    LocalStack,
    log::Log,
    port::free_port,
    process::{Process, Program},
};

/// A worker connects and is ready within some 50 ms.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// A process has promised to drain within 10 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// `brigade run WORKER` on a local stack.
pub struct WorkerProcess {
    pub worker: WorkerName,
    process: Process,
}

impl WorkerProcess {
    /// Starts this very program once more and waits until its worker is ready.
    ///
    /// # Errors
    /// Where it does not get ready; the end of its log is part of the error.
    pub async fn start(stack: &LocalStack, worker: WorkerName) -> Result<Self> {
        let binary: PathBuf = std::env::current_exe().context("this program's file is unknown")?;
        let dir = stack.dir.join(worker.as_str());
        fs::create_dir_all(&dir)?;
        let log = Log::claim(&dir.join("log")).await?;
        let servers = stack.servers(worker);
        let (port, suffix) = (free_port()?, worker.env_suffix());
        let mut process = Process::spawn(&Program {
            binary: &binary,
            arguments: vec!["run".into(), worker.as_str().into()],
            environment: vec![
                (format!("BRIGADE_NATS_URL_{suffix}"), servers.nats_url),
                (format!("BRIGADE_DATABASE_URL_{suffix}"), servers.postgres_url),
                ("BRIGADE_HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")),
                ("BRIGADE_LOG".to_owned(), String::new()),
            ],
            dir: &dir,
            log: &log,
            account: None,
            last_signal: "KILL",
        })?;
        let ready = async || is_ready(port).await.unwrap_or(false);
        process.ready(worker.as_str(), READY_LIMIT, ready).await?;
        Ok(Self { worker, process })
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

/// Asks `/readyz`.
async fn is_ready(port: u16) -> Result<bool> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer.contains(" 200 "))
    };
    timeout(Duration::from_secs(1), asked).await?
}
