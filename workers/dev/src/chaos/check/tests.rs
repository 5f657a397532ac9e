//! Each checker finds its violation, and nothing in a history without one.

use super::{evidence::CommittedEvent, *};
use crate::chaos::{
    history::{Micros, OperationResult, ReportedOutcome, Way},
    nemesis::Blow,
    workload::GatewayFact,
};

/// An operation of client 1 of the tenant t1.
fn operation(
    way: Way,
    key: &str,
    begun: Micros,
    ended: Micros,
    answer: OperationResult,
) -> Operation {
    Operation {
        client: 1,
        way,
        tenant: "t1".into(),
        key: key.into(),
        verb: "set_item".into(),
        command_id: None,
        token: None,
        begun,
        ended,
        answer,
    }
}

fn read(key: &str, begun: Micros, ended: Micros, version: u64) -> Operation {
    let answer = OperationResult::Versions { status: 200, of: vec![(key.to_owned(), version)] };
    operation(Way::View, key, begun, ended, answer)
}

fn outcome(status: u16, version: u64, effects: &[&str]) -> ReportedOutcome {
    ReportedOutcome {
        status,
        code: if status < 300 { "ok" } else { "refused" }.to_owned(),
        version: Some(version),
        effects: effects.iter().map(|effect| (*effect).to_owned()).collect(),
        ..ReportedOutcome::default()
    }
}

/// A command `id` of the cart c1.
fn command(id: &str, begun: Micros, ended: Micros, answer: OperationResult) -> Operation {
    let command_id = Some(id.into());
    Operation { command_id, ..operation(Way::Request, "cart.c1", begun, ended, answer) }
}

fn done(id: &str, begun: Micros, ended: Micros, version: u64) -> Operation {
    let effect = format!("cart.c1@{version}");
    command(id, begun, ended, OperationResult::Final(outcome(200, version, &[&effect])))
}

/// SQL in which each of these commands made the next version of the cart c1.
fn committed(ids: &[&str], operations: &[Operation]) -> Evidence {
    let mut evidence = Evidence::default();
    for (id, version) in ids.iter().zip(1..) {
        let address = "cart.c1".to_owned();
        evidence.add_event(
            "t1",
            id,
            CommittedEvent { address, version, name: "item_added".to_owned() },
        );
        let effect = format!("cart.c1@{version}");
        let stored = outcome(200, version, &[&effect]);
        evidence.inbox.insert(("t1".to_owned(), (*id).to_owned()), stored);
    }
    operations.iter().for_each(|operation| evidence.see(operation));
    evidence
}

fn invariants(findings: &[ChaosFinding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.invariant.as_str()).collect()
}

#[test]
fn a_stale_answer_is_found() {
    let reads = |second: Operation| {
        let operations = [done("a", 0, 10, 1), done("b", 20, 30, 2), second];
        let evidence = committed(&["a", "b"], &operations);
        let found = reads::check(&operations, &evidence, &[]);
        invariants(&found).join(" ")
    };
    assert_eq!(reads(read("cart.c1", 31, 40, 1)), "I-5", "b was answered before");
    assert_eq!(reads(read("cart.c1", 29, 40, 1)), "", "b was not answered yet");
    assert_eq!(reads(read("cart.c1", 31, 40, 2)), "");
    assert_eq!(reads(read("cart.c1", 31, 40, 0)), "I-5", "not found is the oldest of all");
    let unchanged = OperationResult::Versions { status: 304, of: vec![("cart.c1".to_owned(), 1)] };
    assert_eq!(reads(operation(Way::HttpView, "cart.c1", 31, 40, unchanged)), "I-5", "a 304");
}

#[test]
fn an_older_answer_than_somebody_elses_is_found() {
    let operations = [
        done("a", 0, 9, 1),
        done("b", 10, 99, 2),
        read("cart.c1", 20, 30, 2),
        read("cart.c1", 31, 40, 1),
    ];
    let evidence = committed(&["a", "b"], &operations);
    assert_eq!(invariants(&reads::check(&operations, &evidence, &[])), ["I-5"]);
}

#[test]
fn a_version_that_was_never_committed_or_not_even_sent_is_found() {
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2)];
    let found = reads::check(&operations, &committed(&["a"], &operations), &[]);
    assert_eq!(invariants(&found), ["I-1"]);
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2), done("b", 40, 50, 2)];
    let found = reads::check(&operations, &committed(&["a", "b"], &operations), &[]);
    assert_eq!(invariants(&found), ["I-5"]);
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2), done("b", 29, 50, 2)];
    assert!(reads::check(&operations, &committed(&["a", "b"], &operations), &[]).is_empty());
}

