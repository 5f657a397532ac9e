//! Whatever is asked in whatever order, the invariants hold after every step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use brigade_contracts::{
    Address, Aggregate, Money, Part, Timestamp, Token,
    cart::Status as CartStatus,
    lock::Action,
    order,
    payment::{Status, Target},
    table::{self, CloseReason},
};
use proptest::prelude::*;

use super::*;
use crate::{
    BatchState, Cart, Entry, Lock, Order, Payment, State, Table, Turn,
    testing::{self, command, start},
};

/// The lock of an owner, as the events and the clock have it.
#[derive(Clone, Debug, PartialEq)]
struct ExpectedLock {
    cart: Token,
    token: i64,
    acquired: Timestamp,
    until: Timestamp,
    fingerprint: String,
}

type States = HashMap<Address, Rc<State>>;

#[derive(Default)]
struct Reference {
    held: HashMap<Token, ExpectedLock>,
    last_token: i64,
    versions: BTreeMap<Address, u64>,
    paid_events: BTreeSet<Address>,
    before: States,
}

const CAP: std::time::Duration = std::time::Duration::from_secs(30 * 60);
const FROZEN: [&str; 7] =
    ["join", "leave", "add_item", "set_item", "remove_item", "check_out", "abandon"];
const HOLDERS: [&str; 4] = ["unlock", "extend", "bind_transaction", "expire_lock"];

struct Play {
    batch: BatchState,
    now: Timestamp,
    reference: Reference,
}

type Checked = Result<(), TestCaseError>;

/// Returns whether two states of one version differ in their counts of refusals at most.
fn differ_in_refusals(before: &State, after: &State) -> bool {
    let mut before = before.clone();
    match (&mut before, after) {
        (State::Cart(before), State::Cart(after)) => before.refusals = after.refusals,
        (State::Lock(before), State::Lock(after)) => before.refusals = after.refusals,
        _ => {}
    }
    before == *after
}

impl Play {
    fn step(&mut self, player: &mut Player, step: &Step) -> Checked {
        let (target, payload) = match step {
            Step::Wait(minutes) => {
                self.now = self.now.plus(std::time::Duration::from_secs(minutes * 60));
                return Ok(());
            }
            Step::Command { target, payload } => (target, payload),
        };
        let (events, rows) = (self.batch.events().len(), self.batch.history().len());
        let outcome = self.batch.decide(&command(target, &[], payload), self.now);
        let outcome = outcome.expect("everything is in reach");
        if outcome.status < 300 {
            player.observe(&outcome);
        }
        let repaired = target.ends_with(".reconcile") && outcome.status < 300;
        prop_assert!(!repaired, "a table is never wrong");
        self.gate(target, payload, &outcome)?;
        self.follow(events, rows)?;
        if outcome.status >= 300 {
            let only_locks = |e: &crate::Event| e.kind.name.starts_with("lock_ex");
            prop_assert!(self.batch.events()[events..].iter().all(only_locks));
            prop_assert!(outcome.effects.is_empty());
        }
        let mut states = self.reference.before.clone();
        let mut changed = Vec::new();
        for state in self.batch.changed() {
            let address = &state.head().address;
            let before = states.get(address);
            if let Some(before) = before.filter(|b| b.head().version == state.head().version) {
                prop_assert!(
                    differ_in_refusals(before, state),
                    "changed without an event: {state:?}"
                );
            }
            if before.is_none_or(|before| **before != *state) {
                states.insert(address.clone(), Rc::new(state.clone()));
                changed.push(address.clone());
            }
        }
        self.invariants(&states, &changed)?;
        self.reference.before = states;
        Ok(())
    }

