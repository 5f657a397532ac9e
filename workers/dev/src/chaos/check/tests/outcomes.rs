use super::*;

#[test]
fn an_outcome_that_changes_or_is_not_in_sql_is_found() {
    let check = |operations: &[Operation], ids: &[&str]| {
        invariants(&super::super::outcomes::check(operations, &committed(ids, operations)))
            .join(" ")
    };
    assert_eq!(check(&[done("a", 0, 9, 1), done("a", 20, 30, 1)], &["a"]), "");
    assert_eq!(check(&[done("a", 0, 9, 1), done("a", 20, 30, 2)], &["a"]), "I-1", "it changed");
    assert_eq!(check(&[done("a", 0, 9, 1)], &[]), "I-1", "SQL does not know it");
    assert_eq!(check(&[done("a", 0, 9, 2)], &["a"]), "I-1", "SQL knows another one");
}

#[test]
fn an_effect_that_is_missing_or_there_twice_is_found() {
    let operations = [done("a", 0, 9, 1)];
    let mut evidence = committed(&["a"], &operations);
    assert!(super::super::outcomes::check(&operations, &evidence).is_empty());
    let twice =
        CommittedEvent { address: "cart.c1".to_owned(), version: 2, name: String::new(), at: 0 };
    evidence.add_event("t1", "a", twice);
    assert_eq!(
        invariants(&super::super::outcomes::check(&operations, &evidence)),
        ["I-1"],
        "twice"
    );
    let mut evidence = committed(&["a"], &operations);
    evidence.events.clear();
    assert_eq!(
        invariants(&super::super::outcomes::check(&operations, &evidence)),
        ["I-1"],
        "not at all"
    );
    let refused = [command("a", 0, 9, OperationResult::Final(outcome(409, 1, &[])))];
    let mut evidence = committed(&["a"], &refused);
    evidence.inbox.insert(("t1".to_owned(), "a".to_owned()), outcome(409, 1, &[]));
    assert_eq!(
        invariants(&super::super::outcomes::check(&refused, &evidence)),
        ["I-1"],
        "although refused"
    );
}

#[test]
fn a_stored_command_without_a_trace_is_found_unless_its_stream_was_lost() {
    let stored = OperationResult::Stored { stream: "COMMANDS".to_owned(), sequence: 7 };
    let operations = [command("a", 0, 9, stored)];
    let mut evidence = committed(&[], &operations);
    assert_eq!(invariants(&super::super::outcomes::check(&operations, &evidence)), ["I-1"]);
    evidence.lost = vec![("EVENTS".to_owned(), 0, 100)];
    assert_eq!(
        invariants(&super::super::outcomes::check(&operations, &evidence)),
        ["I-1"],
        "another stream"
    );
    evidence.lost = vec![("COMMANDS".to_owned(), 50, 100)];
    assert_eq!(
        invariants(&super::super::outcomes::check(&operations, &evidence)),
        ["I-1"],
        "it lost later ones"
    );
    evidence.lost = vec![("*".to_owned(), 0, 100)];
    assert!(super::super::outcomes::check(&operations, &evidence).is_empty());
    evidence.lost.clear();
    evidence.letters.insert(("t1".to_owned(), "a".to_owned()), 1);
    assert!(
        super::super::outcomes::check(&operations, &evidence).is_empty(),
        "it is a dead letter"
    );
    let mut decided = committed(&["a"], &operations);
    decided.letters = evidence.letters;
    assert_eq!(
        invariants(&super::super::outcomes::check(&operations, &decided)),
        ["I-14"],
        "and done"
    );
    let not_sure = [command("a", 0, 9, OperationResult::NotSure(503, String::new()))];
    assert!(super::super::outcomes::check(&not_sure, &committed(&[], &not_sure)).is_empty());
}