#[test]
fn an_effect_on_another_aggregate_is_known_as_well() {
    let recorded = ReportedOutcome { version: None, ..outcome(200, 1, &["cart.c1@3"]) };
    let paid = command("a", 0, 10, OperationResult::Final(recorded));
    let paid = Operation { key: "payment.p1".into(), ..paid };
    let operations = [paid, read("cart.c1", 20, 30, 2)];
    let evidence = committed(&["x", "y", "a"], &operations);
    assert_eq!(invariants(&reads::check(&operations, &evidence, &[])), ["I-5"]);
}

#[test]
fn a_push_that_goes_down_is_found_by_client_and_key() {
    let push = |client, at, version| {
        let of = vec![("cart.c1".to_owned(), version)];
        let answer = OperationResult::Versions { status: 200, of };
        Operation { client, ..operation(Way::Push, "cart.c1", at, at, answer) }
    };
    let check = |operations: &[Operation]| {
        invariants(&reads::check(operations, &committed(&["a", "b"], operations), &[])).join(" ")
    };
    assert_eq!(check(&[push(1, 1, 2), push(1, 2, 1)]), "I-6");
    assert_eq!(check(&[push(1, 1, 2), push(2, 2, 1), push(1, 3, 2)]), "");
}

#[test]
fn an_answer_before_its_projection_is_found_unless_something_was_broken() {
    let kv = |version| Operation { way: Way::Kv, ..read("cart.c1", 20, 30, version) };
    let check = |version, blows: &[Blow]| {
        let operations = [done("a", 0, 10, 1), kv(version)];
        let evidence = committed(&["a"], &operations);
        invariants(&reads::check(&operations, &evidence, blows)).join(" ")
    };
    assert_eq!(check(0, &[]), "I-4");
    assert_eq!(check(1, &[]), "");
    let broken = Blow {
        fault: crate::chaos::nemesis::parse(&["kill_nats".to_owned()]).expect("a fault")[0],
        detail: String::new(),
        struck: 5,
        mended: 6,
        over: 7,
        lost: Vec::new(),
        recovery: None,
    };
    assert_eq!(check(0, &[broken]), "");
}

#[test]
fn an_order_that_is_missing_in_a_list_is_found() {
    let placed = |verb: &str, begun, ended| {
        let key = "order.o1";
        let answer = OperationResult::Final(outcome(200, 1, &[]));
        let of = operation(Way::Request, key, begun, ended, answer);
        Operation { verb: verb.into(), command_id: Some(verb.into()), ..of }
    };
    let list = |rows: &[&str]| {
        let of = rows.iter().map(|row| ((*row).to_owned(), 1)).collect();
        operation(Way::List, "list", 20, 30, OperationResult::Versions { status: 200, of })
    };
    let check = |operations: &[Operation]| {
        let mut evidence = Evidence::default();
        let event =
            CommittedEvent { address: "order.o1".to_owned(), version: 9, name: String::new() };
        evidence.add_event("t1", "place", event);
        invariants(&reads::check(operations, &evidence, &[])).join(" ")
    };
    assert_eq!(check(&[placed("place", 0, 10), list(&[])]), "I-5");
    assert_eq!(check(&[placed("place", 0, 10), list(&["order.o1#core"])]), "");
    assert_eq!(check(&[placed("place", 0, 21), list(&[])]), "", "not known before");
    assert_eq!(check(&[placed("place", 0, 10), placed("cancel", 25, 99), list(&[])]), "");
    assert_eq!(check(&[placed("place", 0, 10), placed("cancel", 31, 99), list(&[])]), "I-5");
}

