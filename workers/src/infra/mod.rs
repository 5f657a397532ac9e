//! The two servers as a worker has them: connections, KV handles, leases, health and metrics.

mod context;
pub mod fail;
pub mod health;
pub mod intake;
pub mod kv;
pub mod lease;
pub mod loopback;
pub mod metrics;
pub mod nats;
pub mod plain_http;
pub mod postgres;
pub mod secret;

pub use context::Context;
pub use fail::FailPoints;
pub use health::Health;
pub use intake::Intake;
pub use kv::{Kv, KvEntry, Put, PutResult, WhenAbsent, unstamp};
pub use lease::Lease;
pub use metrics::Metrics;
pub use nats::{Nats, NatsOptions, connect_options};
pub use secret::SecretSetting;
