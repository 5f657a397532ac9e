//! The commands of an operator beside the workers.

pub mod dead_letters;
pub mod doctor;
pub mod finding;
pub mod gateways;
pub mod migrate;
pub mod provision;
pub mod rebuild;
mod servers;
pub mod status;
pub mod tenants;
pub mod trace;

pub use servers::OperatorServers;