    /// Checks that a live lock let only permitted commands through, by the state before the step.
    fn gate(&self, target: &str, payload: &Value, outcome: &Outcome) -> Checked {
        let mut words = target.split('.');
        let (Some("cart"), Some(id), Some(verb)) = (words.next(), words.next(), words.next())
        else {
            return Ok(());
        };
        let address = testing::address(Aggregate::Cart, id);
        let Some(cart) = self.reference.before.get(&address).and_then(|s| s.cart()) else {
            return Ok(());
        };
        let held = self.reference.held.get(&cart.owner);
        // An open payment keeps it past its deadline, up to the cap.
        let kept = |held: &ExpectedLock| {
            self.now < held.acquired.plus(CAP) && open_under(&self.reference.before, held)
        };
        let live = held.filter(|held| self.now < held.until || kept(held));
        let token = payload["token"].as_i64();
        if FROZEN.contains(&verb)
            && live.is_some_and(|held| verb != "check_out" || token != Some(held.token))
        {
            prop_assert!(outcome.status >= 400, "{target} under a lock");
        }
        if HOLDERS.contains(&verb) && outcome.status == 200 {
            let held = held.expect("a holder without a lock");
            prop_assert_eq!((Some(held.token), held.cart.as_str()), (token, id));
            let due = held.until <= self.now;
            prop_assert!(if verb == "expire_lock" { due } else { live.is_some() }, "{target}");
        }
        if verb == "lock" && live.is_some() {
            prop_assert!(outcome.status >= 400);
        }
        Ok(())
    }

    /// Follows the locks by the events and audit rows of the step.
    fn follow(&mut self, events: usize, rows: usize) -> Checked {
        let now = self.now;
        let reference = &mut self.reference;
        for event in &self.batch.events()[events..] {
            let version = reference.versions.entry(event.address.clone()).or_default();
            *version += 1;
            prop_assert_eq!(event.version, *version);
            if event.kind.name == "paid" {
                prop_assert!(reference.paid_events.insert(event.address.clone()), "paid twice");
            }
        }
        for row in &self.batch.history()[rows..] {
            let token = row.token.unwrap_or_default();
            let held = reference.held.get(&row.owner).cloned();
            let claimed = row.reason.as_deref() == Some("claimed");
            match row.action {
                Action::Acquired => {
                    prop_assert!(held.is_none(), "two locks of {}", row.owner);
                    if !claimed {
                        prop_assert!(token > reference.last_token);
                        reference.last_token = token;
                    }
                }
                Action::Expired => {
                    let held = held.expect("expired without a lock");
                    prop_assert!(now >= held.until);
                    let open = open_under(&reference.before, &held);
                    prop_assert!(!open || now >= held.acquired.plus(CAP), "expired with a payment");
                }
                Action::Released | Action::Bound | Action::Extended => {
                    prop_assert_eq!(held.map(|held| held.token), Some(token));
                }
                Action::Refused => continue,
            }
            if matches!(row.action, Action::Released | Action::Expired) {
                reference.held.remove(&row.owner);
                continue;
            }
            let mut locks = self.batch.changed().filter_map(State::lock);
            let lock = locks.find(|lock| lock.head.address.id == row.owner);
            // It may be gone again by the end of the command: a later row says so.
            if let Some(lock) = lock.filter(|lock| lock.is_held()) {
                prop_assert_eq!(lock.token, token);
                reference.held.insert(row.owner.clone(), ExpectedLock::of(lock));
            }
        }
        Ok(())
    }

    fn invariants(&self, states: &States, changed: &[Address]) -> Checked {
        let mut sources = BTreeSet::new();
        let money = changed.iter().any(|address| address.aggregate == Aggregate::Payment);
        let of_changed = |lock: &Lock| changed.contains(&lock.cart());
        for (address, state) in states {
            let changed = changed.contains(address);
            if changed && state.lock().is_none() {
                prop_assert_eq!(Some(&state.head().version), self.reference.versions.get(address));
            }
            match &**state {
                State::Cart(cart) if changed => self.cart(cart, states)?,
                // Nothing that a cart or an order shows of a payment changes behind its back.
                State::Cart(cart) if money && cart.status != CartStatus::CheckedOut => {
                    entries(&cart.payments, cart.refunded, states)?;
                }
                State::Order(order) => {
                    if let Some(cart) = &order.cart_id {
                        prop_assert!(sources.insert(cart.clone()), "two orders of one cart");
                    }
                    if changed || money {
                        self.order(order, states)?;
                    }
                }
                State::Payment(payment) if changed => {
                    let before = self.reference.before.get(address).and_then(|s| s.payment());
                    self.payment(payment, before)?;
                    if let Target::Cart(id) = &payment.target
                        && before.is_some_and(|before| before.status.is_open())
                        && payment.applied > Money::ZERO
                    {
                        let cart = states.get(&testing::address(Aggregate::Cart, id.as_str()));
                        let contents = cart.and_then(|s| s.cart()).map(Cart::fingerprint);
                        prop_assert_eq!(&payment.fingerprint, &contents, "paid something else");
                    }
                }
                State::Lock(lock) if changed || of_changed(lock) => self.lock(lock, states)?,
                State::Table(table) => seated(table)?,
                _ => {}
            }
        }
        for (_, table, turn) in self.batch.turns() {
            self.turn(table, turn, states)?;
        }
        Ok(())
    }

