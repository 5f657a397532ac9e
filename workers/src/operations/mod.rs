//! What an operator does beside the workers.

pub mod dead_letters;
pub mod migrate;
pub mod provision;
