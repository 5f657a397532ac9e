//! The development kit: a whole stack on this machine, the demo, the bench and chaos. Production does
//! without it.

pub mod bench;
pub mod chaos;
mod credentials;
pub mod demo;
pub mod invariants;
mod local;
pub mod proxy;
pub mod simulated_gateway;
pub mod up;
mod worker;

pub use credentials::Credentials;
pub use local::{DATABASE, LocalStack, Ports};
pub use proxy::TcpProxy;
pub use worker::{Launch, WorkerProcess};
