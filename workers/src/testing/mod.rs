//! The test kit: real servers for the unit tests here and for the acceptance tests in `tests/`.
//!
//! All tests of a process share one Postgres, with a template database that has schema and roles.
//! A [`TestDatabase`] is a copy of it. [`TestServers`] are such a database and a nats-server of
//! the test's own, with all users and streams. A test that stops or kills Postgres starts one of
//! its own.
//!
//! Nothing sleeps: [`until`] waits for a condition and fails loudly when it does not come.

mod database;
pub mod decoders;
mod domain;
mod servers;
mod shared;
pub mod tls;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;
use brigade_servers::NatsServer;
use tempfile::TempDir;

use crate::fleet::Instance;

pub use database::TestDatabase;
pub use servers::{NO_PUSH_USER, SUPERUSER, TENANT_SUPERUSER, TENANTS, TestServers, Trust};
pub use shared::{TEMPLATE, binaries};

/// Longest wait for a condition. No test asserts a time: this only ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two probes of a condition.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `probe` returns a value, and returns it.
///
/// # Panics
/// After [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(
    condition: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {condition}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a worker is ready.
///
/// # Panics
/// After [`PATIENCE`], with the reason why it is not ready.
pub async fn until_ready(instance: &Instance) {
    let start = Instant::now();
    while let Err(why) = instance.health.ready() {
        assert!(start.elapsed() < PATIENCE, "{} is not ready: {why}", instance.worker);
        tokio::time::sleep(POLL).await;
    }
}

/// Starts a nats-server without streams, with this configuration on top of its own (see
/// [`NatsServer::start`]). Its data goes with the folder.
///
/// # Errors
/// Where it cannot be found or started.
pub async fn nats_server(configuration: &str) -> Result<(NatsServer, TempDir)> {
    let dir = tempfile::tempdir()?;
    let server = NatsServer::start(&binaries().nats_server, dir.path(), 0, configuration).await?;
    Ok((server, dir))
}