    /// An open turn with orders has an unpaid one; a closed one has none, unless by force.
    fn turn(&self, table: &Token, turn: &Turn, states: &States) -> Checked {
        let orders = states.values().filter_map(|s| s.order());
        let orders: Vec<_> = orders.filter(|o| o.turn_id.as_ref() == Some(&turn.id)).collect();
        let unpaid = orders.iter().filter(|order| order.is_unpaid()).count();
        prop_assert!(orders.iter().all(|order| order.table_id.as_ref() == Some(table)));
        prop_assert_eq!(turn.is_open(), turn.close_reason.is_none());
        match turn.close_reason {
            None => prop_assert!(orders.is_empty() || unpaid > 0, "{} is still open", turn.id),
            Some(CloseReason::Paid) => prop_assert!(!orders.is_empty() && unpaid == 0),
            Some(CloseReason::Manual) => prop_assert_eq!(unpaid, 0),
            Some(CloseReason::Forced) => {}
            Some(CloseReason::Reconciled) => prop_assert!(false, "nothing was damaged"),
        }
        Ok(())
    }

    fn lock(&self, lock: &Lock, states: &States) -> Checked {
        let held = lock.is_held().then(|| ExpectedLock::of(lock));
        prop_assert_eq!(self.reference.held.get(&lock.head.address.id), held.as_ref());
        let cart = states.get(&lock.cart()).and_then(|s| s.cart()).expect("its cart");
        if lock.is_held() {
            prop_assert!(lock.expires_at <= lock.acquired_at.plus(CAP));
            prop_assert_eq!(&cart.fingerprint(), &lock.fingerprint, "changed while locked");
            prop_assert_eq!(cart.locked_until, Some(lock.expires_at));
            prop_assert_eq!(cart.status, CartStatus::Open);
            prop_assert_eq!(&cart.owner, &lock.head.address.id);
        }
        Ok(())
    }

    fn cart(&self, cart: &Cart, states: &States) -> Checked {
        let total = cart.total().unwrap();
        prop_assert_eq!(cart.paid, applied(&cart.payments));
        prop_assert!(cart.paid <= total);
        prop_assert!(members(cart) <= cart.paid);
        prop_assert_eq!(cart.order_id.is_some(), cart.status == CartStatus::CheckedOut);
        if cart.status != CartStatus::CheckedOut {
            entries(&cart.payments, cart.refunded, states)?;
        }
        let core: Value = serde_json::from_str(cart.part(Part::Core).get()).unwrap();
        let shares = core["members"].as_array().unwrap();
        let sum: i64 = shares.iter().filter_map(|share| share["share"].as_i64()).sum();
        prop_assert!(shares.is_empty() || sum == total.minor_units(), "shares");
        // The contents of every cart of an owner stay as they are as long as a lock lives.
        let address = &cart.head.address;
        if let Some(before) = self.reference.before.get(address).and_then(|s| s.cart()) {
            let lock = |states: &States, owner: &Token| {
                let address = testing::address(Aggregate::Lock, owner.as_str());
                states.get(&address).and_then(|s| s.lock()).filter(|l| l.is_held()).map(|l| l.token)
            };
            let token = lock(&self.reference.before, &before.owner);
            if token.is_some() && token == lock(states, &cart.owner) {
                prop_assert_eq!(before.fingerprint(), cart.fingerprint());
            }
        }
        Ok(())
    }

    fn order(&self, order: &Order, states: &States) -> Checked {
        prop_assert_eq!(order.paid, applied(&order.payments));
        prop_assert!(order.paid <= order.total);
        prop_assert_eq!(order.paid_at.is_some(), order.due() == Money::ZERO);
        let cancelled = order.status == order::Status::Cancelled;
        prop_assert!(!cancelled || order.paid == Money::ZERO && !order.has_open_payment());
        entries(&order.payments, order.refunded, states)
    }

