//! The two stores: KV, which shows, and Postgres, which decides.

pub mod kv;
pub mod lease;
pub mod postgres;

pub use kv::{Entry, Kv, Put, Stored, WhenAbsent};
pub use lease::Lease;
