//! The development kit: a whole stack on this machine, the demo and the bench. Production does
//! without it.

pub mod bench;
mod credentials;
pub mod demo;
mod local;
pub mod up;
mod worker;

pub use credentials::Credentials;
pub use local::{DATABASE, LocalStack, Ports};
pub use worker::WorkerProcess;
