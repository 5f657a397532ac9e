//! Both servers in one folder, with users, permissions, schema and topology.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use brigade::{
    fleet::{Servers, Settings},
    infra::{NatsOptions, connect_options},
    operations::{
        migrate, provision,
        tenants::{self, accounts::AccountsFolder},
    },
};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{
    Binaries, NatsServer, Postgres, port::free_port, secret_file::private_folder,
};
use futures::future::try_join_all;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::credentials::Credentials;

/// The folder of the accounts, in that of nats-server.
const ACCOUNTS: &str = "accounts";
/// The name of the simulated gateway among the credentials. No user of either server has it.
const GATEWAY: &str = "simulated gateway";
/// The database of a stack.
pub const DATABASE: &str = "brigade";

/// The time in which a new cluster has elected who leads it.
const ELECTION: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);

/// Ports to listen on; 0 takes any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub nats: u16,
    pub postgres: u16,
    /// That of nats-server's monitoring, which has none by default.
    pub monitoring: Option<u16>,
}

/// A stack in a folder of this machine.
pub struct LocalStack {
    pub dir: PathBuf,
    pub nats: NatsServer,
    /// The other nodes of a cluster; empty on a single server.
    pub others: Vec<NatsServer>,
    pub postgres: Postgres,
    pub tenants: Vec<Token>,
    monitoring: Option<u16>,
    credentials: Credentials,
}

impl LocalStack {
    /// Starts both servers on the folder, new or with what an earlier start left there, and brings
    /// users, schema and topology up to date. Workers come on top.
    ///
    /// # Errors
    /// If a server does not start; what its log said last is part of the error.
    pub async fn start(
        binaries: &Binaries,
        dir: &Path,
        tenants: Vec<Token>,
        ports: Ports,
    ) -> Result<Self> {
        Self::start_nodes(binaries, dir, tenants, ports, 1).await
    }

    /// Starts the same with a cluster of three nats-servers, on which each stream has three
    /// replicas.
    ///
    /// # Errors
    /// If a server does not start; what its log said last is part of the error.
    pub async fn start_cluster(
        binaries: &Binaries,
        dir: &Path,
        tenants: Vec<Token>,
    ) -> Result<Self> {
        Self::start_nodes(binaries, dir, tenants, Ports::default(), 3).await
    }

    async fn start_nodes(
        binaries: &Binaries,
        dir: &Path,
        tenants: Vec<Token>,
        ports: Ports,
        nodes: u8,
    ) -> Result<Self> {
        private_folder(dir)?;
        let users = permissions::all_users(&tenants);
        let names = users.iter().map(|user| user.name.clone());
        let credentials = Credentials::of(dir, names.chain([GATEWAY.to_owned()]))?;
        let (nats_dir, postgres_dir) = (dir.join("nats"), dir.join("postgres"));
        let with_passwords = users.iter().map(|user| (user, credentials.password(&user.name)));
        // As in production, so that `brigade tenants` works on it.
        let accounts_dir = nats_dir.join(ACCOUNTS);
        private_folder(&nats_dir)?;
        private_folder(&accounts_dir)?;
        let accounts = AccountsFolder::new(&accounts_dir);
        accounts.put(&with_passwords.collect::<Vec<_>>())?;
        accounts.sync()?;
        let (mut others, postgres) = tokio::try_join!(
            nats_servers(&binaries.nats_server, dir, ports, nodes),
            Postgres::start(&binaries.postgres_bin, &postgres_dir, ports.postgres),
        )?;
        let nats = others.remove(0);
        let (dir, monitoring) = (dir.to_owned(), ports.monitoring);
        let stack = Self { dir, nats, others, postgres, tenants, monitoring, credentials };
        migrate::create_database(&stack.postgres.superuser_url("postgres"), DATABASE).await?;
        let password =
            |worker: WorkerName| Some(stack.credentials.password(worker.as_str()).into());
        migrate::run(&stack.superuser_url(), "", password).await?;
        stack.add_tenants().await?;
        stack.provision().await?;
        Ok(stack)
    }

    /// Makes the streams. A cluster first has to elect who leads it.
    async fn provision(&self) -> Result<()> {
        let until = Instant::now() + ELECTION;
        loop {
            match provision::run(&self.nats_url("operator"), self.replicas()).await {
                Err(_) if !self.others.is_empty() && Instant::now() < until => {}
                made => return made.map(|_| ()),
            }
            sleep(RETRY).await;
        }
    }

