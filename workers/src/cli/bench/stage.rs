use anyhow::{Context, Result};
use async_nats::jetstream;
use brigade_contracts::{Token, WorkerName, permissions};
use sqlx::PgPool;

use crate::{
    config::StackConfig,
    runtime::connect::as_user_of,
    stack::{Binaries, LocalStack, Ports, WorkerProcess},
};

/// A stack of the bench's own, in a scratch folder, with a process for each worker.
pub struct Stage {
    pub stack: LocalStack,
    pub sql: PgPool,
    pub operator: jetstream::Context,
    pub producer: async_nats::Client,
    workers: Vec<WorkerProcess>,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Servers and connections; no worker yet.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn open() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("brigade-bench-").tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let tenant = Token::new("bench").context("a tenant")?;
        let stack =
            LocalStack::start(&binaries, folder.path(), vec![tenant.clone()], Ports::default())
                .await?;
        let connect = async |user: String| {
            let (options, address) = as_user_of(&stack.nats_url(&user))?;
            anyhow::Ok(options.subscription_capacity(1 << 20).connect(address).await?)
        };
        let operator = connect(permissions::operator().name).await?;
        let producer = connect(permissions::producer(&tenant).name).await?;
        let sql = PgPool::connect(&stack.superuser_url()).await?;
        let operator = jetstream::ContextBuilder::new()
            .timeout(std::time::Duration::from_secs(10))
            .build(operator);
        Ok(Self { stack, sql, operator, producer, workers: Vec::new(), folder })
    }

    /// One process a worker, except those that run already.
    ///
    /// # Errors
    /// Where one does not get ready.
    pub async fn start_workers(&mut self) -> Result<()> {
        for worker in WorkerName::ALL {
            self.start(worker).await?;
        }
        Ok(())
    }

    /// # Errors
    /// Where it does not get ready.
    pub async fn start(&mut self, worker: WorkerName) -> Result<()> {
        if self.workers.iter().all(|running| running.worker != worker) {
            self.workers.push(WorkerProcess::start(&self.stack, worker).await?);
        }
        Ok(())
    }

    pub async fn close(self) {
        for worker in self.workers {
            worker.stop().await;
        }
        self.stack.stop().await;
        drop(self.folder);
    }
}
