use std::collections::HashMap;

use brigade_contracts::{Aggregate, Outcome, Part, Token};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    BatchState, Lock, LockMetric, LockPolicy, LockSet, Missing, Mode, State,
    testing::{
        self, Fixture, Step, add, address, lock, open, result, start, step, token, wait, with,
    },
};

/// Returns the states that a fixture has after these steps, as the next batch would load them.
fn loaded(steps: &[Step]) -> Vec<State> {
    Fixture::new(steps).batch.changed().cloned().collect()
}

fn send(batch: &mut BatchState, (target, payload): &Step) -> Option<Outcome> {
    batch.decide(&testing::command(target, &[], payload), start())
}

fn missing(batch: &BatchState) -> Vec<Missing> {
    batch.missing().iter().cloned().collect()
}

fn cart() -> Vec<Step> {
    vec![open("c1", "menu", "ada", None), add("c1", "i1", 1000)]
}

fn lock_of(owner: &str) -> brigade_contracts::Address {
    address(Aggregate::Lock, owner)
}

/// Returns the version above which new locks begin.
fn floor(version: u64) -> HashMap<Token, u64> {
    HashMap::from([(token("t1"), version)])
}

/// A batch of the cart c1, its owner locked like this.
fn narrow(mode: Option<Mode>, tokens: &[i64]) -> BatchState {
    let owners = mode.map(|mode| (lock_of("ada"), mode)).into_iter().collect();
    let reach = LockSet { owners, lock_floors: floor(0), ..LockSet::default() };
    BatchState::new(loaded(&cart()), reach, LockPolicy::default(), tokens.to_vec())
}

#[test]
fn what_is_out_of_reach_is_not_decided_and_tells_what_it_lacks() {
    let pay = testing::initiate("p1", &json!({"cart": "c1"}));
    let item = add("c1", "i2", 1);
    let owner = |mode| Missing::Owner(lock_of("ada"), mode);
    let cases = [
        (narrow(None, &[]), item.clone(), owner(Mode::Shared)),
        (narrow(Some(Mode::Shared), &[1]), lock("c1"), owner(Mode::Exclusive)),
        (narrow(Some(Mode::Exclusive), &[]), lock("c1"), Missing::FencingToken),
        (
            narrow(Some(Mode::Exclusive), &[1]),
            pay,
            Missing::Aggregate(address(Aggregate::Payment, "p1")),
        ),
        (
            narrow(Some(Mode::Exclusive), &[1]),
            step("cart.c1.check_out", json!({"order_id": "o1"})),
            Missing::Aggregate(address(Aggregate::Order, "o1")),
        ),
    ];
    for (mut batch, when, lacks) in cases {
        assert!(send(&mut batch, &when).is_none(), "{when:?}");
        assert_eq!(missing(&batch), [lacks], "{when:?}");
        assert_eq!(
            (batch.changed().count(), batch.events().len(), batch.history().len()),
            (0, 0, 0)
        );
    }
    assert_eq!(send(&mut narrow(Some(Mode::Shared), &[]), &item).unwrap().status, 200);
}

#[test]
fn later_commands_wait_behind_a_postponed_one_and_others_do_not() {
    let carts = [cart(), vec![open("c2", "menu", "bob", None)]].concat();
    let owners = [(lock_of("ada"), Mode::Shared), (lock_of("bob"), Mode::Shared)];
    let reach = LockSet { owners: owners.into_iter().collect(), ..LockSet::default() };
    let mut batch = BatchState::new(loaded(&carts), reach, LockPolicy::default(), []);
    assert!(send(&mut batch, &lock("c1")).is_none());
    assert!(send(&mut batch, &add("c1", "i2", 1)).is_none(), "the cart waits");
    assert!(send(&mut batch, &step("cart.c1.commit_cod", json!({"user": "ada"}))).is_none());
    assert_eq!(send(&mut batch, &add("c2", "i2", 1)).unwrap().status, 200);
    assert_eq!(missing(&batch), [Missing::Owner(lock_of("ada"), Mode::Exclusive)]);
}

#[test]
fn a_claim_needs_the_list_of_its_session_and_both_owners_exclusively() {
    let given = loaded(&[open("c1", "menu", "s1", Some("s1"))]);
    let claim = step("cart.c1.claim", json!({"user": "ada"}));
    let both = |mode| [(lock_of("s1"), mode), (lock_of("ada"), mode)].into_iter().collect();
    let batch = |reach| BatchState::new(given.clone(), reach, LockPolicy::default(), []);
    let mut unlisted = batch(LockSet { owners: both(Mode::Exclusive), ..LockSet::default() });
    assert!(send(&mut unlisted, &claim).is_none());
    assert_eq!(missing(&unlisted), [Missing::Session(token("t1"), token("s1"))]);
    let sessions = [((token("t1"), token("s1")), vec![address(Aggregate::Cart, "c1")])];
    let listed = |mode| LockSet {
        owners: both(mode),
        sessions: sessions.clone().into_iter().collect(),
        open_carts: [((token("t1"), token("ada")), 0)].into_iter().collect(),
        ..LockSet::default()
    };
    let uncounted = LockSet { open_carts: HashMap::new(), ..listed(Mode::Exclusive) };
    let mut uncounted = batch(uncounted);
    assert!(send(&mut uncounted, &claim).is_none());
    assert_eq!(missing(&uncounted), [Missing::OpenCarts(token("t1"), token("ada"))]);
    assert!(send(&mut batch(listed(Mode::Shared)), &claim).is_none());
    assert_eq!(send(&mut batch(listed(Mode::Exclusive)), &claim).unwrap().status, 200);
}

