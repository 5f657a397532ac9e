//! The fleet of a run: both servers, and two processes of each worker, each with proxies of its own
//! to both servers.

use std::{
    iter::repeat_n,
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::jetstream;
use brigade::{fleet::Servers, infra::connect_options};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, config::StackConfig};
use futures::future::try_join_all;
use rand::{Rng, rngs::StdRng};
use sqlx::{ConnectOptions, PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};

use crate::{Launch, LocalStack, Ports, TcpProxy, WorkerProcess};

pub const TENANTS: [&str; 3] = ["t1", "t2", "t3"];
/// Processes of each worker.
const OF_EACH: usize = 2;
/// How long a lock lives, in seconds: short, so that many expire in a run.
const LOCK_SECONDS: &str = "4";
/// A connection that a fault has taken is noticed within this.
const SQL_PATIENCE: Duration = Duration::from_secs(5);

/// A process of a worker, which may be down at the moment.
pub struct FleetMember {
    pub worker: WorkerName,
    name: String,
    pub process: Option<WorkerProcess>,
    pub nats: TcpProxy,
    pub postgres: TcpProxy,
}

/// The addresses of edges that clients over HTTP know.
pub type Edges = Arc<Mutex<Vec<SocketAddr>>>;

pub struct ChaosFleet {
    pub stack: LocalStack,
    pub members: Vec<FleetMember>,
    pub sql: PgPool,
    pub operator: jetstream::Context,
    pub edges: Edges,
    launch: Launch,
    variables: Vec<(String, String)>,
    folder: tempfile::TempDir,
}

impl ChaosFleet {
    /// Starts both servers and all processes.
    ///
    /// # Errors
    /// If one of them does not get ready.
    pub async fn start(launch: Launch, variables: Vec<(String, String)>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("brigade-chaos-").tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let tenants = TENANTS.map(Token::new).into_iter().collect::<Result<_, _>>();
        let tenants = tenants.context("tenants")?;
        let stack = LocalStack::start(&binaries, folder.path(), tenants, Ports::default()).await?;
        let operator = connect(&stack, &permissions::operator().name).await?;
        let operator = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .build(operator);
        let options = PgConnectOptions::from_str(&stack.superuser_url())?;
        let sql = PgPoolOptions::new()
            .acquire_timeout(SQL_PATIENCE)
            .connect_with(options.disable_statement_logging())
            .await?;
        let (members, edges) = (Vec::new(), Edges::default());
        let mut fleet = Self { stack, members, sql, operator, edges, launch, variables, folder };
        for worker in WorkerName::ALL {
            for n in 0..OF_EACH {
                let nats = TcpProxy::to(fleet.stack.nats.port()).await?;
                let postgres = TcpProxy::to(fleet.stack.postgres.port()).await?;
                let name = format!("{worker}-{n}");
                fleet.members.push(FleetMember { worker, name, process: None, nats, postgres });
            }
        }
        fleet.start_missing().await?;
        Ok(fleet)
    }

    /// Starts every process that is down, all at once.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn start_missing(&mut self) -> Result<()> {
        let missing = (0..self.members.len()).filter(|at| self.members[*at].process.is_none());
        let missing: Vec<_> = missing.collect();
        let started = missing.iter().map(|at| self.process_of(&self.members[*at]));
        let started = try_join_all(started).await?;
        for (at, process) in missing.into_iter().zip(started) {
            self.members[at].process = Some(process);
        }
        self.tell_edges();
        Ok(())
    }

    async fn process_of(&self, member: &FleetMember) -> Result<WorkerProcess> {
        let near = self.stack.servers(member.worker);
        let through = |url: &str, port: u16, proxy: &TcpProxy| {
            url.replace(&format!(":{port}"), &format!(":{}", proxy.port()))
        };
        let servers = Servers {
            nats_url: through(&near.nats_url, self.stack.nats.port(), &member.nats),
            postgres_url: through(&near.postgres_url, self.stack.postgres.port(), &member.postgres),
            ..near
        };
        let mut variables = self.variables.clone();
        variables.extend(
            ["CARD", "WALLET", "QR", "CASH"]
                .map(|method| (format!("BRIGADE_LOCK_SECONDS_{method}"), LOCK_SECONDS.to_owned())),
        );
        let workers = [(member.worker, servers)];
        let (stack, name, launch) = (&self.stack, &member.name, self.launch);
        loop {
            match WorkerProcess::launch(stack, name, &workers, launch, &variables).await {
                // Somebody else was given the free port in between.
                Err(error) if format!("{error:#}").contains("Address already in use") => {}
                started => return started,
            }
        }
    }

    /// Kills the process of a member; its client-facing address goes with it.
    pub async fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            process.kill().await;
        }
        self.tell_edges();
    }

    /// Drains the process of a member.
    pub async fn drain(&mut self, at: usize) {
        if let Some(process) = self.members[at].process.take() {
            process.stop().await;
        }
        self.tell_edges();
    }

    /// Tells clients which edges there are.
    fn tell_edges(&self) {
        let edges = self.members.iter().filter(|member| member.worker == WorkerName::Edge);
        let edges = edges.filter_map(|member| Some(member.process.as_ref()?.http())).collect();
        *self.edges.lock().unwrap_or_else(PoisonError::into_inner) = edges;
    }

    /// Returns the place of a random member; those of command-handler come three times as often,
    /// because most can go wrong there.
    pub fn any(&self, random: &mut StdRng) -> usize {
        let weight = |at: &usize| match self.members[*at].worker {
            WorkerName::CommandHandler => 3,
            _ => 1,
        };
        let places: Vec<usize> =
            (0..self.members.len()).flat_map(|at| repeat_n(at, weight(&at))).collect();
        places[random.random_range(0..places.len())]
    }

    #[must_use]
    pub fn name(&self, at: usize) -> &str {
        &self.members[at].name
    }

    /// Ends all processes, and the servers. The folder stays if it is to be looked at.
    pub async fn close(mut self, keep: bool) -> Option<std::path::PathBuf> {
        for at in 0..self.members.len() {
            self.kill(at).await;
        }
        self.sql.close().await;
        self.stack.stop().await;
        keep.then(|| self.folder.keep())
    }
}

/// Connects as a user of the stack, by a connection that never gives up.
///
/// # Errors
/// If the server refuses the user.
pub async fn connect(stack: &LocalStack, user: &str) -> Result<async_nats::Client> {
    let (options, address) = connect_options(&stack.nats_url(user))?;
    let options = options.reconnect_delay_callback(|_| Duration::from_millis(20));
    Ok(options.subscription_capacity(1 << 20).connect(address).await?)
}
