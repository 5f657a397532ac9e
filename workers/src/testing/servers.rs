//! Both servers of one test, with all users, and what workers on them are started with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use async_nats::Client;
use brigade_contracts::{
    Era, Token, WorkerName,
    permissions::{self, Account, NatsUser},
    topology::Topology,
};
use brigade_servers::{
    NatsServer, Postgres,
    port::{PortTaken, STARTS, free_port},
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    TestDatabase, domain,
    shared::{binaries, password},
    tls::{self, Authority, Certificate},
    until,
};
use crate::{
    fleet::{Instance, Servers, Settings},
    infra::{
        Context, FailPoints, Health, Metrics, Nats, NatsOptions, connect_options, postgres::pool,
    },
    operations::provision,
};

/// The restaurants of every test.
pub const TENANTS: [&str; 2] = ["t1", "t2"];
/// The NATS user that may do anything in the fleet's account.
pub const SUPERUSER: &str = "superuser";
/// The NATS user that may do anything in the account of `t1`.
pub const TENANT_SUPERUSER: &str = "t1-superuser";
/// The NATS user that may ask as `t1-watcher` does and is pushed nothing.
pub const NO_PUSH_USER: &str = "t1-no-push";

/// The options with which clients connect to a nats-server that has a certificate.
#[derive(Clone)]
pub struct Trust {
    /// `tls`; `nats` leaves it to the server to ask for TLS.
    pub scheme: &'static str,
    /// The certificate of the authority.
    pub authority: PathBuf,
    /// The certificate that clients show, if they show one.
    pub certificate: Option<Certificate>,
}

impl Trust {
    /// The port of clients who show a certificate. The URL does not say it, so that what tests send by
    /// hand is not encrypted.
    #[must_use]
    pub fn of(files: Certificate) -> Self {
        Self { scheme: "nats", authority: files.authority.clone(), certificate: Some(files) }
    }
}

/// A nats-server and a database with users, streams and schema.
pub struct TestServers {
    pub nats: NatsServer,
    /// The other nodes of a cluster; empty on a single server.
    pub others: Vec<NatsServer>,
    pub database: TestDatabase,
    /// The superuser, without the settings of workers: its statements may wait.
    pub sql: PgPool,
    /// The settings of workers that are started from now on.
    pub settings: Settings,
    pub fail: FailPoints,
    pub metrics: Arc<Metrics>,
    /// Set only where nats-server wants TLS.
    pub trust: Option<Trust>,
    /// Set only where JetStream is another server's.
    pub hub: Option<NatsServer>,
    replicas: u8,
    dir: TempDir,
}

