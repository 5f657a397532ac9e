//! The table of contents: every worker, by its name.

use std::{future::Future, pin::Pin};

use anyhow::Context as _;
use brigade_contracts::WorkerName;

use super::Settings;
use crate::{
    infra::Context,
    operations::dead_letters::jobs,
    workers::{
        cache_verifier, cart_lock_expiry, command_handler, edge, outbox_relay, payment_projector,
        table_status_reconciler, user_state_projector,
    },
};

type RunningWorker = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A worker: its name and the function that runs it until it has drained.
pub struct RegisteredWorker {
    pub name: WorkerName,
    pub run: fn(Context, &Settings) -> RunningWorker,
}

macro_rules! entry {
    ($name:ident, $module:ident) => {
        RegisteredWorker { name: WorkerName::$name, run: |cx, _| Box::pin($module::run(cx)) }
    };
    ($name:ident, $module:ident, |$all:ident| $settings:expr) => {
        RegisteredWorker {
            name: WorkerName::$name,
            run: |cx, $all| Box::pin($module::run(cx, $settings)),
        }
    };
}

pub static WORKERS: &[RegisteredWorker] = &[
    RegisteredWorker {
        name: WorkerName::CommandHandler,
        run: |cx, settings| {
            // It works off what operators leave to it, beside its own duties.
            let jobs = jobs::keep(cx.clone());
            Box::pin(command_handler::run(cx, settings.lock_policy.clone(), jobs))
        },
    },
    entry!(OutboxRelay, outbox_relay),
    entry!(PaymentProjector, payment_projector),
    entry!(UserStateProjector, user_state_projector),
    entry!(CartLockExpiry, cart_lock_expiry, |settings| settings.idle_cart_hours),
    entry!(TableStatusReconciler, table_status_reconciler, |settings| settings.dry_run),
    entry!(CacheVerifier, cache_verifier),
    entry!(Edge, edge, |settings| edge::EdgeOptions {
        http: settings.http.clone(),
        list_cache: settings.list_cache,
        lock_policy: settings.lock_policy.clone(),
    }),
];

/// The entry of a worker.
///
/// # Panics
/// Never: a test holds the table against the names.
#[must_use]
pub fn find(name: WorkerName) -> &'static RegisteredWorker {
    WORKERS.iter().find(|entry| entry.name == name).expect("every worker is registered")
}

/// Returns the workers of a list of names, each once; `all` stands for every one.
///
/// # Errors
/// If a name is none of a worker's.
pub fn parse(names: &[String]) -> anyhow::Result<Vec<WorkerName>> {
    if names.iter().any(|name| name == "all") {
        return Ok(WorkerName::ALL.to_vec());
    }
    let mut workers = Vec::new();
    for name in names {
        let worker =
            name.parse().map_err(anyhow::Error::msg).context("see `brigade run --help`")?;
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }
    Ok(workers)
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
