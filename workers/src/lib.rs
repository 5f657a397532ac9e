pub mod config;
pub mod stack;
