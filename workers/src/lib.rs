//! The workers of brigade and what they stand on. [`registry`] is the table of contents.

pub mod cache_verifier;
pub mod cart_lock_expiry;
pub mod cli;
pub mod command_handler;
pub mod config;
pub mod dead_letters;
pub mod domain;
pub mod edge;
pub mod migrate;
pub mod outbox_relay;
pub mod payment_projector;
pub mod projector;
pub mod provision;
pub mod registry;
pub mod runtime;
pub mod stack;
pub mod store;
pub mod table_status_reconciler;
pub mod user_state_projector;
