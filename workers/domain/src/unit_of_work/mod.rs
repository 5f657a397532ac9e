//! One command while it is decided: it reads what its batch has loaded, and changes a copy. Nothing
//! of it reaches the batch unless the command is decided.
//!
//! States are handed out by [`Handle`]: `work[cart]` reads the present state of a cart and changes
//! it in place, so that no copy of it can be stale. A state is copied when it is first changed.
//! [`UnitOfWork::record`] gives the change a version and an event; what is changed without is
//! stored under the version that it had, which only counts of refusals may be.

mod handle;
mod log;
mod lookups;

use std::{borrow::Cow, collections::BTreeSet, mem};

use brigade_contracts::{
    Address, Aggregate, Command, Part, Refusal, Timestamp, Token, command::Request, event,
    lock::Action, payment::RefundTask,
};

pub(crate) use self::handle::Handle;
use crate::{
    changes::{Changes, Event, Fact, HistoryRow, LockFact, LockMetric},
    inputs::Checked,
    loaded::{Loaded, Missing, Mode},
    outcome::{Done, NotDone, Result},
    policy::LockPolicy,
    refusal::not_found,
    state::{Cart, Lock, State, Stored, Table, Turn},
};

pub(crate) struct UnitOfWork<'b> {
    batch: &'b Loaded,
    pub command: &'b Command,
    pub now: Timestamp,
    checked: Option<&'b Checked>,
    pub changes: Changes,
    /// The states that handles name: borrowed from the batch until they are changed.
    states: Vec<Cow<'b, State>>,
    /// The states and changes that are stored even if the command is refused.
    kept: (Vec<Cow<'b, State>>, Changes),
    seen: BTreeSet<Address>,
}

impl<'b> UnitOfWork<'b> {
    pub fn new(
        batch: &'b Loaded,
        command: &'b Command,
        now: Timestamp,
        checked: Option<&'b Checked>,
    ) -> Self {
        Self {
            batch,
            command,
            now,
            checked,
            changes: Changes::default(),
            states: Vec::new(),
            kept: Default::default(),
            seen: BTreeSet::new(),
        }
    }

    /// Returns the changed states, the other changes, and all addresses that were looked up.
    pub fn into_parts(self) -> (Vec<State>, Changes, BTreeSet<Address>) {
        let changed = self.states.into_iter().filter_map(|state| match state {
            Cow::Owned(state) => Some(state),
            Cow::Borrowed(_) => None,
        });
        (changed.collect(), self.changes, self.seen)
    }

