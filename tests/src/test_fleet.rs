//! A fleet of workers on real servers, for one acceptance test.

use std::{
    fs,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
};

use brigade::{
    fleet::Instance,
    runtime::http::{HttpServer, ProcessStatus, serve_admin, serve_api},
    testing::{TestServers, until, until_ready},
    workers::{edge::EdgeMetrics, table_status_reconciler::ReconcilerMetrics},
};
use brigade_contracts::{WorkerName, table::Finding};
use tokio::sync::OnceCell;

use crate::{
    HttpClient, Producer, check,
    proxy::TcpProxy,
    tls::{self, Authority},
};

/// The servers of one test and the workers that run on them. What may be set before workers start,
/// such as [`TestServers::settings`], is that of the servers.
pub struct TestFleet {
    servers: TestServers,
    /// The test spoils tables, so that table-status-reconciler has findings.
    pub expects_findings: bool,
    http: OnceCell<HttpServer>,
    admin: OnceCell<HttpServer>,
    workers: Mutex<Vec<Instance>>,
}

impl Deref for TestFleet {
    type Target = TestServers;

    fn deref(&self) -> &TestServers {
        &self.servers
    }
}

impl DerefMut for TestFleet {
    fn deref_mut(&mut self) -> &mut TestServers {
        &mut self.servers
    }
}

impl TestFleet {
    /// Returns the metrics of edge.
    #[must_use]
    pub fn edge_metrics(&self) -> Arc<EdgeMetrics> {
        self.metrics.group()
    }

    /// Starts servers and no worker.
    ///
    /// # Panics
    /// Where a server does not start.
    pub async fn empty() -> Self {
        Self::on(TestServers::start().await.expect("servers"))
    }

    /// Starts servers and no worker; the test may stop and kill Postgres as well.
    ///
    /// # Panics
    /// Where a server does not start.
    pub async fn empty_with_own_postgres() -> Self {
        Self::on(TestServers::start_with_own_postgres().await.expect("servers"))
    }

    /// Starts a cluster of three nats-servers and no worker; each stream has three replicas.
    ///
    /// # Panics
    /// Where a server does not start.
    pub async fn empty_on_a_cluster() -> Self {
        Self::on(TestServers::start_cluster().await.expect("servers"))
    }

    /// Starts servers and no worker; JetStream is another server's, known by its domain.
    ///
    /// # Panics
    /// Where a server does not start.
    pub async fn empty_on_a_domain() -> Self {
        Self::on(TestServers::start_on_a_domain().await.expect("servers"))
    }

    /// Starts all workers, one of each, and waits until they are ready.
    pub async fn start() -> Self {
        let mut fleet = Self::empty().await;
        fleet.run_all().await;
        fleet
    }

    /// Starts all workers but one, and waits until they are ready.
    pub async fn start_without(absent: WorkerName) -> Self {
        let mut fleet = Self::empty().await;
        for worker in WorkerName::ALL.into_iter().filter(|worker| *worker != absent) {
            fleet.run(worker).await;
        }
        fleet
    }

    fn on(servers: TestServers) -> Self {
        let (http, admin, workers) = (OnceCell::new(), OnceCell::new(), Mutex::default());
        Self { servers, expects_findings: false, http, admin, workers }
    }

    /// Serves the API from the first call on; returns `http://<address>`.
    ///
    /// # Panics
    /// Where there is no free port.
    pub async fn http_url(&self) -> String {
        let serve = || serve_api(([127, 0, 0, 1], 0).into(), None, &self.settings.http);
        let serving = self.http.get_or_try_init(serve).await.expect("a port");
        format!("http://{}", serving.address)
    }

