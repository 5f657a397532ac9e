use brigade::workers::table_status_reconciler::ReconcilerMetrics;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use brigade::{
    fleet::{Instance, Servers, Settings},
    infra::{FailPoints, Metrics, connect_options},
    operations::provision,
    runtime::http::{Serving, Told, serve},
};
use brigade_contracts::{
    Token, WorkerName,
    permissions::{self, Account, NatsUser},
    table::Finding,
};
use brigade_servers::{NatsServer, Postgres};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    PATIENCE, Producer, Web, check,
    proxy::TcpProxy,
    shared::{self, role_password, shared},
    tls::{self, Authority, Trust},
    until,
};

/// User and password → URL.
type PostgresUrl = Box<dyn Fn(&str, &str) -> String + Send + Sync>;

/// The servers of one test, and what runs on them.
pub struct Town {
    pub nats: NatsServer,
    /// The other nodes of a cluster; none on a single server.
    pub others: Vec<NatsServer>,
    /// Only of a town whose Postgres may be killed.
    pub postgres: Option<Postgres>,
    /// The superuser, for looking and for tampering.
    pub sql: PgPool,
    pub fail: FailPoints,
    pub metrics: Arc<Metrics>,
    replicas: u8,
    /// Of the workers that are started from now on.
    pub settings: Settings,
    /// The test spoils tables, so that table-status-reconciler finds some.
    pub has_ghosts: bool,
    serving: OnceCell<Serving>,
    /// Only of a town whose nats-server wants TLS.
    pub trust: Option<Trust>,
    passwords: BTreeMap<String, String>,
    postgres_url: PostgresUrl,
    workers: Mutex<Vec<Instance>>,
    dir: TempDir,
    /// Goes after the Postgres whose data it holds.
    postgres_dir: Option<TempDir>,
}

/// The NATS user that may do anything in the fleet's account, for tampering.
pub const SUPERUSER: &str = "superuser";

/// The NATS user that may ask as `t1-watcher` does, and is pushed nothing.
pub const DEAF: &str = "t1-deaf";

/// The NATS user that may do anything in the account of `t1`.
pub const UNBOUND: &str = "t1-unbound";

/// The restaurants of every town.
pub const TENANTS: [&str; 2] = ["t1", "t2"];

impl Town {
    /// Servers and nothing else.
    pub async fn empty() -> Self {
        let (url, superuser_url) = Self::database().await;
        Self::on(None, superuser_url, url).await
    }

    /// A database of its own in the shared Postgres.
    async fn database() -> (PostgresUrl, String) {
        let port = shared().port;
        let database = format!("t_{}", uuid::Uuid::now_v7().simple());
        shared::copy_template(&shared().superuser_url, &database).await;
        let (server, _) = shared().superuser_url.rsplit_once('/').expect("a path");
        let superuser_url = format!("{server}/{database}");
        let url = move |user: &str, password: &str| {
            format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
        };
        (Box::new(url), superuser_url)
    }

