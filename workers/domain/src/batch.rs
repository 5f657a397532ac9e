//! The commands of one batch, one after the other.

mod indexes;
mod money;

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{
    Address, Command, Era, Outcome, Part, Timestamp, Token, cart::SecretKey, payment::RefundTask,
    user::Tokens,
};

use crate::{
    changes::{Changes, Event, HistoryRow, Hook, LockMetric},
    decide::decide,
    inputs::{AuthInputs, Checked},
    ledger::Ledger,
    loaded::{Loaded, LockSet, Missing},
    policy::LockPolicy,
    security::SecurityEntry,
    state::{State, Turn},
    throttle::Throttle,
    unit_of_work::UnitOfWork,
};

/// The aggregates that a batch works on, as they are after the commands decided so far, and what is
/// to be stored.
#[derive(Debug, Default)]
pub struct BatchState {
    pub(crate) loaded: Loaded,
    missing: BTreeSet<Missing>,
    changed: BTreeSet<Address>,
    events: Vec<Event>,
    history: Vec<HistoryRow>,
    security: Vec<SecurityEntry>,
    refund_tasks: BTreeMap<(Token, String), RefundTask>,
    ledger: Ledger,
    doubted: BTreeSet<Address>,
    turns: BTreeMap<(Token, Token), (Token, Turn)>,
    metrics: Vec<LockMetric>,
    reprojected: BTreeSet<Address>,
    repeat_events: BTreeSet<(Address, Part)>,
    hooks: Vec<Hook>,
    erased: Vec<(Address, String)>,
    named: BTreeSet<(Token, Token)>,
}

impl BatchState {
    /// Returns the state of a batch that has loaded `states`; of the rest of `locked` nothing
    /// exists. The fencing tokens ascend, and were drawn while the owners were locked.
    #[must_use]
    pub fn new(
        states: impl IntoIterator<Item = State>,
        locked: LockSet,
        policy: LockPolicy,
        tokens: impl IntoIterator<Item = i64>,
    ) -> Self {
        let states = states.into_iter().map(|state| (state.head().address.clone(), state));
        let mut tokens: Vec<_> = tokens.into_iter().collect();
        tokens.reverse();
        let states = states.collect();
        let loaded = Loaded { states, locked, policy, tokens, ..Loaded::default() };
        Self { loaded, ..Self::default() }
    }

    /// Sets the era of the database.
    #[must_use]
    pub fn in_era(mut self, era: Era) -> Self {
        self.loaded.era = era;
        self
    }

    /// Sets what the secrets of carts are derived from.
    #[must_use]
    pub fn with_secret_key(mut self, key: SecretKey) -> Self {
        self.loaded.secret_key = key;
        self
    }

    /// Adds what decisions about users need.
    #[must_use]
    pub fn with_users(mut self, inputs: AuthInputs) -> Self {
        self.loaded.inputs = inputs;
        self
    }

    /// Decides one command at the time `now` of the database. An outcome of 503 is not final: it is
    /// not to be stored.
    ///
    /// Returns `None` if the command is deferred, which changes nothing: it needs something that is
    /// not loaded ([`BatchState::missing`]), or that a command deferred before it is about. It
    /// keeps its place before all later ones on the same things if it is decided first in the next
    /// batch.
    pub fn decide(&mut self, command: &Command, now: Timestamp) -> Option<Outcome> {
        self.decide_checked(command, now, None).map(|(outcome, _)| outcome)
    }

    /// Decides one command, given the check of its password. The outcome may be stored: it holds no
    /// secret. The tokens, of a `login` or `refresh` that is done, are for the sender alone
    /// ([`Tokens::answer`]).
    pub fn decide_checked(
        &mut self,
        command: &Command,
        now: Timestamp,
        checked: Option<&Checked>,
    ) -> Option<(Outcome, Option<Tokens>)> {
        let request = match &command.request {
            Ok(request) => request,
            Err(refusal) => return Some((Outcome::refused(command, refusal.clone(), None), None)),
        };
        let mut work = UnitOfWork::new(&self.loaded, command, now, checked);
        let decided = decide(&mut work, request);
        let (states, mut changes, seen) = work.into_parts();
        match decided {
            Ok(outcome) => {
                let tokens = changes.issued.take();
                self.apply(states, changes, now);
                Some((outcome, tokens))
            }
            Err(missing) => {
                self.loaded.deferred.extend(seen);
                self.missing.extend(missing);
                None
            }
        }
    }

