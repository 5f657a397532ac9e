//! What operators did with dead letters.

use super::*;
use crate::chaos::{check::letters::ArchivedReplays, workload::OperatorRun};

fn run(begun: Micros, done: &[&str]) -> OperatorRun {
    OperatorRun {
        action: "replayed",
        tenant: "t1",
        begun,
        ended: begun + 10,
        done: done.iter().map(|number| (*number).to_owned()).collect(),
        refused: 0,
    }
}

/// SQL that has recorded the replay of letter 7.
fn recorded() -> Evidence {
    let mut evidence = Evidence::default();
    evidence.dealt_with.insert(("7".to_owned(), "replayed"));
    evidence
}

fn found(runs: &[OperatorRun], operations: &[Operation], evidence: &Evidence) -> String {
    invariants(&super::super::letters::check(runs, operations, evidence)).join(" ")
}

#[test]
fn a_letter_that_is_replayed_twice_or_not_recorded_is_found() {
    assert_eq!(found(&[run(0, &["7"]), run(50, &[])], &[], &recorded()), "");
    assert_eq!(found(&[run(0, &["7"]), run(50, &["7"])], &[], &recorded()), "I-14", "twice");
    assert_eq!(found(&[run(0, &["7"])], &[], &Evidence::default()), "I-14", "not recorded");
    let mut lost = recorded();
    lost.lost = vec![("DLQ".to_owned(), 0, 20)];
    assert_eq!(found(&[run(0, &["7"]), run(50, &["7"])], &[], &lost), "", "another letter");
}

#[test]
fn a_command_that_is_sent_more_often_than_recorded_is_found() {
    let check = |copies, maybe_repeated| {
        let stored = OperationResult::Stored { stream: "COMMANDS".to_owned(), sequence: 7 };
        let sent = Operation { way: Way::Durable, ..command("a", 0, 9, stored) };
        let replays = ArchivedReplays { letters: 1, maybe_repeated, copies };
        let mut evidence = recorded();
        evidence.replays.insert(("t1".to_owned(), "a".to_owned()), replays);
        found(&[], &[sent], &evidence)
    };
    assert_eq!(check(2, 0), "", "sent once, replayed once");
    assert_eq!(check(3, 0), "I-14");
    assert_eq!(check(3, 1), "", "its operator was interrupted");
}