    /// Servers and nothing else, with a Postgres that the test may kill.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn empty_with_own_postgres() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let bin = &shared().binaries.postgres_bin;
        let postgres = Postgres::start(bin, dir.path(), 0).await.expect("Postgres starts");
        let template_url = postgres.superuser_url(shared::TEMPLATE);
        shared::prepare(&postgres.superuser_url("postgres"), &template_url).await;
        let port = postgres.port();
        let url = move |user: &str, password: &str| {
            format!("postgres://{user}:{password}@127.0.0.1:{port}/{}", shared::TEMPLATE)
        };
        let mut town = Self::on(Some(postgres), template_url, Box::new(url)).await;
        town.postgres_dir = Some(dir);
        town
    }

    /// All workers, one of each, ready.
    pub async fn start() -> Self {
        let mut town = Self::empty().await;
        town.run_all().await;
        town
    }

    /// All workers but one.
    pub async fn start_without(absent: WorkerName) -> Self {
        let mut town = Self::empty().await;
        for worker in WorkerName::ALL.into_iter().filter(|worker| *worker != absent) {
            town.run(worker).await;
        }
        town
    }

    /// Servers and nothing else, with a cluster of three nats-servers, streams with three
    /// replicas.
    pub async fn empty_on_a_cluster() -> Self {
        let (url, superuser_url) = Self::database().await;
        Self::with(None, superuser_url, url, 3).await
    }

    async fn on(
        postgres: Option<Postgres>,
        superuser_url: String,
        postgres_url: PostgresUrl,
    ) -> Self {
        Self::with(postgres, superuser_url, postgres_url, 1).await
    }

    async fn with(
        postgres: Option<Postgres>,
        superuser_url: String,
        postgres_url: PostgresUrl,
        nodes: u8,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let tenants = TENANTS.map(|tenant| Token::new(tenant).expect("a token"));
        let mut users = permissions::all_users(&tenants);
        let unbound = |account, name: &str| NatsUser {
            account,
            name: name.to_owned(),
            publish: vec![">".to_owned()],
            publish_deny: Vec::new(),
            subscribe: vec![">".to_owned()],
        };
        users.push(unbound(Account::Fleet, SUPERUSER));
        users.push(unbound(Account::Tenant(tenants[0].clone()), UNBOUND));
        let mut deaf = permissions::watcher(&tenants[0]);
        deaf.name = DEAF.to_owned();
        deaf.subscribe.retain(|subject| !subject.starts_with("live."));
        users.push(deaf);
        let passwords: BTreeMap<String, String> =
            users.iter().map(|user| (user.name.clone(), format!("{}-secret", user.name))).collect();
        let accounts =
            permissions::accounts(users.iter().map(|u| (u, passwords[&u.name].as_str())));
        let binary = &shared().binaries.nats_server;
        let mut servers = Vec::new();
        let routes: Vec<_> = (0..nodes).map(|_| free_port()).collect();
        for node in 0..nodes {
            let cluster = if nodes > 1 { cluster(&routes, node) } else { String::new() };
            let path = dir.path().join(format!("nats-{node}"));
            let configuration = format!("{accounts}{cluster}");
            let server = NatsServer::start(binary, &path, 0, &configuration).await;
            servers.push(server.expect("NATS starts"));
        }
        let nats = servers.remove(0);
        let sql = PgPoolOptions::new().max_connections(4).connect_lazy(&superuser_url);
        let town = Self {
            nats,
            others: servers,
            replicas: nodes,
            settings: Settings::default(),
            has_ghosts: false,
            serving: OnceCell::new(),
            trust: None,
            postgres,
            sql: sql.expect("a URL"),
            fail: FailPoints::default(),
            metrics: Arc::new(Metrics::new()),
            passwords,
            postgres_url,
            workers: Mutex::default(),
            dir,
            postgres_dir: None,
        };
        // A cluster first has to elect who leads it.
        let report = until("the streams to be made", || async {
            provision::run(&town.nats_url("operator"), nodes).await.ok()
        })
        .await;
        assert!(report.drift.is_empty(), "{:?}", report.drift);
        town
    }

    #[must_use]
    pub fn nats_url(&self, user: &str) -> String {
        let url = |server: &NatsServer| {
            let scheme = self.trust.as_ref().map_or("nats", |trust| trust.scheme);
            format!("{scheme}://{user}:{}@127.0.0.1:{}", self.passwords[user], server.port())
        };
        let nodes = std::iter::once(&self.nats).chain(&self.others);
        nodes.map(url).collect::<Vec<_>>().join(",")
    }

    #[must_use]
    pub fn servers(&self, worker: WorkerName) -> Servers {
        Servers {
            nats_url: self.nats_url(worker.as_str()),
            postgres_url: (self.postgres_url)(worker.as_str(), &role_password(worker)),
            replicas: self.replicas,
            settings: self.settings.clone(),
        }
    }

    /// What the town serves over HTTP: `http://<address>`.
    ///
    /// # Panics
    /// Where there is no free port.
    pub async fn http(&self) -> String {
        let serve = async || {
            let workers = self.workers().iter().map(|worker| worker.health.clone()).collect();
            let told = Told { metrics: self.metrics.clone(), workers };
            serve(([127, 0, 0, 1], 0).into(), told, self.settings.http.slot.clone()).await
        };
        let serving = self.serving.get_or_try_init(serve).await.expect("a port");
        format!("http://{}", serving.address)
    }

    /// A program on HTTP for the restaurant `t1`.
    pub async fn web(&self) -> Web {
        Web::new(self.http().await, "t1")
    }

    /// A connection as a user.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn connect(&self, user: &str) -> async_nats::Client {
        connect(&self.nats_url(user), self.trust.as_ref()).await
    }

    /// A connection as a user, by a way that can be cut.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn connect_through(&self, gate: &TcpProxy, user: &str) -> async_nats::Client {
        let url = format!("nats://{user}:{}@127.0.0.1:{}", self.passwords[user], gate.port());
        connect(&url, None).await
    }

    /// The backend of the restaurant `t1`.
    pub async fn producer(&self) -> Producer {
        Producer::new(self.connect("t1-producer").await, "t1")
    }

    /// Starts one worker; it belongs to the caller, and is killed when dropped.
    #[must_use]
    pub fn instance(&self, worker: WorkerName) -> Instance {
        Instance::start(worker, self.servers(worker), self.metrics.clone(), self.fail.clone())
    }

    /// Starts a worker of the town and waits until it is ready.
    pub async fn run(&mut self, worker: WorkerName) {
        let instance = self.instance(worker);
        ready(&instance).await;
        self.workers().push(instance);
    }

    /// Takes an instance in, to be stopped with the town.
    pub fn adopt(&self, instance: Instance) {
        self.workers().push(instance);
    }

    pub async fn run_all(&mut self) {
        for worker in WorkerName::ALL {
            self.run(worker).await;
        }
    }

    /// Takes a worker out of the town, to be stopped or killed.
    ///
    /// # Panics
    /// Where there is none of this name.
    pub fn take(&mut self, worker: WorkerName) -> Instance {
        self.take_one(worker)
    }

    /// Drains one worker of this name, in the middle of whatever goes on.
    pub async fn stop_one(&self, worker: WorkerName) {
        self.take_one(worker).stop().await;
    }

    fn take_one(&self, worker: WorkerName) -> Instance {
        let mut workers = self.workers();
        let at = workers.iter().position(|w| w.worker == worker).expect("it runs");
        workers.remove(at)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.workers.lock().expect("not poisoned")
    }

    /// Waits until nothing is left to do: no note, no outbox row, no event unprojected.
    pub async fn until_idle(&self) {
        until("the fleet to be idle", || async {
            let left: i64 = sqlx::query_scalar(
                "select (select count(*) from brigade.outbox) + (select count(*) from brigade.unshown)",
            )
            .fetch_one(&self.sql)
            .await
            .ok()?;
            (left == 0 && check::all_consumed(self).await).then_some(())
        })
        .await;
    }

    /// Waits until every event has left the outbox.
    pub async fn until_relayed(&self) {
        until("the outbox to be empty", || async {
            let left: i64 = sqlx::query_scalar("select count(*) from brigade.outbox")
                .fetch_one(&self.sql)
                .await
                .ok()?;
            (left == 0).then_some(())
        })
        .await;
    }

    /// Waits until a batch waits for a row that another transaction holds.
    pub async fn until_a_row_is_waited_for(&self) {
        until("a batch that waits for a row", || async {
            let waiting = "select exists (select from pg_stat_activity
                           where datname = current_database() and query like '%take_batch%'
                           and wait_event in ('transactionid', 'tuple'))";
            sqlx::query_scalar::<_, bool>(waiting).fetch_one(&self.sql).await.ok()?.then_some(())
        })
        .await;
    }

    /// Ends a test: the fleet comes to rest, and what must hold after every run holds.
    pub async fn finish(self) {
        self.until_idle().await;
        for worker in self.workers().iter() {
            assert_eq!(worker.health.violations(), Vec::<String>::new(), "{}", worker.worker);
        }
        check::invariants(&self).await;
        for finding in Finding::ALL.iter().filter(|_| !self.has_ghosts) {
            let found = self
                .metrics
                .group::<ReconcilerMetrics>()
                .tables_found
                .with_label_values(&[finding.as_str()])
                .get();
            assert_eq!(found, 0, "tables that are {}", finding.as_str());
        }
        let workers = std::mem::take(&mut *self.workers());
        for worker in workers {
            worker.stop().await;
        }
    }

    /// Starts the nats-server of a single node again, with TLS and a certificate of this authority.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn encrypt(&mut self, authority: &Authority, expired: bool, more: &str) {
        let folder = self.dir.path().join("nats-0");
        authority.certify(&folder, expired);
        let file = folder.join("nats-server.conf");
        let before = fs::read_to_string(&file).expect("its configuration");
        let (plain, _) = before.split_once(tls::BEGIN).unwrap_or((&before, ""));
        let text = format!("{plain}{}{}", tls::BEGIN, tls::configuration(more));
        fs::write(&file, text).expect("written");
        self.nats.restart().await.expect("it comes back");
    }

    /// Where the data of this town's nats-server lies.
    #[must_use]
    pub fn nats_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// Waits until a worker is ready.
///
/// # Panics
/// When patience is over, with the reason why it is not.
pub async fn ready(instance: &Instance) {
    let start = Instant::now();
    while let Err(why) = instance.health.ready() {
        assert!(start.elapsed() < PATIENCE, "{} is not ready: {why}", instance.worker);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connect(url: &str, trust: Option<&Trust>) -> async_nats::Client {
    let (options, address) = connect_options(url).expect("a URL");
    let mut options =
        options.retry_on_initial_connect().reconnect_delay_callback(|_| Duration::from_millis(10));
    if let Some(trust) = trust {
        options = options.add_root_certificates(trust.authority.clone());
    }
    options.connect(address).await.expect("connected")
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The configuration of a node of a cluster.
fn cluster(routes: &[u16], node: u8) -> String {
    let own = routes[usize::from(node)];
    let all: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    format!(
        "cluster {{ name: brigade, listen: \"127.0.0.1:{own}\", routes: [{}] }}\n",
        all.join(", ")
    )
}
