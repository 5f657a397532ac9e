//! Judges what was seen. Pure.

use brigade_contracts::WorkerName;

use super::{Finding, Severity};
use crate::workers::cache_verifier::fleet_watch::{
    ConsumerState, InstanceState, LetterCount, QueueName, Rows, Streams,
};

/// What waits for longer lags.
pub const LAGS_SECONDS: f64 = 5.0;
/// A lease that nobody renewed for so long has no holder.
const LEASE_SECONDS: f64 = 5.0;
/// The audit goes through everything in an hour, unless there are millions of aggregates.
pub const AUDIT_SECONDS: f64 = 24.0 * 3600.0;
/// A gateway usually tells the result of a payment within a minute.
pub const UNKNOWN_SECONDS: f64 = 60.0;
/// Money that is owed back waits for a person from its first moment.
pub const OWED_SECONDS: f64 = 0.0;

/// Of equal severity: a dead worker stands before one that is stuck, that before one that lags, and
/// that before what waits for a person.
const DEAD: u8 = 5;
const UNREADY: u8 = 4;
const STUCK: u8 = 3;
const LAGS: u8 = 2;

/// Returns what is wrong, in no order.
pub(super) fn judge(rows: Option<&Rows>, streams: Option<&Streams>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(rows) = rows {
        findings.extend(WorkerName::ALL.iter().flat_map(|worker| of_worker(rows, *worker)));
        findings.extend(of_versions(&rows.instances));
        findings.extend(of_leases(rows));
        findings.extend(of_queues(rows));
        findings.extend(of_audit(rows));
    }
    if let Some(streams) = streams {
        findings.extend(streams.consumers.iter().filter_map(of_consumer));
    }
    let none: &[LetterCount] = &[];
    let letters = rows.map_or(none, |rows| &rows.letters).iter();
    let letters = letters.chain(streams.map_or(none, |streams| &streams.letters));
    findings.extend(of_letters(letters));
    findings
}

fn of_worker(rows: &Rows, worker: WorkerName) -> Vec<Finding> {
    let name = worker.as_str();
    let alive: Vec<_> =
        rows.instances.iter().filter(|i| i.worker == name && i.is_alive()).collect();
    let missed = InstanceState::missed(&rows.instances, name);
    let mut findings = Vec::new();
    if alive.is_empty() {
        let what = match missed.first() {
            Some(last) => format!("dead: {}", silent(last)),
            None => "does not run: no instance has given a sign of life".to_owned(),
        };
        findings.push(Finding::new(Severity::Error, name, what, start(name)).ranked(DEAD));
    } else {
        for instance in missed {
            let what = format!("an instance is dead: {}; {} live", silent(instance), alive.len());
            findings.push(Finding::new(Severity::Error, name, what, start(name)).ranked(DEAD));
        }
    }
    for instance in alive {
        if let Some(why) = instance.unready() {
            let what = format!("not ready: {why} (process {})", place(instance));
            let mend = "mend what it names; its log says more";
            findings.push(Finding::new(Severity::Error, name, what, mend).ranked(UNREADY));
        }
    }
    findings
}

fn place(instance: &InstanceState) -> String {
    format!("{} on {}", instance.process, instance.host)
}

fn silent(instance: &InstanceState) -> String {
    let InstanceState { silent_seconds, .. } = instance;
    format!("process {} has been silent for {silent_seconds:.0} s", place(instance))
}

fn start(worker: &str) -> String {
    format!(
        "start it: `brigade run {worker}`; if the process is still there, its log says why it \
         hangs, or it does not reach Postgres"
    )
}

