use brigade_domain::LockPolicy;

use crate::runtime::http::ApiOptions;

/// Where a worker connects to, with its own user on both servers.
#[derive(Clone)]
pub struct Servers {
    pub nats_url: String,
    pub postgres_url: String,
    /// Of each stream: 1, or 3 on a cluster.
    pub replicas: u8,
    pub settings: Settings,
}

/// The settings that workers have; each belongs to one or two of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of command-handler and edge: how long locks live.
    pub lock_policy: LockPolicy,
    /// Of cart-lock-expiry: after how many hours an open cart that nobody changes is abandoned; 0:
    /// never.
    pub idle_cart_hours: u16,
    /// Of table-status-reconciler: it counts and logs, and sends nothing.
    pub dry_run: bool,
    /// Of edge: where and how the API is served.
    pub http: ApiOptions,
    /// Of edge: rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lock_policy: LockPolicy::default(),
            idle_cart_hours: 7 * 24,
            dry_run: false,
            http: ApiOptions::default(),
            list_cache: true,
        }
    }
}
