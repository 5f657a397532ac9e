use brigade_domain::LockPolicy;

use crate::runtime::http::Api;

/// Where a worker connects to, URLs with the worker's own user, and the few settings that workers
/// have.
#[derive(Clone)]
pub struct Servers {
    pub nats_url: String,
    pub postgres_url: String,
    /// Of each stream: 1, or 3 on a cluster.
    pub replicas: u8,
    pub lock_policy: LockPolicy,
    /// Of table-status-reconciler.
    pub dry_run: bool,
    /// Of edge.
    pub http: Api,
    /// Of edge: rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
}
