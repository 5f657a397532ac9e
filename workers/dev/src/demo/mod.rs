//! `brigade demo`: the situations told with real servers, real processes and real timing.

mod healing;
mod orders;
mod paying;
mod promises;
mod screen;
mod sessions;
mod stale_reads;
mod tables;
mod telling;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use brigade_contracts::{Token, WorkerName};
use brigade_servers::{Binaries, config::StackConfig};

use self::{promises::Promises, screen::Screen};
use crate::{LocalStack, Ports, WorkerProcess};

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct Args {}

/// Everything that a scene needs: the servers, a process for each worker, a client.
pub struct Stage {
    pub stack: LocalStack,
    pub workers: Vec<WorkerProcess>,
    pub screen: Screen,
}

pub async fn run(_args: Args) -> Result<ExitCode> {
    telling::title();
    let folder = tempfile::Builder::new().prefix("brigade-demo-").tempdir()?;
    let result = tokio::select! {
        result = play(&folder) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // The servers have gone with the stage; what they wrote goes with the folder.
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
    telling::stage_is_set(&stack, started.elapsed());
    let screen = Screen::connect(&stack).await?;
    let mut stage = Stage { stack, workers, screen };
    let mut promises = Promises::default();
    stale_reads::play(&mut stage, &mut promises).await?;
    sessions::play(&mut stage, &mut promises).await?;
    paying::play(&stage, &mut promises).await?;
    tables::play(&mut stage, &mut promises).await?;
    orders::play(&mut stage, &mut promises).await?;
    healing::play(&mut stage, &mut promises).await?;
    let held = promises.tell();
    for worker in stage.workers {
        worker.stop().await;
    }
    stage.stack.stop().await;
    telling::farewell(held, started.elapsed());
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Stage {
    /// The process of a worker.
    ///
    /// # Errors
    /// Where it was not started.
    pub fn worker(&mut self, name: WorkerName) -> Result<&mut WorkerProcess> {
        self.workers
            .iter_mut()
            .find(|w| w.name == name.as_str())
            .with_context(|| format!("no {name}"))
    }

    /// Starts a worker again in place of its killed process.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub async fn start_again(&mut self, name: WorkerName) -> Result<()> {
        self.workers.retain(|worker| worker.name != name.as_str());
        self.workers.push(WorkerProcess::start(&self.stack, name).await?);
        Ok(())
    }
}
