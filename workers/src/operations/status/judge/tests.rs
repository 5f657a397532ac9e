use super::*;
use crate::{operations::finding::sort, workers::cache_verifier::fleet_watch::Queue};

fn instance(worker: WorkerName) -> InstanceState {
    InstanceState {
        instance: format!("{worker}.1"),
        worker: worker.to_string(),
        holder: format!("{worker}.1"),
        version: "1".to_owned(),
        host: "h1".to_owned(),
        process: 7,
        running_seconds: 100.0,
        silent_seconds: 1.0,
        trouble: None,
    }
}

fn rows() -> Rows {
    Rows {
        instances: WorkerName::ALL.map(instance).to_vec(),
        queues: Vec::new(),
        leases: Vec::new(),
        shards_without_owner: 0,
        audited_seconds: None,
        heals_unfinished: 0,
        letters: Vec::new(),
    }
}

fn first(rows: &Rows, streams: &Streams) -> String {
    let mut findings = judge(Some(rows), Some(streams));
    sort(&mut findings);
    findings.first().map_or_else(String::new, |f| format!("{}: {}", f.subject, f.what))
}

#[test]
fn a_dead_worker_stands_before_one_that_is_stuck_and_that_before_one_that_lags() {
    let (mut rows, mut streams) = (rows(), Streams::default());
    assert_eq!(first(&rows, &streams), "");
    rows.letters.push(LetterCount { worker: "edge".into(), reason: "x".into(), letters: 2 });
    assert_eq!(first(&rows, &streams), "dead letters: 2 of edge: x");
    let outbox = Queue { name: QueueName::Outbox, rows: 3, oldest_seconds: 6.0 };
    rows.queues.push(outbox);
    assert_eq!(first(&rows, &streams), "outbox-relay: 3 rows of outbox, the oldest for 6 s");
    streams.consumers.push(ConsumerState {
        stream: "EVENTS".to_owned(),
        consumer: "payment-projector".to_owned(),
        pending: 4,
        oldest_seconds: 9.0,
        ..ConsumerState::default()
    });
    let stuck = "payment-projector: nobody asks for the 4 messages that wait of EVENTS, the \
                 oldest for 9 s";
    assert_eq!(first(&rows, &streams), stuck);
    rows.instances[0].trouble = Some("nats is away: refused".to_owned());
    let unready = "command-handler: not ready: nats is away: refused (process 7 on h1)";
    assert_eq!(first(&rows, &streams), unready);
    rows.instances[7].silent_seconds = 8.0;
    let dead = "edge: dead: process 7 on h1 has been silent for 8 s";
    assert_eq!(first(&rows, &streams), dead);
}

#[test]
fn one_that_never_ran_is_named_and_a_busy_consumer_lags() {
    let mut rows = rows();
    rows.instances.pop();
    let none = "edge: does not run: no instance has given a sign of life";
    assert_eq!(first(&rows, &Streams::default()), none);
    let busy = ConsumerState {
        stream: "COMMANDS".to_owned(),
        consumer: "command-handler".to_owned(),
        pending: 4,
        ack_pending: 2,
        oldest_seconds: 9.0,
        ..ConsumerState::default()
    };
    assert!(of_consumer(&busy).is_some_and(|finding| finding.what.starts_with("lags: 4")));
    let paused = ConsumerState { is_paused: true, ..busy };
    assert!(of_consumer(&paused).is_some_and(|f| f.mend.starts_with("`nats consumer resume")));
}
