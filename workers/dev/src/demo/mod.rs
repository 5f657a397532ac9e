//! `brigade demo`: the situations told with real servers, real processes and real timing.

pub mod client;
mod healing;
mod narration;
mod orders;
mod paying;
mod promises;
mod sessions;
mod stale_reads;
mod tables;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use brigade_contracts::{Token, WorkerName};
use brigade_servers::{Binaries, config::StackConfig};

use self::{client::DemoClient, promises::Promises};
use crate::{LocalStack, Ports, WorkerProcess};

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct DemoArgs {}

/// Everything that a scene needs: the servers, a process for each worker, a client.
pub struct DemoFleet {
    pub stack: LocalStack,
    pub workers: Vec<WorkerProcess>,
    pub client: DemoClient,
}

pub async fn run(_args: DemoArgs) -> Result<ExitCode> {
    narration::title();
    let folder = tempfile::Builder::new().prefix("brigade-demo-").tempdir()?;
    let result = tokio::select! {
        result = play(&folder) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // The servers have gone with the fleet; what they wrote goes with the folder.
    drop(folder);
    result
}

async fn play(folder: &tempfile::TempDir) -> Result<ExitCode> {
    let started = Instant::now();
    let binaries = Binaries::find(&StackConfig::from_env()).await?;
    let tenants = vec![Token::new("demo").context("a tenant")?];
    let stack = LocalStack::start(&binaries, folder.path(), tenants, Ports::default()).await?;
    let mut workers = Vec::new();
    for worker in WorkerName::ALL {
        workers.push(WorkerProcess::start(&stack, worker).await?);
    }
    narration::fleet_is_started(&stack, started.elapsed());
    let client = DemoClient::connect(&stack, "demo").await?;
    let mut fleet = DemoFleet { stack, workers, client };
    let mut promises = Promises::default();
    stale_reads::play(&mut fleet, &mut promises).await?;
    sessions::play(&mut fleet, &mut promises).await?;
    paying::play(&fleet, &mut promises).await?;
    tables::play(&mut fleet, &mut promises).await?;
    orders::play(&mut fleet, &mut promises).await?;
    healing::play(&mut fleet, &mut promises).await?;
    let held = promises.tell();
    for worker in fleet.workers {
        worker.stop().await;
    }
    fleet.stack.stop().await;
    narration::farewell(held, started.elapsed());
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl DemoFleet {
    /// The process of a worker.
    ///
    /// # Errors
    /// If it was not started.
    pub fn worker(&mut self, name: WorkerName) -> Result<&mut WorkerProcess> {
        self.workers
            .iter_mut()
            .find(|w| w.name == name.as_str())
            .with_context(|| format!("no {name}"))
    }

    /// Starts a worker again in place of its killed process.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start_again(&mut self, name: WorkerName) -> Result<()> {
        self.workers.retain(|worker| worker.name != name.as_str());
        self.workers.push(WorkerProcess::start(&self.stack, name).await?);
        Ok(())
    }
}