    pub fn lock_policy(&self) -> &'b LockPolicy {
        &self.batch.policy
    }

    /// Keeps what was changed so far, even if the command is then refused.
    pub fn keep(&mut self) {
        self.kept = (self.states.clone(), self.changes.clone());
    }

    /// Drops all changes but those that are kept.
    pub fn roll_back(&mut self) {
        (self.states, self.changes) = mem::take(&mut self.kept);
    }

    /// Returns an address in the tenant of the command.
    pub fn address(&self, aggregate: Aggregate, id: &Token) -> Address {
        Address { tenant: self.command.tenant.clone(), aggregate, id: id.clone() }
    }

    /// Returns the present state of an aggregate or a lock, if one is loaded.
    pub fn present(&self, address: &Address) -> Option<&State> {
        let changed = self.states.iter().find(|state| state.head().address == *address);
        changed.map(AsRef::as_ref).or_else(|| self.batch.states.get(address))
    }

    /// Returns the state that an aggregate had before the command.
    pub fn before(&self, address: &Address) -> Option<&'b State> {
        self.batch.states.get(address)
    }

    /// Returns the states that the command has changed.
    pub fn changed(&self) -> impl Iterator<Item = &State> {
        self.states.iter().filter_map(|state| match state {
            Cow::Owned(state) => Some(state),
            Cow::Borrowed(_) => None,
        })
    }

    /// Looks up an aggregate that is only read.
    pub fn find<T: Stored>(&mut self, address: &Address) -> Result<Option<&T>> {
        Ok(self.look_up(address)?.and_then(T::of))
    }

    /// Looks up an aggregate.
    pub fn load<T: Stored>(&mut self, address: &Address) -> Result<Option<Handle<T>>> {
        self.look_up(address)?;
        Ok(self.handle(address))
    }

    /// Looks up an aggregate that has to exist.
    pub fn existing<T: Stored>(&mut self, address: &Address) -> Result<Handle<T>> {
        Ok(self.load(address)?.ok_or_else(not_found)?)
    }

    /// Looks up the lock of an owner, who has to be locked in SQL in this mode.
    pub fn load_lock(&mut self, lock: &Address, mode: Mode) -> Result<Option<Handle<Lock>>> {
        self.require_owner(lock, mode)?;
        Ok(self.handle(lock))
    }

    /// Requires an owner to be locked in SQL in this mode.
    pub fn require_owner(&mut self, lock: &Address, mode: Mode) -> Result<()> {
        self.mark_seen(lock)?;
        if self.batch.locked.owners.get(lock).is_some_and(|locked| *locked >= mode) {
            return Ok(());
        }
        Err(Missing::Owner(lock.clone(), mode).into())
    }

    /// Adds a state of something that did not exist.
    pub fn create<T: Stored>(&mut self, state: T) -> Handle<T> {
        self.states.push(Cow::Owned(state.into()));
        Handle::new(self.states.len() - 1)
    }

    /// Puts a state in the place of the known one, if there is one.
    pub fn store<T: Stored>(&mut self, known: Option<Handle<T>>, state: T) -> Handle<T> {
        let Some(handle) = known else { return self.create(state) };
        self.states[handle.at] = Cow::Owned(state.into());
        handle
    }

    fn look_up(&mut self, address: &Address) -> Result<Option<&State>> {
        self.mark_seen(address)?;
        let state = self.present(address);
        if state.is_none() && !self.batch.locked.addresses.contains(address) {
            return Err(Missing::Aggregate(address.clone()).into());
        }
        Ok(state)
    }

    fn mark_seen(&mut self, address: &Address) -> Result<()> {
        if !self.seen.contains(address) {
            self.seen.insert(address.clone());
        }
        let waits = self.batch.deferred.contains(address);
        if waits { Err(NotDone::Deferred(None)) } else { Ok(()) }
    }

    fn handle<T: Stored>(&mut self, address: &Address) -> Option<Handle<T>> {
        let known = self.states.iter().position(|state| state.head().address == *address);
        let at = match known {
            Some(at) => at,
            None => {
                self.states.push(Cow::Borrowed(self.batch.states.get(address)?));
                self.states.len() - 1
            }
        };
        T::of(&self.states[at]).map(|_| Handle::new(at))
    }

    /// Refuses a command whose sender expects another version.
    pub fn expect_version(&mut self, request: &Request) -> Result<()> {
        let present = self.look_up(&request.address)?.map_or(0, |state| state.head().version);
        let present = self.batch.era.at(present);
        if request.expected_version.is_some_and(|expected| !expected.names(present)) {
            let message = "the version is not the expected one";
            return Err(Refusal::new(412, "version_mismatch", message).into());
        }
        Ok(())
    }

    /// Changes an aggregate by a rule, which refuses or tells what it did, and records that.
    pub fn change<T: Stored>(
        &mut self,
        handle: Handle<T>,
        rule: impl FnOnce(&mut T) -> std::result::Result<Fact, Refusal>,
    ) -> Result<Done> {
        let fact = rule(&mut self[handle])?;
        self.record(handle, fact);
        Ok(Done::ok())
    }

    /// Counts a change that was made to an aggregate, and makes its event.
    pub fn record<T: Stored>(&mut self, handle: Handle<T>, fact: Fact) {
        let Fact { kind, data } = fact;
        let state = self.states[handle.at].to_mut();
        state.head_mut().touch(&kind, self.now);
        let part = |part| kind.carries(part).then(|| state.part(part));
        let after = event::After {
            ended: state.has_ended(),
            core: part(Part::Core),
            payments: part(Part::Payments),
            subscription: part(Part::Subscription),
            roles: part(Part::Roles),
        };
        let head = state.head();
        let event = Event {
            address: head.address.clone(),
            version: head.version,
            kind,
            at: self.now,
            payload: event::Payload { data, after },
            command_id: self.command.command_id.clone(),
            actor: self.command.actor.clone(),
            via: self.command.via,
            traceparent: self.command.traceparent.clone(),
        };
        self.log_event(&event);
        self.changes.events.push(event);
    }

    /// Changes a held lock by a rule, and records what the rule tells: for the cart that holds it,
    /// and in the history.
    pub fn change_lock(
        &mut self,
        lock: Handle<Lock>,
        rule: impl FnOnce(&mut Lock) -> LockFact,
    ) -> Result<()> {
        let LockFact { fact, action, reason } = rule(&mut self[lock]);
        let Lock { method, acquired_at, expires_at, .. } = self[lock];
        let deadline = self[lock].is_held().then_some(expires_at);
        if deadline.is_none() {
            let millis = acquired_at.millis_until(self.now);
            self.changes.metrics.push(LockMetric::Held { method, millis, ended: action });
        }
        if let Some(cart) = self.load::<Cart>(&self[lock].cart())? {
            self[cart].locked_until = deadline;
            self.record(cart, fact);
        }
        self.record_lock(lock, action, reason)
    }

    /// Counts a change that was made to a lock, whose owner has to be locked exclusively in SQL,
    /// and adds it to the history. No event is made of it: its cart has one.
    pub fn record_lock(
        &mut self,
        lock: Handle<Lock>,
        action: Action,
        reason: Option<String>,
    ) -> Result<()> {
        self.require_owner(&self[lock].head.address.clone(), Mode::Exclusive)?;
        let (now, actor) = (self.now, self.command.actor.clone());
        let Lock { head, cart_id, token, method, .. } = &mut self[lock];
        head.version += 1;
        head.at = now;
        let row = HistoryRow {
            tenant: head.address.tenant.clone(),
            owner: head.address.id.clone(),
            cart_id: cart_id.clone(),
            token: Some(*token),
            action,
            method: Some(*method),
            reason,
            actor,
            at: now,
        };
        self.changes.history.push(row);
        Ok(())
    }

    /// Stores a turn of a table that is new or changed.
    pub fn record_turn(&mut self, table: Handle<Table>, turn: Turn) {
        let address = &self[table].head.address;
        let key = (address.tenant.clone(), turn.id.clone());
        let table = address.id.clone();
        self.changes.turns.insert(key, (table, turn));
    }

    /// Stores a refund task that is new or changed.
    pub fn record_refund_task(&mut self, task: RefundTask) {
        let key = (self.command.tenant.clone(), task.id.clone());
        self.changes.refund_tasks.insert(key, task);
    }
}