impl TestServers {
    /// Starts a nats-server and makes a database in the shared Postgres.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn start() -> Result<Self> {
        Self::on(TestDatabase::start().await?, 1).await
    }

    /// Starts both servers, of which the test may stop and kill Postgres as well.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn start_with_own_postgres() -> Result<Self> {
        let mut database = TestDatabase::with_own_postgres().await?;
        if tls::everywhere() {
            database.encrypt().await?;
        }
        Self::on(database, 1).await
    }

    /// Starts a cluster of three nats-servers, on which each stream has three replicas.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn start_cluster() -> Result<Self> {
        Self::on(TestDatabase::start().await?, 3).await
    }

    /// Starts a nats-server whose clients use the JetStream of another one, by its domain.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn start_on_a_domain() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (hub, leaf) = domain::start(dir.path(), &accounts()).await?;
        Self::of(TestDatabase::start().await?, dir, vec![leaf], Some(hub)).await
    }

    async fn on(database: TestDatabase, nodes: u8) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if tls::everywhere() {
            certify(&dir, nodes);
        }
        let all = nats_servers(&dir, nodes).await?;
        Self::of(database, dir, all, None).await
    }

    async fn of(
        database: TestDatabase,
        dir: TempDir,
        mut others: Vec<NatsServer>,
        hub: Option<NatsServer>,
    ) -> Result<Self> {
        let nodes = u8::try_from(others.len())?;
        let certified = tls::everywhere() && hub.is_none();
        let trust = certified.then(|| Trust::of(Certificate::in_folder(dir.path())));
        let servers = Self {
            nats: others.remove(0),
            others,
            sql: PgPoolOptions::new().max_connections(8).connect_lazy(&database.url)?,
            database,
            settings: Settings::default(),
            // A unit without the feature `fail-points`, which has no constructor to call.
            fail: Default::default(),
            metrics: Arc::new(Metrics::new()),
            trust,
            hub,
            replicas: nodes,
            dir,
        };
        // A cluster first has to elect who leads it.
        let report = until("the streams to be made", || async {
            let (url, options) = (servers.nats_url("operator"), servers.nats_options());
            provision::run_with(&url, &options, nodes).await.ok()
        })
        .await;
        anyhow::ensure!(report.drift.is_empty(), "{:?}", report.drift);
        Ok(servers)
    }

    /// Returns the URL of a NATS user; of a cluster, those of all nodes, separated by commas.
    #[must_use]
    pub fn nats_url(&self, user: &str) -> String {
        let scheme = self.trust.as_ref().map_or("nats", |trust| trust.scheme);
        let nodes = std::iter::once(&self.nats).chain(&self.others);
        let url =
            |node: &NatsServer| format!("{scheme}://{}@{}", login(user), address(node.port()));
        nodes.map(url).collect::<Vec<_>>().join(",")
    }

    /// Returns the options of a connection to NATS.
    #[must_use]
    pub fn nats_options(&self) -> NatsOptions {
        let certificate = self.trust.as_ref().and_then(|trust| trust.certificate.as_ref());
        let options = certificate.map_or_else(NatsOptions::default, Certificate::nats_options);
        let api_prefix = self.hub.is_some().then(|| NatsOptions::prefix_of_domain(domain::HUB));
        NatsOptions { api_prefix, ..options }
    }

    /// Returns what a worker is started with.
    #[must_use]
    pub fn servers(&self, worker: WorkerName) -> Servers {
        Servers {
            nats_url: self.nats_url(worker.as_str()),
            nats: self.nats_options(),
            postgres_url: self.database.worker_url(worker),
            postgres_url_file: None,
            replicas: self.replicas,
            settings: self.settings.clone(),
        }
    }

    /// Starts a worker; it is killed when dropped.
    #[must_use]
    pub fn instance(&self, worker: WorkerName) -> Instance {
        Instance::start(worker, self.servers(worker), self.metrics.clone(), self.fail.clone())
    }

    /// Returns what a worker would be given, for parts of one, once NATS is connected.
    ///
    /// # Errors
    /// A URL that cannot be read.
    pub async fn context(&self, worker: WorkerName) -> Result<Context> {
        self.context_as(worker, worker.as_str()).await
    }

    /// Returns the same with another user of NATS.
    ///
    /// # Errors
    /// A URL that cannot be read.
    pub async fn context_as(&self, worker: WorkerName, user: &str) -> Result<Context> {
        let health = Health::new(worker);
        let nats = self.connect_nats(user, &health).await?;
        until("the connection to NATS", || async { (nats.connections() > 0).then_some(()) }).await;
        Ok(Context {
            worker,
            instance: "by-hand".into(),
            era: Era::FIRST,
            nats,
            postgres: pool(&self.database.worker_url(worker), worker, 8)?,
            health,
            metrics: self.metrics.clone(),
            drain: CancellationToken::new(),
            fail: self.fail.clone(),
            topology: Arc::new(Topology::with_replicas(self.replicas)),
        })
    }

    /// Connects as a worker does, by another user.
    ///
    /// # Errors
    /// A URL that cannot be read.
    pub async fn connect_nats(&self, user: &str, health: &Health) -> Result<Nats> {
        let options = self.nats_options();
        Nats::connect_with(&self.nats_url(user), &options, health, &self.metrics).await
    }

    /// Connects as a user of NATS.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn connect(&self, user: &str) -> Result<Client> {
        self.connect_to(&self.nats_url(user)).await
    }

    /// Connects as a user of NATS by another port, such as that of a proxy.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn connect_by(&self, port: u16, user: &str) -> Result<Client> {
        self.connect_to(&format!("nats://{}@{}", login(user), address(port))).await
    }

    async fn connect_to(&self, url: &str) -> Result<Client> {
        let (options, address) = connect_options(url)?;
        let mut options = options
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(10));
        if let Some(trust) = &self.trust {
            options = options.require_tls(true).add_root_certificates(trust.authority.clone());
            if let Some(Certificate { certificate, key, .. }) = &trust.certificate {
                options = options.add_client_certificate(certificate.clone(), key.clone());
            }
        }
        Ok(options.connect(address).await?)
    }

    /// Returns the test's own Postgres.
    ///
    /// # Panics
    /// Where the test shares it with others.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        self.database.postgres.as_ref().expect("a Postgres of its own")
    }

    /// Returns the test's own Postgres, to be stopped or killed.
    ///
    /// # Panics
    /// Where the test shares it with others.
    pub fn postgres_mut(&mut self) -> &mut Postgres {
        self.database.postgres.as_mut().expect("a Postgres of its own")
    }

    /// Returns the folder that holds the data of its nats-servers, `nats-<node>` each.
    #[must_use]
    pub fn nats_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// Writes the certificates of all nodes and one for clients.
