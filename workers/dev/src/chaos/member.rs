//! A process of a worker, with proxies of its own to each server.

use std::path::{Path, PathBuf};

use anyhow::Result;
use brigade::fleet::Servers;
use brigade_contracts::WorkerName;

use super::fleet::FleetPlan;
use crate::{Launch, LocalStack, TcpProxy, WorkerProcess, worker::as_it_is};

/// The lifetime of a lock, in seconds: short, so that many expire in a run.
const LOCK_SECONDS: &str = "4";

/// A process of a worker, which may be down at the moment.
pub struct FleetMember {
    pub worker: WorkerName,
    pub name: String,
    pub process: Option<WorkerProcess>,
    /// One for each nats-server.
    pub nats: Vec<TcpProxy>,
    pub postgres: TcpProxy,
    /// True for one of the release before, where the plan has that.
    pub is_previous: bool,
    /// The error of its clock when it is started, as libfaketime reads it: `+3600`.
    pub clock: Option<String>,
}

impl FleetMember {
    /// Returns one that is down.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn new(stack: &LocalStack, worker: WorkerName, name: String) -> Result<Self> {
        let mut nats = Vec::new();
        for node in stack.nodes() {
            nats.push(TcpProxy::to(node.port()).await?);
        }
        let postgres = TcpProxy::to(stack.postgres.port()).await?;
        Ok(Self { worker, name, process: None, nats, postgres, is_previous: false, clock: None })
    }

    /// Returns its proxies to either server.
    pub fn proxies(&self) -> impl Iterator<Item = &TcpProxy> {
        self.nats.iter().chain([&self.postgres])
    }

    /// Starts its process as the plan says.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start(&self, stack: &LocalStack, plan: &FleetPlan) -> Result<WorkerProcess> {
        let workers = [(self.worker, self.servers(stack))];
        let previous = plan.previous.as_ref().filter(|_| self.is_previous);
        let launch: (Option<&Path>, Launch) = match previous {
            Some(previous) => (Some(&previous.program), as_it_is),
            None => (None, plan.launch),
        };
        let mut variables = plan.variables.clone();
        variables.extend(
            ["CARD", "WALLET", "QR", "CASH"]
                .map(|method| (format!("BRIGADE_LOCK_SECONDS_{method}"), LOCK_SECONDS.to_owned())),
        );
        variables.push(("BRIGADE_REPLICAS".to_owned(), stack.replicas().to_string()));
        if let (Some(clock), Some(library)) = (&self.clock, faketime()) {
            let library = library.display().to_string();
            variables.extend([
                ("LD_PRELOAD".to_owned(), library),
                ("FAKETIME".to_owned(), clock.clone()),
                ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ]);
        }
        loop {
            match WorkerProcess::launch(stack, &self.name, &workers, launch, &variables).await {
                // Somebody else was given the free port in between.
                Err(error) if format!("{error:#}").contains("Address already in use") => {}
                started => return started,
            }
        }
    }

    /// Returns its servers as it sees them: through its proxies.
    fn servers(&self, stack: &LocalStack) -> Servers {
        let near = stack.servers(self.worker);
        let through = |url: &str, port: u16, proxy: &TcpProxy| {
            url.replace(&format!(":{port}"), &format!(":{}", proxy.port()))
        };
        let nodes = stack.nodes().zip(&self.nats);
        let nats_url =
            nodes.fold(near.nats_url.clone(), |url, (node, by)| through(&url, node.port(), by));
        let postgres_url = through(&near.postgres_url, stack.postgres.port(), &self.postgres);
        Servers { nats_url, postgres_url, ..near }
    }
}

/// Returns the library that moves the clock of a process, where it is installed.
pub fn faketime() -> Option<PathBuf> {
    let folders = [
        format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH),
        "/usr/lib64/faketime".to_owned(),
        "/usr/lib/faketime".to_owned(),
        "/usr/local/lib/faketime".to_owned(),
    ];
    let of = |folder: String| PathBuf::from(folder).join("libfaketimeMT.so.1");
    folders.into_iter().map(of).find(|library| library.exists())
}
