use brigade_contracts::EraVersion;

use super::*;
use crate::chaos::nemesis::Blow;

#[test]
fn a_stale_answer_is_found() {
    let reads = |second: Operation| {
        let operations = [done("a", 0, 10, 1), done("b", 20, 30, 2), second];
        let evidence = committed(&["a", "b"], &operations);
        let found = super::super::reads::check(&operations, &evidence, &[]);
        invariants(&found).join(" ")
    };
    assert_eq!(reads(read("cart.c1", 31, 40, 1)), "I-5", "b was answered before");
    assert_eq!(reads(read("cart.c1", 29, 40, 1)), "", "b was not answered yet");
    assert_eq!(reads(read("cart.c1", 31, 40, 2)), "");
    assert_eq!(reads(read("cart.c1", 31, 40, 0)), "I-5", "not found is the oldest of all");
    let unchanged =
        OperationResult::Versions { status: 304, of: vec![KeyVersion::new("cart.c1", 1.into())] };
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
    assert_eq!(invariants(&super::super::reads::check(&operations, &evidence, &[])), ["I-5"]);
}

#[test]
fn a_version_that_was_never_committed_or_not_even_sent_is_found() {
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2)];
    let found = super::super::reads::check(&operations, &committed(&["a"], &operations), &[]);
    assert_eq!(invariants(&found), ["I-1"]);
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2), done("b", 40, 50, 2)];
    let found = super::super::reads::check(&operations, &committed(&["a", "b"], &operations), &[]);
    assert_eq!(invariants(&found), ["I-5"]);
    let operations = [done("a", 0, 10, 1), read("cart.c1", 20, 30, 2), done("b", 29, 50, 2)];
    assert!(
        super::super::reads::check(&operations, &committed(&["a", "b"], &operations), &[])
            .is_empty()
    );
}

#[test]
fn an_effect_on_another_aggregate_is_known_as_well() {
    let recorded = ReportedOutcome { version: None, ..outcome(200, 1, &["cart.c1@3"]) };
    let paid = command("a", 0, 10, OperationResult::Final(recorded));
    let paid = Operation { key: "payment.p1".into(), ..paid };
    let operations = [paid, read("cart.c1", 20, 30, 2)];
    let evidence = committed(&["x", "y", "a"], &operations);
    assert_eq!(invariants(&super::super::reads::check(&operations, &evidence, &[])), ["I-5"]);
}

#[test]
fn a_push_that_goes_down_is_found_by_client_and_key() {
    let push = |client, at, version| {
        let of = vec![KeyVersion::new("cart.c1", EraVersion::from(version))];
        let answer = OperationResult::Versions { status: 200, of };
        Operation { client, ..operation(Way::Push, "cart.c1", at, at, answer) }
    };
    let check = |operations: &[Operation]| {
        invariants(&super::super::reads::check(
            operations,
            &committed(&["a", "b"], operations),
            &[],
        ))
        .join(" ")
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
        invariants(&super::super::reads::check(&operations, &evidence, blows)).join(" ")
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
        failover: None,
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
        let of = rows.iter().map(|row| KeyVersion::new(row, 1.into())).collect();
        operation(Way::List, "list", 20, 30, OperationResult::Versions { status: 200, of })
    };
    let check = |operations: &[Operation]| {
        let mut evidence = Evidence::default();
        let event = CommittedEvent {
            address: "order.o1".to_owned(),
            version: 9,
            name: String::new(),
            at: 0,
        };
        evidence.add_event("t1", "place", event);
        invariants(&super::super::reads::check(operations, &evidence, &[])).join(" ")
    };
    assert_eq!(check(&[placed("place", 0, 10), list(&[])]), "I-5");
    assert_eq!(check(&[placed("place", 0, 10), list(&["order.o1#core"])]), "");
    assert_eq!(check(&[placed("place", 0, 21), list(&[])]), "", "not known before");
    assert_eq!(check(&[placed("place", 0, 10), placed("cancel", 25, 99), list(&[])]), "");
    assert_eq!(check(&[placed("place", 0, 10), placed("cancel", 31, 99), list(&[])]), "I-5");
    let effects = ["cart.c1@2", "order.o1@1"];
    let answer = OperationResult::Final(outcome(200, 2, &effects));
    let made =
        Operation { verb: "check_out".into(), ..operation(Way::Request, "cart.c1", 0, 10, answer) };
    assert_eq!(check(&[made.clone(), list(&[])]), "I-5", "made by a check-out");
    assert_eq!(check(&[made, list(&["order.o1#core"])]), "");
}