#[test]
fn a_lock_without_a_row_begins_above_those_that_were_deleted() {
    let batch = |steps: &[Step], lock_floors| {
        let reach = LockSet { lock_floors, ..testing::reach() };
        BatchState::new(loaded(steps), reach, LockPolicy::default(), [7])
    };
    let version = |batch: &BatchState, owner: &str| {
        let mut locks = batch.changed().filter_map(State::lock);
        locks.find(|lock| lock.head.address == lock_of(owner)).map(|lock| lock.head.version)
    };
    for (below, first) in [(0, 1), (41, 42)] {
        let mut batch = batch(&cart(), floor(below));
        let outcome = send(&mut batch, &lock("c1")).unwrap();
        assert_eq!((outcome.status, version(&batch, "ada")), (200, Some(first)));
    }
    // One that there is goes on, wherever others begin.
    let locked = [cart(), vec![lock("c1")]].concat();
    let mut there = batch(&locked, floor(41));
    let unlock = step("cart.c1.unlock", json!({"token": 1, "reason": "x"}));
    assert_eq!(send(&mut there, &unlock).unwrap().status, 200);
    assert_eq!(send(&mut there, &lock("c1")).unwrap().status, 200);
    assert_eq!(version(&there, "ada"), Some(3));
    // What is handed over.
    let session = [open("c1", "menu", "s1", Some("s1")), add("c1", "i1", 1000), lock("c1")];
    let reach = LockSet {
        lock_floors: floor(41),
        sessions: [((token("t1"), token("s1")), vec![address(Aggregate::Cart, "c1")])].into(),
        ..testing::reach()
    };
    let mut batch = BatchState::new(loaded(&session), reach.clone(), LockPolicy::default(), []);
    let claim = step("cart.c1.claim", json!({"user": "ada"}));
    assert_eq!(send(&mut batch, &claim).unwrap().status, 200);
    assert_eq!((version(&batch, "s1"), version(&batch, "ada")), (Some(2), Some(42)));
    // Unless it is known where, nothing is decided.
    let unknown = LockSet { lock_floors: HashMap::new(), ..reach };
    let mut batch = BatchState::new(loaded(&session), unknown, LockPolicy::default(), []);
    assert!(send(&mut batch, &claim).is_none());
    assert_eq!(missing(&batch), [Missing::LockFloor(token("t1"))]);
}

proptest! {
    /// In each step the lock of an owner is taken, bound a few times and released, and perhaps its
    /// row is deleted.
    #[test]
    fn no_version_of_a_lock_comes_twice(
        steps in prop::collection::vec((0..3_usize, 0..4_usize, any::<bool>()), 1..20),
    ) {
        let owners = ["ada", "bob", "cid"];
        let carts = |n: usize| {
            let id = format!("c{}", n + 1);
            [open(&id, "menu", owners[n], None), add(&id, "i1", 1000)]
        };
        let mut states = loaded(&(0..3).flat_map(carts).collect::<Vec<_>>());
        let (mut below, mut seen, mut fencing) = (0, [0; 3], 0);
        for (n, binds, deleted) in steps {
            fencing += 1;
            let reach = LockSet { lock_floors: floor(below), ..testing::reach() };
            let mut batch = BatchState::new(states, reach, LockPolicy::default(), [fencing]);
            let cart = format!("cart.c{}", n + 1);
            let bind = json!({"token": fencing, "transaction_id": "gw"});
            let binds = vec![step(&format!("{cart}.bind_transaction"), bind); binds];
            let unlock = json!({"token": fencing, "reason": "x"});
            let unlock = step(&format!("{cart}.unlock"), unlock);
            let commands = [vec![lock(&format!("c{}", n + 1))], binds, vec![unlock]].concat();
            for command in &commands {
                prop_assert_eq!(send(&mut batch, command).unwrap().status, 200);
                let lock = batch.changed().filter_map(State::lock).next().unwrap();
                prop_assert!(lock.head.version > seen[n]);
                seen[n] = lock.head.version;
            }
            states = batch.loaded.states.into_values().collect();
            if deleted {
                states.retain(|state| state.head().address != lock_of(owners[n]));
                below = below.max(seen[n]);
            }
        }
    }
}