fn of_versions(instances: &[InstanceState]) -> Option<Finding> {
    let mut versions: Vec<_> =
        instances.iter().filter(|i| i.is_alive()).map(|i| &*i.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let what = || format!("the versions {} run side by side", versions.join(" and "));
    let mend = "go on with the upgrade until one version runs";
    (versions.len() > 1).then(|| Finding::new(Severity::Warning, "versions", what(), mend))
}

fn of_leases(rows: &Rows) -> Vec<Finding> {
    let mut findings = Vec::new();
    for lease in rows.leases.iter().filter(|lease| !lease.name.contains(".member.")) {
        let is_left = |seconds: &f64| lease.is_of_a_duty() && *seconds >= LEASE_SECONDS;
        let Some(seconds) = lease.expired_seconds.filter(is_left) else { continue };
        let worker = lease.name.split('.').next().unwrap_or_default();
        let what = format!("nobody does {}: its lease ended {seconds:.0} s ago", lease.name);
        let mend = format!("see what keeps {worker} from it: its /readyz and its log");
        findings.push(Finding::new(Severity::Error, worker, what, mend).ranked(STUCK));
    }
    if rows.shards_without_owner > 0 {
        let what = format!("{} of 16 shards have no relay", rows.shards_without_owner);
        let mend = "start an outbox-relay, or look at its log";
        let worker = WorkerName::OutboxRelay.as_str();
        findings.push(Finding::new(Severity::Error, worker, what, mend).ranked(STUCK));
    }
    findings
}

/// How bad it is that a queue's oldest row waits for so long, whose work it is, and what to do.
fn of_queue(name: QueueName) -> Option<(Severity, f64, &'static str, &'static str)> {
    let command_handler = WorkerName::CommandHandler.as_str();
    Some(match name {
        QueueName::Outbox => (
            Severity::Error,
            LAGS_SECONDS,
            WorkerName::OutboxRelay.as_str(),
            "see whether nats-server takes messages, then start more outbox-relays",
        ),
        QueueName::ProjectionBacklog => (
            Severity::Error,
            LAGS_SECONDS,
            command_handler,
            "see whether nats-server takes messages, then start more command-handlers",
        ),
        QueueName::HealBacklog => (
            Severity::Warning,
            60.0,
            command_handler,
            "a heal is under way; if it does not shrink, look at the log of command-handler",
        ),
        QueueName::OverdueLocks => (
            Severity::Error,
            LAGS_SECONDS,
            WorkerName::CartLockExpiry.as_str(),
            "look at the logs of cart-lock-expiry and command-handler; `brigade locks ls`",
        ),
        QueueName::OpenRefundTasks => (
            Severity::Warning,
            OWED_SECONDS,
            "money",
            "pay it back or settle it: `refund` or `settle` of the payment",
        ),
        QueueName::UnknownPayments => (
            Severity::Warning,
            UNKNOWN_SECONDS,
            "money",
            "ask the gateway what became of them, then `record_result` or `settle`",
        ),
        QueueName::Locks | QueueName::ActiveOrders => return None,
    })
}

fn of_queues(rows: &Rows) -> Vec<Finding> {
    let queues = QueueName::ALL.map(|name| rows.queue(name)).into_iter();
    let waiting = queues.filter(|queue| queue.rows > 0).filter_map(|queue| {
        let (severity, limit, subject, mend) = of_queue(queue.name)?;
        let name = queue.name.as_str().replace('_', " ");
        let what =
            format!("{} rows of {name}, the oldest for {:.0} s", queue.rows, queue.oldest_seconds);
        (queue.oldest_seconds > limit)
            .then(|| Finding::new(severity, subject, what, mend).ranked(LAGS))
    });
    waiting.collect()
}

fn of_audit(rows: &Rows) -> Vec<Finding> {
    let verifier = WorkerName::CacheVerifier.as_str();
    let mut findings = Vec::new();
    if let Some(seconds) = rows.audited_seconds.filter(|seconds| *seconds > AUDIT_SECONDS) {
        let hours = seconds / 3600.0;
        let what = format!("the audit last went through everything {hours:.0} h ago");
        let mend = "compare with brigade_audit_round_seconds; look at the log of cache-verifier";
        findings.push(Finding::new(Severity::Warning, verifier, what, mend));
    }
    if rows.heals_unfinished > 0 {
        let what = format!("{} heals are under way or wait", rows.heals_unfinished);
        let mend = "JetStream lost something; brigade_heals_total says what. It mends itself";
        findings.push(Finding::new(Severity::Warning, verifier, what, mend));
    }
    findings
}

fn of_consumer(consumer: &ConsumerState) -> Option<Finding> {
    let ConsumerState { stream, consumer: name, pending, ack_pending, oldest_seconds, .. } =
        consumer;
    // Other durables of a worker are named after it.
    let waits = pending + ack_pending;
    let (stream_of, oldest) =
        (format!("of {stream}"), format!("the oldest for {oldest_seconds:.0} s"));
    let (what, mend, rank) = if consumer.is_absent {
        let what = format!("its consumer {stream_of} does not exist");
        (what, format!("start {name}, which makes it, or run `brigade provision`"), STUCK)
    } else if consumer.is_paused {
        let what = format!("its consumer {stream_of} is paused; {waits} messages wait");
        (what, format!("`nats consumer resume {stream} {name}`"), STUCK)
    } else if *oldest_seconds <= LAGS_SECONDS {
        return None;
    } else if consumer.pulls == 0 && *pending > 0 && *ack_pending == 0 {
        let what =
            format!("nobody asks for the {pending} messages that wait {stream_of}, {oldest}");
        (what, start(name), STUCK)
    } else {
        let what = format!(
            "lags: {pending} messages {stream_of} wait and {ack_pending} are in hand, {oldest}"
        );
        let mend = format!("start one more {name}, unless its log names something that is away");
        (what, mend, LAGS)
    };
    Some(Finding::new(Severity::Error, name, what, mend).ranked(rank))
}

fn of_letters<'a>(letters: impl Iterator<Item = &'a LetterCount>) -> Vec<Finding> {
    let found = letters.map(|of| {
        let of_worker =
            if of.worker.is_empty() { String::new() } else { format!(" of {}", of.worker) };
        let what = format!("{}{of_worker}: {}", of.letters, of.reason);
        let mend = "`brigade dlq ls`, then `replay` or `drop` it";
        Finding::new(Severity::Warning, "dead letters", what, mend)
    });
    found.collect()
}

#[cfg(test)]
mod tests;