    /// Returns the changed aggregates and locks, sorted by address.
    pub fn changed(&self) -> impl Iterator<Item = &State> {
        self.changed.iter().filter_map(|address| self.loaded.states.get(address))
    }

    /// Returns an aggregate that was loaded and not changed.
    #[must_use]
    pub fn unchanged(&self, address: &Address) -> Option<&State> {
        self.loaded.states.get(address).filter(|_| !self.changed.contains(address))
    }

    /// Returns the events so far, in the order in which they were decided.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns the rows of the lock history so far, in the order in which they were decided.
    #[must_use]
    pub fn history(&self) -> &[HistoryRow] {
        &self.history
    }

    /// Returns the rows of the security log so far, in the order in which they were decided.
    #[must_use]
    pub fn security(&self) -> &[SecurityEntry] {
        &self.security
    }

    /// Returns the refund tasks that are new or changed, with their tenants, sorted by tenant and
    /// id.
    pub fn refund_tasks(&self) -> impl Iterator<Item = (&Token, &RefundTask)> {
        self.refund_tasks.iter().map(|((tenant, _), task)| (tenant, task))
    }

    /// Returns the turns that are new or changed: tenant, table and turn, sorted by tenant and id.
    pub fn turns(&self) -> impl Iterator<Item = (&Token, &Token, &Turn)> {
        self.turns.iter().map(|((tenant, _), (table, turn))| (tenant, table, turn))
    }

    #[must_use]
    pub fn metrics(&self) -> &[LockMetric] {
        &self.metrics
    }

    /// Returns what the deferred commands need the next batch to load.
    #[must_use]
    pub fn missing(&self) -> &BTreeSet<Missing> {
        &self.missing
    }

    /// Returns the aggregates whose own parts are to be projected again, whatever KV is believed to
    /// hold.
    pub fn reprojected(&self) -> impl Iterator<Item = &State> {
        self.reprojected.iter().filter_map(|address| self.loaded.states.get(address))
    }

    /// Returns the parts whose last event is to go to the outbox again.
    #[must_use]
    pub fn repeat_events(&self) -> &BTreeSet<(Address, Part)> {
        &self.repeat_events
    }

    /// Returns what the tenants' programs are asked to do, after the commit. It holds secrets.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Returns the users who are erased, with the folded emails that they had.
    #[must_use]
    pub fn erased(&self) -> &[(Address, String)] {
        &self.erased
    }

    /// Returns the people whom programs have named, who need not be users: tenant and name.
    #[must_use]
    pub fn named(&self) -> &BTreeSet<(Token, Token)> {
        &self.named
    }

    /// Returns the failed logins, to be stored or forgotten.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.loaded.inputs.throttle
    }

    fn apply(&mut self, states: Vec<State>, changes: Changes, now: Timestamp) {
        for state in states {
            let address = state.head().address.clone();
            let before = self.loaded.states.insert(address.clone(), state);
            self.move_email(&address, before.as_ref());
            self.count_open(&address, before.as_ref());
            self.book(&address, before.as_ref());
            self.count_pending(&address, before.as_ref());
            if before.is_none() {
                self.list(&address);
            }
            self.changed.insert(address);
        }
        let Loaded { locked, tokens, inputs, .. } = &mut self.loaded;
        for (key, (table, turn)) in changes.turns {
            locked.turns.insert(key.clone(), Some(table.clone()));
            locked.turn_orders.entry(key.clone()).or_default();
            self.turns.insert(key, (table, turn));
        }
        tokens.truncate(tokens.len() - changes.tokens);
        let AuthInputs { randoms, throttle } = inputs;
        randoms.truncate(randoms.len() - changes.randoms);
        changes.cleared.into_iter().for_each(|key| throttle.clear(key));
        changes.failures.into_iter().for_each(|key| throttle.fail(key, now));
        self.events.extend(changes.events);
        self.history.extend(changes.history);
        self.security.extend(changes.security);
        self.hooks.extend(changes.hooks);
        self.erased.extend(changes.erased);
        for key in &changes.named {
            self.loaded.locked.named.entry(key.clone()).and_modify(|is_named| *is_named = true);
        }
        self.named.extend(changes.named);
        self.refund_tasks.extend(changes.refund_tasks);
        self.metrics.extend(changes.metrics);
        self.reprojected.extend(changes.reprojected);
        self.repeat_events.extend(changes.repeat_events);
    }
}

#[cfg(test)]
mod tests;
