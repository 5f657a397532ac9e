//! The kit of the acceptance tests: a [`TestFleet`] is the servers of one test, real ones, and the
//! workers on them. Each has its own nats-server and its own database, so tests run side by side.
//!
//! The servers are those of [`brigade::testing`], which the unit tests use as well. What stands
//! here looks at a fleet from outside: clients that know only the contract, faults, and the
//! invariants that hold after each test.

pub mod check;
pub mod deadlines;
pub mod deploy;
pub mod gateway;
pub mod http_client;
pub mod interop;
pub mod locks;
pub mod money;
pub mod operators;
pub mod paying;
pub mod polled_orders;
pub mod previous;
pub mod process;
pub mod producer;
pub mod production;
pub mod prometheus;
pub mod promql;
pub mod raw_client;
pub mod sse;
pub mod test_fleet;
pub mod tls;
pub mod workload;

pub use brigade::testing::{
    NO_PUSH_USER, PATIENCE, SUPERUSER, TENANT_SUPERUSER, TENANTS, Trust, binaries, until,
    until_ready,
};
pub use brigade_dev::proxy;
pub use http_client::{HttpClient, HttpResponse};
pub use producer::{Producer, Reply};
pub use raw_client::RawClient;
pub use test_fleet::TestFleet;
