//! What an operator sees of a fleet.

use brigade::{
    fleet::Servers,
    operations::{
        OperatorServers,
        doctor::Examined,
        finding::Finding,
        status::{Status, StatusWatch},
        trace::Tracer,
    },
};
use brigade_contracts::WorkerName;

use crate::{TestFleet, until};

/// Returns the servers as an operator reaches them.
#[must_use]
pub fn operator_servers(fleet: &TestFleet) -> OperatorServers {
    OperatorServers {
        nats_url: fleet.nats_url("operator"),
        nats: fleet.nats_options(),
        database_url: fleet.database.url.clone(),
        replicas: fleet.servers(WorkerName::Edge).replicas,
    }
}

/// Returns what a doctor examines of a fleet: its servers, and the users of all workers.
#[must_use]
pub fn examined(fleet: &TestFleet) -> Examined {
    let user = |worker| {
        let Servers { nats_url, nats, .. } = fleet.servers(worker);
        (worker, nats_url, nats)
    };
    Examined {
        servers: operator_servers(fleet),
        role_prefix: String::new(),
        workers: WorkerName::ALL.map(user).to_vec(),
        certificates: Vec::new(),
        monitoring: None,
    }
}

/// # Panics
/// Where a server cannot be reached.
pub async fn tracer(fleet: &TestFleet) -> Tracer {
    Tracer::open(&operator_servers(fleet)).await.expect("both servers")
}

/// Looks at a fleet as `brigade status --watch` does.
pub struct Watch(StatusWatch);

impl Watch {
    #[must_use]
    pub fn of(fleet: &TestFleet) -> Self {
        Self(StatusWatch::new(operator_servers(fleet)))
    }

    pub async fn look(&mut self) -> Status {
        self.0.look().await
    }

    /// Waits until nothing is wrong.
    pub async fn until_fine(&mut self) {
        self.until("nothing to be wrong", |status| status.findings.is_empty().then_some(())).await;
    }

    /// Waits until the first finding is as it should be, and returns it.
    pub async fn until_first(&mut self, what: &str, is: impl Fn(&Finding) -> bool) -> Finding {
        self.until(what, |status| status.findings.first().filter(|first| is(first)).cloned()).await
    }

    /// Waits until any finding is as it should be, and returns it.
    pub async fn until_any(&mut self, what: &str, is: impl Fn(&Finding) -> bool) -> Finding {
        self.until(what, |status| status.findings.iter().find(|f| is(f)).cloned()).await
    }

    async fn until<T>(&mut self, what: &str, found: impl Fn(&Status) -> Option<T>) -> T {
        let watch = tokio::sync::Mutex::new(&mut self.0);
        until(what, || async { found(&watch.lock().await.look().await) }).await
    }
}
