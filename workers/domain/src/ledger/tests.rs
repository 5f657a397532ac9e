use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    BatchState,
    model::{Choice, Player, Step},
    state::State,
    testing::{self, Fixture, add, command, initiate, open, result, start, step},
};

/// Returns the sums of a batch by method and currency.
fn sums(batch: &BatchState) -> BTreeMap<LedgerKey, LedgerEntry> {
    batch.ledger().entries().map(|(key, entry)| (key.clone(), *entry)).collect()
}

/// Returns where the money of all payments of a batch is.
fn positions(batch: &BatchState) -> BTreeMap<LedgerKey, LedgerEntry> {
    let mut sums = BTreeMap::new();
    for payment in batch.changed().filter_map(State::payment) {
        for currency in ["EUR", "USD"].map(|code| Currency::new(code).unwrap()) {
            let (tenant, method) = (testing::token("t1"), payment.method.as_str());
            let key = LedgerKey { tenant, method, currency };
            *sums.entry(key).or_default() += payment.position(currency);
        }
    }
    sums.retain(|_, sum: &mut LedgerEntry| *sum != LedgerEntry::default());
    sums
}

fn entry(captured: i128, applied: i128, refunded: i128, owed: i128, settled: i128) -> LedgerEntry {
    LedgerEntry { captured, applied, refunded, owed, settled }
}

fn paying(steps: &[testing::Step]) -> Fixture {
    let cart = [open("c1", "menu", "ada", None), add("c1", "i1", 1000)];
    let begun = [initiate("p1", &json!({ "cart": "c1" }))];
    Fixture::new(&cart.into_iter().chain(begun).chain(steps.iter().cloned()).collect::<Vec<_>>())
}

fn refund(amount: i64) -> testing::Step {
    step("payment.p1.refund", json!({ "amount": amount, "reason": "r" }))
}

fn settle(settlement: Value) -> testing::Step {
    step("payment.p1.settle", json!({ "settlement": settlement, "reason": "r" }))
}

#[test]
fn each_thing_that_becomes_of_money_is_booked() {
    let captured = |amount| result("p1", "captured", "g1", amount);
    let task = || json!({ "refund_task": "p1.1" });
    let cases: [(&str, Vec<testing::Step>, LedgerEntry); 9] = [
        ("nothing came in", vec![result("p1", "unknown", "g1", 0)], entry(0, 0, 0, 0, 0)),
        ("all of it pays", vec![captured(1000)], entry(1000, 1000, 0, 0, 0)),
        ("a surplus is owed", vec![captured(1300)], entry(1300, 1000, 0, 300, 0)),
        (
            "what goes back goes towards what is owed first",
            vec![captured(1300), refund(100)],
            entry(1300, 1000, 100, 200, 0),
        ),
        (
            "and then takes from what was applied",
            vec![captured(1300), refund(400)],
            entry(1300, 900, 400, 0, 0),
        ),
        (
            "a person settles what is left",
            vec![captured(1300), refund(100), settle(task())],
            entry(1300, 1000, 100, 0, 200),
        ),
        (
            "late money is owed as a whole",
            vec![result("p1", "failed", "g1", 0), captured(1000)],
            entry(1000, 0, 0, 1000, 0),
        ),
        (
            "captured again",
            vec![captured(1000), result("p1", "captured", "g2", 700)],
            entry(1700, 1000, 0, 700, 0),
        ),
        (
            "the gateway tells what has gone back so far, twice",
            vec![
                captured(1000),
                result("p1", "refunded", "g1", 400),
                result("p1", "refunded", "g1", 400),
            ],
            entry(1000, 600, 400, 0, 0),
        ),
    ];
    for (name, steps, expected) in cases {
        let fixture = paying(&steps);
        let sums = sums(&fixture.batch);
        let sum = sums.values().next().copied().unwrap_or_default();
        assert_eq!((sum, sums.len()), (expected, usize::from(expected.captured > 0)), "{name}");
        assert_eq!(sum.balance(), 0, "{name}");
    }
}

#[test]
fn what_ends_as_it_began_leaves_no_entry() {
    let fixture = paying(&[step("payment.p1.cancel", json!({ "reason": "r" }))]);
    assert_eq!(fixture.batch.ledger().entries().count(), 0);
}

#[test]
fn payments_whose_result_is_in_doubt_are_told_of() {
    let doubted = |steps: &[testing::Step]| {
        let fixture = paying(steps);
        fixture.batch.doubted().map(|payment| payment.status.as_str()).collect::<Vec<_>>()
    };
    let unknown = || result("p1", "unknown", "g1", 0);
    assert_eq!(doubted(&[]), Vec::<&str>::new());
    assert_eq!(doubted(&[unknown()]), ["unknown"]);
    assert_eq!(doubted(&[unknown(), settle(json!("failed"))]), ["failed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_is_asked_the_ledger_says_where_the_money_is_and_balances(
        choices in prop::collection::vec(any::<Choice>(), 1..60),
    ) {
        let (mut batch, mut now, mut player) = (testing::batch([]), start(), Player::default());
        let steps = Player::prelude().into_iter().map(Some);
        let chosen = choices.into_iter().map(|choice| (None, choice));
        let all = steps.map(|step| (step, Choice::default())).chain(chosen);
        for (step, choice) in all {
            match step.unwrap_or_else(|| player.step(choice)) {
                Step::Wait(minutes) => {
                    now = now.plus(std::time::Duration::from_secs(minutes * 60));
                }
                Step::Command { target, payload } => {
                    let outcome = batch.decide(&command(&target, &[], &payload), now);
                    player.observe(&outcome.expect("everything is in reach"));
                }
            }
            let sums = sums(&batch);
            prop_assert!(sums.values().all(|sum| sum.balance() == 0), "{:?}", sums);
            prop_assert_eq!(sums, positions(&batch));
        }
    }
}
