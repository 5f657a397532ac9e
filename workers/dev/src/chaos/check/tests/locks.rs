use super::*;

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
    let check = |operations: &[Operation]| {
        super::super::locks::check(operations, &Evidence::default()).len()
    };
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