#[test]
fn an_outcome_that_changes_or_is_not_in_sql_is_found() {
    let check = |operations: &[Operation], ids: &[&str]| {
        invariants(&outcomes::check(operations, &committed(ids, operations))).join(" ")
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
    assert!(outcomes::check(&operations, &evidence).is_empty());
    let twice =
        CommittedEvent { address: "cart.c1".to_owned(), version: 2, name: "item_added".to_owned() };
    evidence.add_event("t1", "a", twice);
    assert_eq!(invariants(&outcomes::check(&operations, &evidence)), ["I-1"], "twice");
    let mut evidence = committed(&["a"], &operations);
    evidence.events.clear();
    assert_eq!(invariants(&outcomes::check(&operations, &evidence)), ["I-1"], "not at all");
    let refused = [command("a", 0, 9, OperationResult::Final(outcome(409, 1, &[])))];
    let mut evidence = committed(&["a"], &refused);
    evidence.inbox.insert(("t1".to_owned(), "a".to_owned()), outcome(409, 1, &[]));
    assert_eq!(invariants(&outcomes::check(&refused, &evidence)), ["I-1"], "although refused");
}

#[test]
fn a_stored_command_without_a_trace_is_found_unless_its_stream_was_lost() {
    let stored = OperationResult::Stored { stream: "COMMANDS".to_owned(), sequence: 7 };
    let operations = [command("a", 0, 9, stored)];
    let mut evidence = committed(&[], &operations);
    assert_eq!(invariants(&outcomes::check(&operations, &evidence)), ["I-1"]);
    evidence.lost = vec![("EVENTS".to_owned(), 100)];
    assert_eq!(invariants(&outcomes::check(&operations, &evidence)), ["I-1"], "another stream");
    evidence.lost = vec![("*".to_owned(), 100)];
    assert!(outcomes::check(&operations, &evidence).is_empty());
    evidence.lost.clear();
    evidence.letters.insert(("t1".to_owned(), "a".to_owned()), 1);
    assert!(outcomes::check(&operations, &evidence).is_empty(), "it is a dead letter");
    let mut decided = committed(&["a"], &operations);
    decided.letters = evidence.letters;
    assert_eq!(invariants(&outcomes::check(&operations, &decided)), ["I-14"], "and done");
    let not_sure = [command("a", 0, 9, OperationResult::NotSure(503, String::new()))];
    assert!(outcomes::check(&not_sure, &committed(&[], &not_sure)).is_empty());
}

/// A change of ada's lock: the verb, the version of the lock, the token that it gave or showed.
fn of_lock(verb: &str, begun: Micros, ended: Micros, version: u64, token: i64) -> Operation {
    let effect = format!("lock.ada@{version}");
    let given = ["lock", "initiate"].contains(&verb).then_some(token);
    let outcome = ReportedOutcome { token: given, ..outcome(200, 1, &[&effect]) };
    let id = format!("{verb}-{begun}");
    let shown = (verb != "lock").then_some(token);
    let verb = verb.into();
    Operation { verb, token: shown, ..command(&id, begun, ended, OperationResult::Final(outcome)) }
}

#[test]
fn a_history_of_locks_that_cannot_be_is_found() {
    let check = |operations: &[Operation]| locks::check(operations).len();
    let first = || of_lock("lock", 0, 10, 1, 5);
    assert_eq!(
        check(&[first(), of_lock("unlock", 20, 30, 2, 5), of_lock("lock", 40, 50, 3, 6)]),
        0
    );
    assert_eq!(check(&[first(), of_lock("lock", 40, 50, 3, 6)]), 0, "it may have expired");
    assert_eq!(check(&[first(), of_lock("lock", 20, 30, 2, 6)]), 1, "it was still held");
    assert_eq!(check(&[first(), of_lock("lock", 40, 50, 3, 4)]), 1, "a lower token");
    assert_eq!(check(&[first(), of_lock("lock", 40, 50, 3, 5)]), 1, "the same token");
    assert_eq!(check(&[first(), of_lock("lock", 40, 50, 1, 6)]), 1, "the same version");
    assert_eq!(check(&[of_lock("lock", 0, 10, 4, 9), of_lock("lock", 20, 30, 2, 6)]), 1, "order");
    let stale = [first(), of_lock("lock", 40, 50, 3, 6), of_lock("extend", 60, 70, 4, 5)];
    assert_eq!(check(&stale), 1, "an old token");
    assert_eq!(check(&[first(), of_lock("initiate", 20, 30, 2, 5)]), 0, "it joins the lock");
}

#[test]
fn money_that_was_never_said_or_never_recorded_is_found() {
    let fact = GatewayFact {
        tenant: "t1".to_owned(),
        payment: "p1".to_owned(),
        command_id: "a".to_owned(),
        transaction: Some("g1".to_owned()),
        captured: true,
        amount: 1000,
        currency: "EUR".to_owned(),
    };
    let capture = money::GatewayCapture {
        tenant: "t1".to_owned(),
        payment: "p1".to_owned(),
        transaction: Some("g1".to_owned()),
        amount: 1000,
        currency: "EUR".to_owned(),
    };
    let sound = || {
        let mut evidence = committed(&["a"], &[]);
        evidence.captures = vec![capture.clone()];
        evidence.accounted = vec![("t1 EUR".to_owned(), 900, 100)];
        evidence
    };
    let check = |evidence: &Evidence| {
        let (found, sums) = money::check(std::slice::from_ref(&fact), &[], evidence);
        (invariants(&found).join(" "), sums["t1 EUR"].captured)
    };
    assert_eq!(check(&sound()), (String::new(), 1000));
    let mut evidence = sound();
    evidence.captures.clear();
    assert_eq!(check(&evidence).0, "I-16 I-10", "it was said, and is lost");
    let mut evidence = sound();
    evidence.captures[0].transaction = Some("g2".to_owned());
    assert_eq!(check(&evidence).0, "I-9 I-16", "it was never said");
    let mut evidence = sound();
    evidence.accounted[0].2 = 99;
    assert_eq!(check(&evidence).0, "I-10", "a cent is missing");
}
