use std::{
    mem,
    time::{Duration, Instant},
};

use brigade_contracts::WorkerName;

use crate::runtime::Delivery;

/// Least time between two log lines about messages that will be retried.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The messages of a batch that are in hand after it.
#[derive(Default)]
pub(super) struct Remaining {
    /// Messages that a dependency was away for.
    pub(super) away: Vec<Delivery>,
    /// Messages that need what somebody else has locked, with its name.
    pub(super) held: Vec<(Delivery, String)>,
    /// All messages of a batch that panicked.
    pub(super) panicked: Vec<Delivery>,
    /// Messages that failed. They are not in hand any more, and are only logged.
    pub(super) failures: FailureLog,
}

/// Messages that will be retried. They may be many, each many times, so one line a second reports
/// all of them.
#[derive(Default)]
pub(super) struct FailureLog {
    count: u64,
    /// The subject of the last one, and why it failed.
    last: Option<(String, String)>,
    logged: Option<Instant>,
}

impl FailureLog {
    pub(super) fn add(&mut self, worker: WorkerName, delivery: &Delivery, reason: &str) {
        let subject = delivery.subject();
        tracing::debug!(%worker, subject, reason, "failed");
        self.count += 1;
        self.last = Some((subject.to_owned(), reason.to_owned()));
    }

    pub(super) fn merge(&mut self, more: Self) {
        self.count += more.count;
        self.last = more.last.or(self.last.take());
    }

    /// Logs the failures so far, unless the last line is too young.
    pub(super) fn log(&mut self, worker: WorkerName) {
        if self.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            return;
        }
        let Some((subject, reason)) = self.last.take() else { return };
        let count = mem::take(&mut self.count);
        tracing::warn!(%worker, count, subject, reason, "messages failed and will be retried");
        self.logged = Some(Instant::now());
    }
}
