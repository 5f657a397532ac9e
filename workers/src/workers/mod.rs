//! The eight workers, a file or a folder each; `fleet::registry` lists them.

pub mod cache_verifier;
pub mod cart_lock_expiry;
pub mod command_handler;
pub mod edge;
pub mod outbox_relay;
pub mod payment_projector;
mod projector;
pub mod table_status_reconciler;
pub mod user_state_projector;