fn certify(dir: &TempDir, nodes: u8) {
    let authority = Authority::new();
    for node in 0..nodes {
        let folder = dir.path().join(format!("nats-{node}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        authority.certify(&folder, false);
    }
    authority.certify_client(dir.path());
}

fn login(user: &str) -> String {
    format!("{user}:{}", password(user))
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Starts the nodes, as a cluster where there are several. Its ports are free when they are chosen;
/// where somebody else took one since, all nodes are started on others.
async fn nats_servers(dir: &TempDir, nodes: u8) -> Result<Vec<NatsServer>> {
    let mut starts = 0;
    loop {
        starts += 1;
        match try_nats_servers(dir, nodes).await {
            Err(error) if nodes > 1 && error.is::<PortTaken>() && starts < STARTS => {}
            done => return done,
        }
    }
}

async fn try_nats_servers(dir: &TempDir, nodes: u8) -> Result<Vec<NatsServer>> {
    let accounts = accounts();
    let routes = (0..nodes).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    let mut servers = Vec::new();
    for (node, route) in routes.iter().enumerate() {
        let cluster = if nodes > 1 { cluster(&routes, *route) } else { String::new() };
        let path = dir.path().join(format!("nats-{node}"));
        // What tests send by hand stays as it is.
        let tls = match tls::everywhere() {
            true => tls::nats_configuration("verify: true"),
            false => String::new(),
        };
        let plain = if tls.is_empty() { "" } else { "allow_non_tls: true\n" };
        let configuration = format!("{accounts}{cluster}{tls}{plain}");
        let binary = &binaries().nats_server;
        servers.push(NatsServer::start(binary, &path, 0, &configuration).await?);
    }
    Ok(servers)
}

/// Returns the configuration of a node of a cluster.
fn cluster(routes: &[u16], own: u16) -> String {
    let all: Vec<_> = routes.iter().map(|port| format!("\"nats://{}\"", address(*port))).collect();
    let (own, all) = (address(own), all.join(", "));
    let tls = match tls::everywhere() {
        true => tls::block("verify: true"),
        false => String::new(),
    };
    format!("cluster {{ name: brigade, listen: \"{own}\", routes: [{all}]\n{tls} }}\n")
}

/// Returns the configuration of all users: those of the product, and those for tests.
fn accounts() -> String {
    let tenants = TENANTS.map(|tenant| Token::new(tenant).expect("a token"));
    let mut users = permissions::all_users(&tenants);
    let superuser = |account, name: &str| NatsUser {
        account,
        name: name.to_owned(),
        publish: vec![">".to_owned()],
        publish_deny: Vec::new(),
        subscribe: vec![">".to_owned()],
        subscribe_deny: Vec::new(),
        may_reply: false,
    };
    users.push(superuser(Account::Fleet, SUPERUSER));
    users.push(superuser(Account::Tenant(tenants[0].clone()), TENANT_SUPERUSER));
    let mut no_push = permissions::watcher(&tenants[0]);
    no_push.name = NO_PUSH_USER.to_owned();
    no_push.subscribe.retain(|subject| !subject.starts_with("live."));
    users.push(no_push);
    let passwords: Vec<_> = users.iter().map(|user| password(&user.name)).collect();
    permissions::accounts(users.iter().zip(passwords.iter().map(String::as_str)))
}
