use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result};
use async_nats::jetstream;
use brigade::{fleet::Servers, infra::connect_options, operations::tenants};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, config::StackConfig};
use futures::future::try_join_all;
use serde_json::Value;
use sqlx::{ConnectOptions, PgPool, postgres::PgConnectOptions};

use super::{mix::TENANTS, proxy};
use crate::{LocalStack, Ports, WorkerProcess};

/// A stack of the bench's own, in a scratch folder, with a process for each worker.
pub struct BenchFleet {
    pub stack: LocalStack,
    pub sql: PgPool,
    /// May send and ask for all tenants.
    pub operator: jetstream::Context,
    pub workers: Vec<WorkerProcess>,
    folder: tempfile::TempDir,
}

impl BenchFleet {
    /// Servers and connections; no worker yet.
    ///
    /// # Errors
    /// If a server does not start.
    pub async fn open() -> Result<Self> {
        Self::with_accounts_of(vec![Token::new("bench").context("a tenant")?]).await
    }

    /// The same, with an account on nats-server for each tenant of the mix.
    ///
    /// # Errors
    /// If a server does not start.
    pub async fn open_with_accounts() -> Result<Self> {
        let tenants = (0..TENANTS).map(|n| Token::new(&format!("t{n}")).context("a tenant"));
        Self::with_accounts_of(tenants.collect::<Result<_>>()?).await
    }

    async fn with_accounts_of(tenants: Vec<Token>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("brigade-bench-").tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let of_mix: Vec<_> = (0..TENANTS).map(|n| format!("t{n}")).collect();
        let stack = LocalStack::start(&binaries, folder.path(), tenants, Ports::default()).await?;
        let operator = patient(connect(&stack.nats_url(&permissions::operator().name)).await?);
        let options = PgConnectOptions::from_str(&stack.superuser_url())?;
        // What is slow here is meant to be: a history, for one.
        let sql = PgPool::connect_with(options.disable_statement_logging()).await?;
        tenants::ensure_added(&sql, &of_mix.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        Ok(Self { stack, sql, operator, workers: Vec::new(), folder })
    }

    /// One process a worker, except those that run already.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn start_workers(&mut self) -> Result<()> {
        self.start_all_but(None).await
    }

    /// The same, without one.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn start_all_but(&mut self, without: Option<WorkerName>) -> Result<()> {
        for worker in WorkerName::ALL {
            let runs = self.workers.iter().any(|running| running.name == worker.as_str());
            if !runs && Some(worker) != without {
                self.start(worker).await?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// If it does not get ready.
    pub async fn start(&mut self, worker: WorkerName) -> Result<()> {
        self.workers.push(WorkerProcess::start(&self.stack, worker).await?);
        Ok(())
    }

    /// All workers in one process.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn start_in_one_process(&mut self) -> Result<()> {
        let all = WorkerName::ALL.map(|worker| (worker, self.stack.servers(worker)));
        self.workers.push(WorkerProcess::start_as(&self.stack, "all", &all).await?);
        Ok(())
    }

    /// So many processes of a worker, far from the servers: see [`proxy`].
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn start_far(&mut self, worker: WorkerName, count: usize) -> Result<()> {
        let near = self.stack.servers(worker);
        let (nats, postgres) = (self.stack.nats.port(), self.stack.postgres.port());
        let far = |url: &str, port: u16, through: u16| {
            url.replace(&format!(":{port}"), &format!(":{through}"))
        };
        let servers = Servers {
            nats_url: far(&near.nats_url, nats, proxy::to(nats).await?),
            postgres_url: far(&near.postgres_url, postgres, proxy::to(postgres).await?),
            ..near
        };
        let (stack, started) = (&self.stack, [(worker, servers)]);
        let processes = (0..count).map(|n| {
            let (name, started) = (format!("{worker}-{n}"), &started);
            async move { WorkerProcess::start_as(stack, &name, started).await }
        });
        let processes = try_join_all(processes).await?;
        self.workers.extend(processes);
        Ok(())
    }

    /// Stops all processes of workers, or those of one.
    pub async fn stop(&mut self, worker: Option<WorkerName>) {
        let prefix = worker.map_or("", WorkerName::as_str);
        let workers = std::mem::take(&mut self.workers);
        for worker in workers {
            if worker.name.starts_with(prefix) {
                worker.stop().await;
            } else {
                self.workers.push(worker);
            }
        }
    }

    /// A request to the JetStream API.
    ///
    /// # Errors
    /// If the server refuses the request.
    pub async fn jetstream(&self, request: &str, payload: &Value) -> Result<Value> {
        let answer: Value = self.operator.request(request.to_owned(), payload).await?;
        anyhow::ensure!(answer["error"].is_null(), "{request}: {answer}");
        Ok(answer)
    }

    pub async fn close(mut self) {
        self.stop(None).await;
        self.sql.close().await;
        self.stack.stop().await;
        drop(self.folder);
    }
}

/// Lets publishes and requests wait as long as a busy fleet needs.
pub fn patient(client: async_nats::Client) -> jetstream::Context {
    jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(30))
        .ack_timeout(Duration::from_secs(30))
        .max_ack_inflight(1 << 20)
        .build(client)
}

/// A connection that takes in whatever comes.
///
/// # Errors
/// If the server cannot be reached.
pub async fn connect(url: &str) -> Result<async_nats::Client> {
    let (options, address) = connect_options(url)?;
    Ok(options.subscription_capacity(1 << 20).connect(address).await?)
}
