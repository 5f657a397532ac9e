use std::sync::Arc;

use brigade_contracts::{Era, WorkerName, topology::Topology};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{FailPoints, Health, Metrics, Nats};

/// A worker's connections, and the signal to drain.
#[derive(Clone)]
pub struct Context {
    pub worker: WorkerName,
    /// Unique to this instance: the holder of its leases.
    pub instance: Arc<str>,
    /// The era of the database; when that has another one, the worker is started again.
    pub era: Era,
    pub nats: Nats,
    /// Connects on first use; a worker without grants never uses it.
    pub postgres: PgPool,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    /// Cancelled when the worker has to drain.
    pub drain: CancellationToken,
    pub fail: FailPoints,
    /// Streams and consumers as they are declared for these servers.
    pub topology: Arc<Topology>,
}
