//! The two stores: KV, which shows, and Postgres, which decides.

pub mod carts;
pub mod kv;
pub mod lease;
pub mod locks;
pub mod orders;
pub mod payments;
pub mod postgres;
pub mod rows;
pub mod states;
pub mod tables;
#[cfg(test)]
pub mod testing;
pub mod users;

pub use kv::{Entry, Kv, Put, Stored, WhenAbsent};
pub use lease::Lease;
