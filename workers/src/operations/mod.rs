//! The commands of an operator beside the workers.

pub mod dead_letters;
pub mod gateways;
pub mod migrate;
pub mod provision;
pub mod rebuild;
pub mod tenants;
