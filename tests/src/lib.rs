//! What the acceptance tests stand on: a [`Town`] is a restaurant's whole set of servers for one
//! test, real ones. Each has its own nats-server and its own database, so tests run side by side.
//!
//! Nothing sleeps: [`until`] waits for a condition and fails loudly when it does not come.

pub mod check;
pub mod deadlines;
pub mod locks;
pub mod money;
pub mod paying;
pub mod process;
pub mod producer;
pub mod proxy;
pub mod raw;
pub mod screen;
pub mod shared;
pub mod sse;
pub mod stranger;
pub mod tls;
pub mod town;
pub mod web;
pub mod workload;

use std::{
    future::Future,
    time::{Duration, Instant},
};

pub use producer::{Producer, Reply};
pub use raw::Raw;
pub use town::Town;
pub use web::{Page, Web};

/// Longest wait for anything. No test asserts a time: this only ends a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `probe` gives a value.
///
/// # Panics
/// When patience is over.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
