//! The table of contents: every worker, by its name.

use std::{future::Future, pin::Pin};

use brigade_contracts::WorkerName;

use crate::{
    cache_verifier, cart_lock_expiry, command_handler, edge, outbox_relay, payment_projector,
    runtime::Context, table_status_reconciler, user_state_projector,
};

type Run = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A worker: its name and the function that runs it until it has drained.
pub struct Entry {
    pub name: WorkerName,
    pub run: fn(Context) -> Run,
}

macro_rules! entry {
    ($name:ident, $run:path) => {
        Entry { name: WorkerName::$name, run: |cx| Box::pin($run(cx)) }
    };
}

pub static WORKERS: &[Entry] = &[
    entry!(CommandHandler, command_handler::run),
    entry!(OutboxRelay, outbox_relay::run),
    entry!(PaymentProjector, payment_projector::run),
    entry!(UserStateProjector, user_state_projector::run),
    entry!(CartLockExpiry, cart_lock_expiry::run),
    entry!(TableStatusReconciler, table_status_reconciler::run),
    entry!(CacheVerifier, cache_verifier::run),
    entry!(Edge, edge::run),
];

/// The entry of a worker.
///
/// # Panics
/// Never: a test holds the table against the names.
#[must_use]
pub fn find(name: WorkerName) -> &'static Entry {
    WORKERS.iter().find(|entry| entry.name == name).expect("every worker is registered")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_registered_once() {
        let names: Vec<_> = WORKERS.iter().map(|entry| entry.name).collect();
        assert_eq!(names, WorkerName::ALL);
    }
}