    fn payment(&self, payment: &Payment, before: Option<&Payment>) -> Checked {
        let captured: i64 = payment.captures.iter().map(|c| c.amount.minor_units()).sum();
        let owed: i64 = payment.tasks.iter().map(|task| task.amount.minor_units()).sum();
        prop_assert_eq!(
            captured,
            payment.applied.minor_units() + owed,
            "captured = applied + owed"
        );
        prop_assert!(payment.refunded_amount.minor_units() <= captured);
        if let Some(before) = before {
            let after = payment.status;
            let allowed = match before.status {
                Status::Captured | Status::LateCaptured | Status::Refunded => {
                    prop_assert_eq!(before.applied, payment.applied, "a double capture");
                    after == before.status || after == Status::Refunded
                }
                Status::Failed | Status::Cancelled => {
                    after == before.status || after == Status::LateCaptured
                }
                Status::Unknown => !matches!(after, Status::Initiated | Status::Cancelled),
                Status::Initiated => after != Status::Refunded,
            };
            prop_assert!(allowed, "{:?} became {:?}", before.status, after);
        }
        Ok(())
    }
}

impl ExpectedLock {
    fn of(lock: &Lock) -> Self {
        Self {
            cart: lock.cart_id.clone(),
            token: lock.token,
            acquired: lock.acquired_at,
            until: lock.expires_at,
            fingerprint: lock.fingerprint.clone(),
        }
    }
}

/// A table is occupied exactly as long as it has an open turn.
fn seated(table: &Table) -> Checked {
    let open = table.turn.as_ref().filter(|turn| turn.is_open());
    prop_assert_eq!(table.status == table::Status::Occupied, open.is_some());
    prop_assert_eq!(table.open_turn_id.as_ref(), open.map(|turn| &turn.id));
    prop_assert_eq!(table.open_turn().is_some(), open.is_some());
    Ok(())
}

fn open_under(states: &States, held: &ExpectedLock) -> bool {
    let payments = states.values().filter_map(|s| s.payment());
    payments.filter(|p| p.status.is_open()).any(|p| p.token == Some(held.token))
}

fn applied(entries: &[Entry]) -> Money {
    entries.iter().fold(Money::ZERO, |sum, entry| sum.plus(entry.applied).unwrap())
}

fn members(cart: &Cart) -> Money {
    cart.members.iter().fold(Money::ZERO, |sum, member| sum.plus(member.paid).unwrap())
}

/// Checks that the entries of payments equal the payments.
fn entries(entries: &[Entry], refunded: Money, states: &States) -> Checked {
    let mut sum = Money::ZERO;
    for entry in entries {
        let address = testing::address(Aggregate::Payment, entry.payment.id.as_str());
        let payment = states.get(&address).and_then(|s| s.payment()).expect("an entry's payment");
        prop_assert_eq!(payment.status, entry.payment.status);
        prop_assert_eq!(payment.applied, entry.applied);
        if payment.currency.as_str() == "EUR" {
            prop_assert_eq!(payment.refunded_amount, entry.payment.refunded_amount);
            sum = sum.plus(payment.refunded_amount).unwrap();
        }
    }
    prop_assert_eq!(sum, refunded);
    Ok(())
}

fn play(choices: &[Choice]) -> Result<Play, TestCaseError> {
    let mut player = Player::default();
    let (batch, now, reference) = (testing::batch([]), start(), Reference::default());
    let mut play = Play { batch, now, reference };
    for step in Player::prelude() {
        play.step(&mut player, &step)?;
    }
    for choice in choices {
        let step = player.step(*choice);
        play.step(&mut player, &step)?;
    }
    Ok(play)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_invariant_holds_after_every_step(choices in prop::collection::vec(any::<Choice>(), 1..40)) {
        play(&choices)?;
    }
}

/// The sequences are worth something only if they come to the rare things.
#[test]
fn the_sequences_come_to_every_kind_of_event() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..300 {
        let choices = prop::collection::vec(any::<Choice>(), 50).new_tree(&mut runner).unwrap();
        let play = play(&choices.current()).unwrap();
        seen.extend(
            play.batch.events().iter().map(|e| format!("{} {}", e.kind.aggregate, e.kind.name)),
        );
    }
    // The last one takes a damaged row. Users have a model of their own.
    let steps = ["preparing", "ready", "served", "completed", "reconciled"];
    let missing = brigade_contracts::event::ALL
        .iter()
        .filter(|kind| kind.aggregate != Aggregate::User)
        .map(|kind| format!("{} {}", kind.aggregate, kind.name))
        .filter(|name| !seen.contains(name) && !steps.iter().any(|step| name.contains(step)));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<String>::new());
}
