use std::path::PathBuf;

use brigade_domain::LockPolicy;

use crate::{infra::NatsOptions, runtime::http::ApiOptions};

/// The servers of a worker, with its own user on both, and its settings.
#[derive(Clone)]
pub struct Servers {
    pub nats_url: String,
    pub nats: NatsOptions,
    pub postgres_url: String,
    /// A file with the URL of Postgres, whose user and password count from then on.
    pub postgres_url_file: Option<PathBuf>,
    /// The number of replicas of each stream: 1, or 3 on a cluster.
    pub replicas: u8,
    pub settings: Settings,
}

/// The settings that workers have; each belongs to one or two of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time that locks live, for command-handler and edge.
    pub lock_policy: LockPolicy,
    /// cart-lock-expiry abandons an open cart that nobody changes after so many hours; 0: never.
    pub idle_cart_hours: u16,
    /// table-status-reconciler counts and logs, and sends nothing.
    pub dry_run: bool,
    /// The address of edge's HTTP API, and its limits.
    pub http: ApiOptions,
    /// edge keeps rows of lists in memory; else it reads each from SQL.
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
