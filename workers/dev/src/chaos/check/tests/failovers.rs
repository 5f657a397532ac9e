//! What may be lost by a failover, and what not.

use brigade_contracts::Era;

use super::*;
use crate::chaos::nemesis::Failover;

/// When the later era began, in milliseconds since 1970.
const LATER: u64 = 1000;

/// The primary was killed at 100; what was answered after 50 may be lost.
fn failover(loses: bool) -> Failover {
    Failover { kept: if loses { 50 } else { 100 }, killed: 100, promoted: 110 }
}

/// SQL in which `a` made version 1 of the cart before the failover, and `c` version 2 after it.
fn after(loses: bool, operations: &[Operation]) -> Evidence {
    let mut evidence = committed(&["a"], operations);
    let at = i64::try_from(LATER).expect("fits") + 5;
    let address = "cart.c1".to_owned();
    let event = CommittedEvent { address, version: 2, name: "item_added".to_owned(), at };
    evidence.add_event("t1", "c", event);
    evidence.inbox.insert(("t1".to_owned(), "c".to_owned()), anew(2));
    evidence.eras = Eras::new(vec![Era::FIRST, Era::new(LATER)], vec![failover(loses)]);
    evidence
}

fn anew(version: u64) -> ReportedOutcome {
    ReportedOutcome {
        era: Some(Era::new(LATER)),
        ..outcome(200, version, &[&format!("cart.c1@{version}")])
    }
}

fn redone(id: &str, begun: Micros, ended: Micros) -> Operation {
    command(id, begun, ended, OperationResult::Final(anew(2)))
}

fn read_of(era: Option<Era>, begun: Micros, ended: Micros, version: u64) -> Operation {
    let of = vec![KeyVersion { key: "cart.c1".to_owned(), era, version }];
    operation(Way::View, "cart.c1", begun, ended, OperationResult::Versions { status: 200, of })
}

fn found(loses: bool, operations: &[Operation]) -> String {
    let evidence = after(loses, operations);
    let mut found = super::super::reads::check(operations, &evidence, &[]);
    found.extend(super::super::outcomes::check(operations, &evidence));
    // One fault is found in several ways.
    let mut broken = invariants(&found);
    broken.dedup();
    broken.join(" ")
}

#[test]
fn what_an_asynchronous_standby_lacks_may_be_lost() {
    let lost = done("b", 60, 70, 2);
    assert_eq!(found(true, &[done("a", 0, 10, 1), lost.clone()]), "");
    assert_eq!(
        found(false, std::slice::from_ref(&lost)),
        "I-1",
        "a synchronous one has everything"
    );
    assert_eq!(found(true, &[done("b", 30, 40, 2)]), "I-1", "it was answered before");
    assert_eq!(found(true, &[done("b", 120, 130, 2)]), "I-1", "it was sent after");
    assert_eq!(found(true, &[lost, redone("c", 120, 130)]), "", "the number is given again");
}

#[test]
fn nothing_of_the_former_era_is_shown_in_the_later_one() {
    let (first, later) = (Some(Era::FIRST), Some(Era::new(LATER)));
    let lost = || done("b", 60, 70, 2);
    assert_eq!(found(true, &[lost(), read_of(later, 120, 130, 1)]), "", "SQL has forgotten b");
    assert_eq!(found(true, &[lost(), read_of(first, 120, 130, 2)]), "I-5 I-1");
    assert_eq!(found(true, &[done("a", 0, 10, 1), read_of(first, 120, 130, 1)]), "I-5", "a 304");
    assert_eq!(found(true, &[redone("c", 120, 130), read_of(later, 140, 150, 1)]), "I-5");
    // What was kept is seen again.
    let kept = || done("a", 0, 10, 1);
    assert_eq!(found(true, &[kept(), read_of(None, 120, 130, 0)]), "I-5", "a 404");
    assert_eq!(found(true, &[kept(), read_of(None, 90, 130, 0)]), "", "either of two eras");
    assert_eq!(found(true, &[kept(), read_of(None, 60, 90, 0)]), "I-5", "before the failover");
}

#[test]
fn a_version_goes_down_only_where_all_is_told_anew() {
    let told = |way, verb: &str, at, era, version| {
        let of = vec![KeyVersion { key: "order.o1#core".to_owned(), era, version }];
        let answer = OperationResult::Versions { status: 200, of };
        Operation { verb: verb.into(), ..operation(way, "order.o1#core", at, at, answer) }
    };
    let stream = |verb, at, version| told(Way::Stream, verb, at, None, version);
    assert_eq!(found(true, &[stream("told", 60, 3), stream("told anew", 120, 2)]), "");
    assert_eq!(found(true, &[stream("told", 60, 3), stream("told", 120, 2)]), "I-6");
    assert_eq!(found(true, &[stream("told anew", 60, 3), stream("told anew", 90, 2)]), "I-6");
    let push = |at, era, version| told(Way::Push, "told", at, Some(Era::new(era)), version);
    assert_eq!(found(true, &[push(60, 1, 3), push(120, LATER, 2)]), "");
    assert_eq!(found(true, &[push(120, LATER, 2), push(130, 1, 3)]), "I-6");
}

#[test]
fn a_failover_without_an_era_is_found() {
    let mut evidence = after(true, &[]);
    evidence.eras = Eras::new(vec![Era::FIRST], vec![failover(true)]);
    assert_eq!(invariants(&super::super::reads::check(&[], &evidence, &[])), ["I-5"]);
}
