//! The workers of brigade and what they stand on. [`registry`] is the table of contents.

pub mod cache_verifier;
pub mod cli;
pub mod command_handler;
pub mod config;
pub mod dead_letters;
pub mod domain;
pub mod edge;
pub mod migrate;
pub mod outbox_relay;
pub mod payment_projector;
pub mod provision;
pub mod registry;
pub mod runtime;
pub mod stack;
pub mod store;

pub async fn cart_lock_expiry_stub(cx: runtime::Context) -> anyhow::Result<()> {
    cx.health.moved();
    cx.drain.cancelled().await;
    Ok(())
}