    /// Returns the number of replicas that each stream has.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        u8::try_from(self.nodes().count()).unwrap_or(1)
    }

    /// Returns all nats-servers.
    pub fn nodes(&self) -> impl Iterator<Item = &NatsServer> {
        std::iter::once(&self.nats).chain(&self.others)
    }

    /// Returns a nats-server, to be stopped or killed.
    pub fn node_mut(&mut self, node: usize) -> &mut NatsServer {
        match node {
            0 => &mut self.nats,
            node => &mut self.others[node - 1],
        }
    }

    /// Returns the folder of a nats-server.
    #[must_use]
    pub fn nats_dir(&self, node: usize) -> PathBuf {
        nats_dir(&self.dir, node)
    }

    async fn add_tenants(&self) -> Result<()> {
        let pool = PgPool::connect(&self.superuser_url()).await?;
        let tenants: Vec<_> = self.tenants.iter().map(Token::as_str).collect();
        let added = tenants::ensure_added(&pool, &tenants).await;
        pool.close().await;
        added.context("cannot register the tenants")
    }

    /// Returns the folder of the NATS accounts, for `brigade tenants --accounts`.
    #[must_use]
    pub fn accounts_dir(&self) -> PathBuf {
        self.dir.join("nats").join(ACCOUNTS)
    }

    /// Returns the NATS URL of a user of this stack; of a cluster, those of all nodes, separated by
    /// commas.
    #[must_use]
    pub fn nats_url(&self, user: &str) -> String {
        let password = self.credentials.password(user);
        let url = |node: &NatsServer| format!("nats://{user}:{password}@127.0.0.1:{}", node.port());
        self.nodes().map(url).collect::<Vec<_>>().join(",")
    }

    /// Returns the URL of nats-server's monitoring, if it has one.
    #[must_use]
    pub fn monitoring_url(&self) -> Option<String> {
        self.monitoring.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// Connects to NATS as a user of this stack.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn connect(&self, user: &str) -> Result<async_nats::Client> {
        let (options, address) = connect_options(&self.nats_url(user))?;
        Ok(options.connect(address).await?)
    }

    /// Returns what the simulated gateway signs its messages with.
    #[must_use]
    pub fn gateway_secret(&self) -> String {
        format!("whsec_{}", self.credentials.password(GATEWAY))
    }

    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.postgres.superuser_url(DATABASE)
    }

    /// Returns the URLs of a worker, with its own user on both servers.
    #[must_use]
    pub fn servers(&self, worker: WorkerName) -> Servers {
        let user = worker.as_str();
        let password = self.credentials.password(user);
        Servers {
            nats_url: self.nats_url(user),
            postgres_url: self.postgres.url(user, password, DATABASE),
            nats: NatsOptions::default(),
            postgres_url_file: None,
            replicas: self.replicas(),
            settings: Settings::default(),
        }
    }

    /// Stops both servers.
    pub async fn stop(mut self) {
        tokio::join!(self.nats.stop(), self.postgres.stop());
        for mut node in self.others {
            node.stop().await;
        }
    }
}

fn nats_dir(dir: &Path, node: usize) -> PathBuf {
    match node {
        0 => dir.join("nats"),
        node => dir.join(format!("nats-{node}")),
    }
}

/// Starts the nodes, as a cluster where there are several; the first one on these ports.
async fn nats_servers(
    binary: &Path,
    dir: &Path,
    ports: Ports,
    nodes: u8,
) -> Result<Vec<NatsServer>> {
    let routes = (0..nodes).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    let route = |port: &u16| format!("\"nats://127.0.0.1:{port}\"");
    let all = routes.iter().map(route).collect::<Vec<_>>().join(", ");
    let starts = routes.iter().enumerate().map(|(node, own)| {
        // Clients know the nodes from their URLs alone, which may be those of proxies.
        let cluster = format!(
            "cluster {{ name: brigade, no_advertise: true, listen: \"127.0.0.1:{own}\", \
             routes: [{all}] }}"
        );
        let cluster = if nodes > 1 { cluster.as_str() } else { "" };
        let accounts = if node == 0 { ACCOUNTS.to_owned() } else { format!("../nats/{ACCOUNTS}") };
        let monitoring = ports.monitoring.filter(|_| node == 0);
        let monitoring = monitoring.map(|port| format!("http: \"127.0.0.1:{port}\"\n"));
        let monitoring = monitoring.unwrap_or_default();
        let configuration = format!("{monitoring}include \"{accounts}/accounts.conf\"\n{cluster}");
        let port = if node == 0 { ports.nats } else { 0 };
        let dir = nats_dir(dir, node);
        async move { NatsServer::start(binary, &dir, port, &configuration).await }
    });
    try_join_all(starts).await
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use brigade_servers::StackConfig;

    use super::*;

    /// Returns the files and folders below one that others can read, write, list or run.
    fn open_to_others(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut open = Vec::new();
        for entry in fs::read_dir(folder)? {
            let (path, found) = (entry.as_ref().expect("an entry").path(), entry?.metadata()?);
            // As root Postgres has a user of its own, who has to pass through.
            let harmless = if found.is_dir() { 0o011 } else { 0 };
            if found.permissions().mode() & 0o077 & !harmless != 0 {
                open.push(path.clone());
            }
            if found.is_dir() {
                open.extend(open_to_others(&path)?);
            }
        }
        Ok(open)
    }

    #[tokio::test]
    async fn what_a_stack_writes_is_its_owners_alone() -> Result<()> {
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let dir = tempfile::tempdir()?;
        let tenants = vec![Token::new("t1")?];
        let folder = dir.path().join("made");
        let stack = LocalStack::start(&binaries, &folder, tenants, Ports::default()).await?;
        assert!(folder.join("nats/nats-server.log").exists());
        assert_eq!(open_to_others(dir.path())?, Vec::<PathBuf>::new());
        stack.stop().await;
        Ok(())
    }
}
