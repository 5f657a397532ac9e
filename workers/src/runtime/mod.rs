//! What every worker stands on, with the rules that hold for all of them:
//!
//! 1. A worker is a function `run(Context)` that returns when it has drained. `registry`
//!    lists them; [`fleet`] starts them, each with connections and credentials of its own.
//! 2. A consuming worker turns a batch of messages into [`Verdict`]s, and nothing else: only
//!    [`consume`] acknowledges, delays, dead-letters and keeps messages alive.
//! 3. Every step may be repeated. A message is acknowledged after everything that it causes is
//!    durable, so a crash at any point means a repetition, never a loss.
//! 4. A dependency that is away is no failure of a message: [`Verdict::Away`] keeps it in hand. Nor
//!    is a lock that somebody else holds: [`Verdict::Held`] puts it aside, where it waits alone.
//! 5. Drain ([`Context::drain`]): stop taking, finish what is in hand, acknowledge, return.
//! 6. [`Health`] tells the progress of each duty: a worker one of whose duties hangs is not ready, and
//!    is started again with new connections. Nothing waits for a server without a limit.
//! 7. A duty that needs NATS is left to others while NATS is away ([`Lease::hold`]).
//!
//! [`Lease::hold`]: crate::store::Lease::hold

pub mod connect;
pub mod consume;
pub mod dead_letter;
pub mod delivery;
pub mod fail;
pub mod fleet;
pub mod health;
pub mod http;
pub mod intake;
pub mod metrics;
pub mod supervise;
pub mod verdict;

use std::sync::Arc;

use brigade_contracts::{WorkerName, topology::Topology};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::domain::LockPolicy;

pub use connect::Nats;
pub use consume::{Handler, Refused, Source, Turn, consume};
pub use delivery::Delivery;
pub use fail::FailPoints;
pub use health::Health;
pub use intake::Intake;
pub use metrics::Metrics;
pub use verdict::Verdict;

/// What a worker gets: its connections, and how it is told to stop.
#[derive(Clone)]
pub struct Context {
    pub worker: WorkerName,
    /// Unique to this instance: the holder of its leases.
    pub instance: Arc<str>,
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
    /// How long locks live.
    pub lock_policy: LockPolicy,
    /// Of cart-lock-expiry: after how many hours an open cart that nobody changes is abandoned; 0:
    /// never.
    pub idle_cart_hours: u16,
    /// Of table-status-reconciler: it sends nothing.
    pub dry_run: bool,
    /// Of edge: where and how its API is served.
    pub http: http::Api,
    /// Of edge: rows of lists are kept in memory; else each is read from SQL.
    pub list_cache: bool,
}
