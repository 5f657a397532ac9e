//! The fleet of a run: the servers, and two processes of each worker, each with proxies of its own
//! to every server.

use std::{
    collections::BTreeMap,
    iter::repeat_n,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::jetstream;
use brigade::infra::connect_options;
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, Postgres, config::StackConfig};
use futures::future::try_join_all;
use rand::{Rng, rngs::StdRng};
use serde_json::Value;
use sqlx::{ConnectOptions, PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};

use super::{disk::SmallDisk, member::FleetMember};
use crate::{DATABASE, Launch, LocalStack, Ports, TcpProxy};

pub const TENANTS: [&str; 3] = ["t1", "t2", "t3"];
/// Processes of each worker.
const OF_EACH: usize = 2;
/// A connection that a fault has taken is noticed within this.
const SQL_PATIENCE: Duration = Duration::from_secs(5);
/// The addresses of edges that clients over HTTP know.
pub type Edges = Arc<Mutex<Vec<SocketAddr>>>;

/// The release before the present one.
#[derive(Clone)]
pub struct PreviousRelease {
    pub program: PathBuf,
    /// Returns true for a command that it knows, by verb (`cart.open`) and payload. No other is
    /// sent while a process of it runs.
    pub knows: fn(&str, &Value) -> bool,
}

/// The form in which a fleet is started.
#[derive(Clone)]
pub struct FleetPlan {
    /// The way in which the processes of workers are launched, and variables for all of them.
    pub launch: Launch,
    pub variables: Vec<(String, String)>,
    /// The release of the second process of each worker, if it is not the present one.
    pub previous: Option<PreviousRelease>,
    /// Three nats-servers, and each stream with three replicas.
    pub is_cluster: bool,
    /// The data of each server is on a small disk of its own, which can be full.
    pub has_small_disks: bool,
}

pub struct ChaosFleet {
    pub stack: LocalStack,
    pub members: Vec<FleetMember>,
    pub sql: PgPool,
    pub operator: jetstream::Context,
    pub edges: Edges,
    pub plan: FleetPlan,
    /// The ports of nats-server and of Postgres.
    pub disks: Option<[SmallDisk; 2]>,
    /// The address of Postgres for operators, whichever server that is.
    front: TcpProxy,
    /// The number of Postgres servers so far.
    postgres_servers: usize,
    folder: tempfile::TempDir,
}

impl ChaosFleet {
    /// Starts the servers and all processes.
    ///
    /// # Errors
    /// If one of them does not get ready.
    pub async fn start(plan: FleetPlan) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("brigade-chaos-").tempdir()?;
        let disks = match plan.has_small_disks {
            true => Some([
                SmallDisk::mount(&folder.path().join("nats/jetstream"))?,
                SmallDisk::mount(&folder.path().join("postgres"))?,
            ]),
            false => None,
        };
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let tenants = TENANTS.map(Token::new).into_iter().collect::<Result<_, _>>();
        let tenants = tenants.context("tenants")?;
        let stack = match plan.is_cluster {
            true => LocalStack::start_cluster(&binaries, folder.path(), tenants).await?,
            false => LocalStack::start(&binaries, folder.path(), tenants, Ports::default()).await?,
        };
        let operator = connect(&stack, &permissions::operator().name).await?;
        let operator = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .build(operator);
        let front = TcpProxy::to(stack.postgres.port()).await?;
        let options = PgConnectOptions::from_str(&superuser_url(&stack, &front))?;
        let sql = PgPoolOptions::new()
            .acquire_timeout(SQL_PATIENCE)
            .connect_with(options.disable_statement_logging())
            .await?;
        let (mut members, edges) = (Vec::new(), Edges::default());
        for worker in WorkerName::ALL {
            for n in 0..OF_EACH {
                let mut member = FleetMember::new(&stack, worker, format!("{worker}-{n}")).await?;
                member.is_previous = n > 0 && plan.previous.is_some();
                members.push(member);
            }
        }
        let postgres_servers = 1;
        let mut fleet = Self {
            stack,
            members,
            sql,
            operator,
            edges,
            plan,
            disks,
            front,
            postgres_servers,
            folder,
        };
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
        let started = missing.iter().map(|at| self.members[*at].start(&self.stack, &self.plan));
        let started = try_join_all(started).await?;
        for (at, process) in missing.into_iter().zip(started) {
            self.members[at].process = Some(process);
        }
        self.tell_edges();
        Ok(())
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
        self.any_weighted(random, |worker| match worker {
            WorkerName::CommandHandler => 3,
            _ => 1,
        })
    }

    /// Returns the place of a random member, of which some come more often.
    pub fn any_weighted(&self, random: &mut StdRng, weight: impl Fn(WorkerName) -> usize) -> usize {
        let weight = |at: &usize| weight(self.members[*at].worker);
        let places: Vec<usize> =
            (0..self.members.len()).flat_map(|at| repeat_n(at, weight(&at))).collect();
        places[random.random_range(0..places.len())]
    }

    /// Returns how many messages each process of the release before has handled since it was started.
    pub async fn handled_by_previous(&self) -> BTreeMap<String, u64> {
        let mut handled = BTreeMap::new();
        for member in self.members.iter().filter(|member| member.is_previous) {
            let Some(process) = &member.process else { continue };
            let text = process.metrics().await.unwrap_or_default();
            let count = text
                .lines()
                .filter(|line| line.starts_with("brigade_messages_total{"))
                .filter(|line| line.contains("verdict=\"done\""))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
                .sum();
            handled.insert(member.name.clone(), count);
        }
        handled
    }

    #[must_use]
    pub fn name(&self, at: usize) -> &str {
        &self.members[at].name
    }

    /// Returns the folder of one more Postgres.
    pub fn next_postgres_dir(&mut self) -> PathBuf {
        self.postgres_servers += 1;
        self.stack.dir.join(format!("postgres-{}", self.postgres_servers))
    }

    /// Lets everybody use another Postgres; returns the former one.
    pub fn use_postgres(&mut self, postgres: Postgres) -> Postgres {
        let former = std::mem::replace(&mut self.stack.postgres, postgres);
        for proxy in self.members.iter().map(|member| &member.postgres).chain([&self.front]) {
            proxy.aim(self.stack.postgres.port());
        }
        former
    }

    /// Returns the URL of Postgres for an operator, which stays the same.
    #[must_use]
    pub fn operator_url(&self) -> String {
        superuser_url(&self.stack, &self.front)
    }

    /// Ends all processes, and the servers. The folder stays if it is to be looked at.
    pub async fn close(mut self, keep: bool) -> Option<PathBuf> {
        for at in 0..self.members.len() {
            self.kill(at).await;
        }
        self.sql.close().await;
        self.stack.stop().await;
        if keep {
            self.disks.iter().flatten().for_each(SmallDisk::keep);
        }
        keep.then(|| self.folder.keep())
    }
}

fn superuser_url(stack: &LocalStack, front: &TcpProxy) -> String {
    let port = format!(":{}/{DATABASE}", stack.postgres.port());
    stack.superuser_url().replace(&port, &format!(":{}/{DATABASE}", front.port()))
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