    /// Serves `/livez`, `/readyz` and `/metrics` of the workers that run at the first call, from
    /// then on; returns `http://<address>`.
    ///
    /// # Panics
    /// Where there is no free port.
    pub async fn admin_url(&self) -> String {
        let serve = async || {
            let workers = self.workers().iter().map(|worker| worker.health.clone()).collect();
            let status = ProcessStatus { metrics: self.metrics.clone(), workers };
            serve_admin(([127, 0, 0, 1], 0).into(), status).await
        };
        let serving = self.admin.get_or_try_init(serve).await.expect("a port");
        format!("http://{}", serving.address)
    }

    /// Returns a client over HTTP of the restaurant `t1`.
    pub async fn http_client(&self) -> HttpClient {
        HttpClient::new(self.http_url().await, "t1")
    }

    /// Connects as a user of NATS.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn connect(&self, user: &str) -> async_nats::Client {
        self.servers.connect(user).await.expect("connected")
    }

    /// Connects as a user of NATS by a proxy.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn connect_through(&self, proxy: &TcpProxy, user: &str) -> async_nats::Client {
        self.servers.connect_by(proxy.port(), user).await.expect("connected")
    }

    /// Returns the backend of the restaurant `t1`.
    pub async fn producer(&self) -> Producer {
        Producer::new(self.connect("t1-producer").await, "t1")
    }

    /// Starts a worker of the fleet and waits until it is ready.
    pub async fn run(&mut self, worker: WorkerName) {
        let instance = self.instance(worker);
        until_ready(&instance).await;
        self.workers().push(instance);
    }

    /// Starts all workers, one of each, and waits until they are ready.
    pub async fn run_all(&mut self) {
        for worker in WorkerName::ALL {
            self.run(worker).await;
        }
    }

    /// Adds an instance, to be stopped with the fleet.
    pub fn adopt(&self, instance: Instance) {
        self.workers().push(instance);
    }

    /// Removes a worker from the fleet, to be stopped or killed.
    ///
    /// # Panics
    /// Where none of this name runs.
    pub fn take(&mut self, worker: WorkerName) -> Instance {
        self.take_one(worker)
    }

    /// Drains one worker of this name while the test uses the fleet.
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

    /// Waits until nothing is left to do: the backlogs and the outbox are empty, no heal is under way,
    /// and all durable consumers have acknowledged everything.
    pub async fn until_idle(&self) {
        until("the fleet to be idle", || async {
            let left: i64 = sqlx::query_scalar(
                "select (select count(*) from brigade.outbox)
                      + (select count(*) from brigade.projection_backlog)
                      + (select count(*) from brigade.heal_backlog)
                      + (select count(*) from brigade.heals where finished_at is null)",
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

    /// Waits until a batch waits for a row that another transaction has locked.
    pub async fn until_a_row_is_waited_for(&self) {
        until("a batch that waits for a row", || async {
            let waiting = "select exists (select from pg_stat_activity
                           where datname = current_database() and query like '%load_batch%'
                           and wait_event in ('transactionid', 'tuple'))";
            sqlx::query_scalar::<_, bool>(waiting).fetch_one(&self.sql).await.ok()?.then_some(())
        })
        .await;
    }

    /// Ends a test: waits until the fleet is idle, checks every invariant, and stops the workers.
    pub async fn finish(self) {
        self.until_idle().await;
        for worker in self.workers().iter() {
            assert_eq!(worker.health.violations(), Vec::<String>::new(), "{}", worker.worker);
        }
        check::invariants(&self).await;
        for finding in Finding::ALL.iter().filter(|_| !self.expects_findings) {
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

    /// Restarts the nats-server of a single node with TLS and a certificate of this authority.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn encrypt(&mut self, authority: &Authority, expired: bool, more: &str) {
        let folder = self.nats_dir().join("nats-0");
        authority.certify(&folder, expired);
        let file = folder.join("nats-server.conf");
        let before = fs::read_to_string(&file).expect("its configuration");
        let (plain, _) = before.split_once(tls::BEGIN_TLS).unwrap_or((&before, ""));
        let text = format!("{plain}{}", tls::nats_configuration(more));
        fs::write(&file, text).expect("written");
        self.nats.restart().await.expect("it comes back");
    }
}