#[test]
fn an_overdue_lock_is_not_decided_under_a_shared_owner() {
    let states = loaded(&[cart(), vec![lock("c1")]].concat());
    let reach = |mode| LockSet {
        owners: [(lock_of("ada"), mode)].into_iter().collect(),
        ..LockSet::default()
    };
    let (target, payload) = add("c1", "i2", 1);
    let command = testing::command(&target, &[], &payload);
    let late = start().plus(std::time::Duration::from_secs(600));
    let batch = |mode| BatchState::new(states.clone(), reach(mode), LockPolicy::default(), []);
    let mut shared = batch(Mode::Shared);
    assert_eq!(shared.decide(&command, start()).unwrap().status, 423, "enough to read it");
    assert!(shared.decide(&command, late).is_none());
    assert_eq!(missing(&shared), [Missing::Owner(lock_of("ada"), Mode::Exclusive)]);
    let mut exclusive = batch(Mode::Exclusive);
    assert_eq!(exclusive.decide(&command, late).unwrap().status, 200);
    let released = exclusive.changed().filter_map(State::lock).all(|l: &Lock| !l.is_held());
    assert!(released);
}

#[test]
fn headers_are_judged_before_the_rules_and_a_refused_lock_is_written_down_all_the_same() {
    let mut fixture = Fixture::new(&cart());
    let (target, payload) = lock("c1");
    for (name, value, status) in [
        ("Expected-Version", "7", 412),
        ("Deadline", "2026-01-02T03:04:05.677Z", 504),
        ("Deadline", "2026-01-02T03:04:05.678Z", 200),
    ] {
        let command = testing::command(&target, &[(name, value)], &payload);
        assert_eq!(fixture.batch.decide(&command, fixture.now).unwrap().status, status, "{value}");
    }
    let actors: Vec<_> = fixture.batch.history().iter().map(|row| row.actor.clone()).collect();
    assert_eq!(actors, vec![Some(token("staff")); 3]);
}

#[test]
fn locks_keep_to_the_policy_of_their_method_and_are_counted() {
    let secs = std::time::Duration::from_secs;
    let policy = LockPolicy { qr: secs(1), card: secs(99), cap: secs(5), ..LockPolicy::default() };
    let reach = testing::reach();
    let mut batch = BatchState::new(loaded(&cart()), reach, policy, 1..3);
    let (target, payload) = with(lock("c1"), json!({"method": "qr"}));
    let ask = |batch: &mut BatchState, at| {
        batch.decide(&testing::command(&target, &[], &payload), at).unwrap()
    };
    let until = |outcome: &Outcome| -> Value {
        serde_json::from_str::<Value>(outcome.data.get()).unwrap()["expires_at"].clone()
    };
    assert_eq!(until(&ask(&mut batch, start())), "2026-01-02T03:04:06.678Z");
    assert_eq!(ask(&mut batch, start().plus(secs(1))).status, 200, "it is overdue, and another's");
    let held = LockMetric::Held {
        method: brigade_contracts::payment::Method::Qr,
        millis: 1000,
        ended: brigade_contracts::lock::Action::Expired,
    };
    assert!(batch.metrics().contains(&held), "{:?}", batch.metrics());
    let card = testing::command("cart.c1.lock", &[], &lock("c1").1);
    let mut batch = BatchState::new(
        loaded(&cart()),
        testing::reach(),
        LockPolicy { cap: secs(5), ..LockPolicy::default() },
        1..3,
    );
    assert_eq!(
        until(&batch.decide(&card, start()).unwrap()),
        "2026-01-02T03:04:10.678Z",
        "the cap"
    );
}

#[test]
fn rebuild_cache_changes_nothing_and_wishes_for_what_is_to_be_projected() {
    let mut fixture = Fixture::new(&cart());
    let before = fixture.batch.events().len();
    let seen = fixture.when(&step("cart.c1.rebuild_cache", json!({"part": "payments"})));
    assert_eq!((&seen["outcome"]["version"], &seen["outcome"]["effects"]), (&json!(2), &json!([])));
    let payments = (address(Aggregate::Cart, "c1"), Part::Payments);
    assert_eq!(fixture.batch.repeat_events().iter().collect::<Vec<_>>(), [&payments]);
    assert_eq!(fixture.batch.reprojected().count(), 0);
    fixture.when(&step("cart.c1.rebuild_cache", json!({})));
    assert_eq!(fixture.batch.reprojected().count(), 1);
    assert_eq!(fixture.batch.events().len(), before);
    assert_eq!(fixture.send("order.o9.rebuild_cache", &json!({})).status, 404);
}

#[test]
fn a_refusal_never_shows_the_transaction_of_somebody_else() {
    let given = [cart(), vec![lock("c1"), wait(1)]].concat();
    for when in [
        lock("c1"),
        add("c1", "i2", 1),
        testing::initiate("p1", &json!({"cart": "c1"})),
        result("p9", "captured", "tmp", 1),
    ] {
        let seen = Fixture::new(&given).when(&when);
        let message = seen["outcome"].to_string();
        assert!(
            seen["outcome"]["status"].as_u64() >= Some(400) && !message.contains("tmp"),
            "{message}"
        );
    }
}
