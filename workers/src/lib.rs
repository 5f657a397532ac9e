//! The workers of brigade and the layers below them, from the top down; no layer knows one above
//! it:
//!
//! - [`fleet`]: which workers there are, their settings, and how a process runs them;
//! - [`operations`]: what an operator does beside them: schema, streams, dead letters;
//! - [`workers`]: the eight workers;
//! - [`runtime`]: what every worker does alike: consuming, verdicts, dead letters, serving HTTP;
//! - [`infra`]: connections to NATS and Postgres, KV, leases, health, metrics;
//! - [`store`]: rows of each aggregate in SQL;
//! - `brigade_domain`: the rules, without I/O; and `brigade_contracts`: what the outside sees.

pub mod fleet;
pub mod infra;
pub mod operations;
pub mod runtime;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod workers;
