use super::*;

#[test]
fn each_failure_has_its_next_step() {
    let table = [
        // cause, commands, tries before → next
        (Cause::Locked, 256, 0, Next::Isolate),
        (Cause::Locked, 1, 9, Next::Isolate),
        (Cause::TooSlow, 256, 0, Next::Isolate),
        (Cause::Mismatch, 1, 0, Next::Isolate),
        (Cause::Unavailable, 256, 0, Next::RetryAfterPause),
        (Cause::Unavailable, 256, 1, Next::GiveUp),
        (Cause::Unavailable, 1, 1, Next::GiveUp),
        (Cause::Conflict, 256, 0, Next::Retry),
        (Cause::Conflict, 256, 1, Next::Split),
        (Cause::Conflict, 2, 7, Next::Split),
        (Cause::Conflict, 1, 0, Next::Retry),
        (Cause::Conflict, 1, MAX_TRIES_ALONE - 1, Next::Retry),
        (Cause::Conflict, 1, MAX_TRIES_ALONE, Next::Fail),
    ];
    for (cause, commands, tries, expected) in table {
        let sub_batch = SubBatch { tries, ..SubBatch::of((0..commands).collect()) };
        assert_eq!(next(cause, &sub_batch), expected, "{cause:?} {commands} {tries}");
    }
}

#[test]
fn each_held_up_sub_batch_has_its_step() {
    let table = [
        // cause, commands, of which not known to be locked, time is over → isolated
        (Cause::Locked, 8, 7, false, Isolated::Rest),
        (Cause::Locked, 8, 0, true, Isolated::Rest),
        (Cause::Locked, 8, 8, false, Isolated::Split),
        (Cause::Mismatch, 8, 8, false, Isolated::Split),
        (Cause::Locked, 8, 8, true, Isolated::Suspects),
        (Cause::TooSlow, 1, 1, false, Isolated::Suspects),
        (Cause::Mismatch, 8, 8, true, Isolated::Mismatched),
        (Cause::Mismatch, 1, 1, false, Isolated::Mismatched),
    ];
    for (cause, count, unlocked, is_over, expected) in table {
        let found = isolate(cause, count, unlocked, is_over);
        assert_eq!(found, expected, "{cause:?} {count} {unlocked} {is_over}");
    }
}

#[test]
fn halves_keep_the_order_and_the_tries() {
    let sub_batch = SubBatch::of(vec![2, 3, 5]).retried();
    let [second, first] = sub_batch.split();
    assert_eq!((first.positions, second.positions), (vec![2], vec![3, 5]));
    assert_eq!((first.tries, second.tries), (1, 1));
}

#[test]
fn a_command_that_lacks_something_new_each_time_is_given_up() {
    let mut sub_batch = SubBatch::of(vec![0]).retried();
    for _ in 0..MAX_ROUNDS {
        sub_batch = sub_batch.with_missing(vec![0], BTreeSet::new()).unwrap();
        assert_eq!(sub_batch.tries, 0);
    }
    assert_eq!(sub_batch.with_missing(vec![0], BTreeSet::new()).unwrap_err(), [0]);
}

#[test]
fn isolation_ends_after_too_many_failures_or_one_that_was_too_slow() {
    let mut isolation = Isolation::default();
    assert!(!isolation.has_begun());
    for _ in 1..MAX_FAILURES {
        isolation.failed(Cause::Locked);
    }
    assert!(isolation.has_begun() && !isolation.is_over());
    isolation.decided();
    isolation.failed(Cause::Mismatch);
    assert!(!isolation.is_over(), "something was decided meanwhile");
    isolation.failed(Cause::TooSlow);
    assert!(isolation.is_over());
}
