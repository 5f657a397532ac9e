//! One command while it is being decided. Nothing of a draft reaches the world unless the command
//! is decided.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{
    Address, Aggregate, Body, Command, MAX_EVENT, Outcome, Part, Refusal, Timestamp, Token,
    command::Request, event, payment::RefundTask, rebuild::Rebuild, user::Tokens,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Cart, Event, HistoryRow, LockMetric, Mode, Order, Payment, State, Table, Turn, User, Want,
    World, cart, lock, order, payment, raw, table, too_large,
    user::{self, Checked, FailureKey},
};

/// Why a command is not done.
#[derive(Debug)]
pub(super) enum Stop {
    /// With what its outcome says besides.
    Refused(Box<(Refusal, Option<Extra>)>),
    /// Not decided; `None`: something that it looked up belongs to a command before it.
    OutOfReach(Option<Want>),
}

pub(super) type Result<T> = std::result::Result<T, Stop>;

/// A field of an outcome's data, besides the parts.
pub(super) type Extra = (&'static str, Box<RawValue>);

/// A command that is done.
#[derive(Debug)]
pub(super) struct Done {
    status: u16,
    code: &'static str,
    extras: Vec<Extra>,
}

impl Done {
    pub fn ok() -> Self {
        Self::code("ok")
    }

    pub fn created() -> Self {
        Self { status: 201, ..Self::code("created") }
    }

    /// A 200 that says more than `ok`.
    pub fn code(code: &'static str) -> Self {
        Self { status: 200, code, extras: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Self {
        self.extras.push((name, raw(value)));
        self
    }
}

/// What a command makes of the world.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub states: BTreeMap<Address, State>,
    pub events: Vec<Event>,
    pub history: Vec<HistoryRow>,
    pub tasks: BTreeMap<(Token, String), RefundTask>,
    /// By tenant and id, with the table's.
    pub turns: BTreeMap<(Token, Token), (Token, Turn)>,
    pub metrics: Vec<LockMetric>,
    pub shown_again: Vec<Address>,
    pub repeat_events: Vec<(Address, Part)>,
    /// How many fencing tokens were taken.
    pub tokens: usize,
    /// How many random numbers were taken.
    pub randoms: usize,
    /// Failed logins.
    pub failures: Vec<FailureKey>,
    /// Of which earlier failures do not count any more.
    pub cleared: Vec<FailureKey>,
    /// What only the sender is told.
    pub tokens_told: Option<Tokens>,
}

pub(super) struct Draft<'w> {
    pub world: &'w World,
    pub command: &'w Command,
    pub now: Timestamp,
    /// What its password came to.
    pub checked: Option<&'w Checked>,
    pub changes: Changes,
    /// What stays though the command is refused: the expiries that it met, before all else.
    kept: Changes,
    seen: BTreeSet<Address>,
}

impl<'w> Draft<'w> {
    pub fn new(world: &'w World, command: &'w Command, now: Timestamp) -> Self {
        let (changes, kept) = (Changes::default(), Changes::default());
        Self { world, command, now, checked: None, changes, kept, seen: BTreeSet::new() }
    }

    /// What changed, and what was looked up.
    pub fn into_parts(self) -> (Changes, BTreeSet<Address>) {
        (self.changes, self.seen)
    }

    /// # Errors
    /// It is not decided; what it lacked, if it is not only behind others.
    pub fn decide(&mut self, request: &Request) -> std::result::Result<Outcome, Option<Want>> {
        let decided = self.try_decide(request).and_then(|done| {
            table::settle(self)?;
            self.require_small_events()?;
            Ok(done)
        });
        let refused = match decided {
            Ok(done) => return Ok(self.done(&request.address, done)),
            Err(Stop::OutOfReach(want)) => return Err(want),
            Err(Stop::Refused(refused)) => refused,
        };
        self.changes = self.kept.clone();
        let (refusal, extra) = *refused;
        match lock::note_refusal(self, &request.body, &refusal) {
            Err(Stop::OutOfReach(want)) => return Err(want),
            Ok(()) | Err(Stop::Refused(_)) => {}
        }
        let present = self.present(&request.address).map(|state| state.head().version);
        let present = present.filter(|_| user::tells_version(&request.body));
        let mut outcome = Outcome::refused(self.command, refusal, present);
        if let Some(extra) = extra {
            outcome.data = raw(&Data(vec![extra]));
        }
        Ok(outcome)
    }

    fn try_decide(&mut self, request: &Request) -> Result<Done> {
        let address = &request.address;
        self.state(address)?;
        if request.deadline.is_some_and(|deadline| deadline < self.now) {
            let message = "the deadline passed before this was decided";
            return Err(Refusal::new(504, "deadline_passed", message).into());
        }
        if !user::is_for_strangers(&request.body) {
            self.expect_version(request)?;
        }
        match &request.body {
            Body::Cart(verb) => cart::decide(self, address, verb),
            Body::Payment(verb) => payment::decide(self, address, verb),
            Body::Order(verb) => order::decide(self, address, verb),
            Body::Table(verb) => table::decide(self, address, verb),
            Body::User(verb) => user::decide(self, request, verb),
            Body::Rebuild(_, rebuild) => self.rebuild(address, rebuild),
        }
    }

    /// Refuses what no stream would take. The limits of carts, orders and turns are such that it
    /// never happens; but an event that is committed and cannot be published is worse.
    fn require_small_events(&self) -> Result<()> {
        if self.changes.events.iter().all(|event| event.payload.size() <= MAX_EVENT) {
            return Ok(());
        }
        Err(too_large("the event of this command would be too large").into())
    }

    /// Refuses a command whose sender expects another version.
    pub fn expect_version(&mut self, request: &Request) -> Result<()> {
        let present = self.state(&request.address)?.map_or(0, |state| state.head().version);
        if request.expected_version.is_some_and(|expected| expected != present) {
            let message = "the version is not the expected one";
            return Err(Refusal::new(412, "version_mismatch", message).into());
        }
        Ok(())
    }

    fn done(&self, address: &Address, done: Done) -> Outcome {
        let state = self.present(address).expect("whatever is done is done to something");
        let version = state.head().version;
        let of_subject = |event: &&Event| event.address == *address;
        let touched = |event: &Event| event.kind.touches.contains(&Part::Payments);
        let mut data = match state {
            State::User(user) => user.shown(),
            _ => vec![("core", state.part(Part::Core))],
        };
        if self.changes.events.iter().filter(of_subject).any(touched) {
            data.push(("payments", state.part(Part::Payments)));
        }
        data.extend(done.extras);
        let version_before = |address| self.world.states.get(address).map(|s| s.head().version);
        let effects = self.changes.states.iter().filter_map(|(address, state)| {
            let version = state.head().version;
            (version_before(address) != Some(version)).then(|| address.at(version))
        });
        let turns = self.changes.turns.iter();
        let turns = turns.map(|((_, id), (_, turn))| format!("turn.{id}@{}", turn.version));
        Outcome {
            command_id: Some(self.command.command_id.to_string()),
            status: done.status,
            code: done.code.into(),
            message: "done".into(),
            aggregate: address.aggregate.to_string(),
            id: address.id.to_string(),
            version: Some(version),
            etag: Some(Outcome::etag_of(version)),
            effects: effects.chain(turns).collect(),
            data: raw(&Data(data)),
            retry_after_ms: None,
        }
    }

    fn rebuild(&mut self, address: &Address, rebuild: &Rebuild) -> Result<Done> {
        self.state(address)?.ok_or_else(super::not_found)?;
        let asked = |part: &Part| rebuild.part.is_none_or(|only| only == *part);
        for part in address.aggregate.parts().iter().copied().filter(asked) {
            if part.is_projected() {
                self.changes.repeat_events.push((address.clone(), part));
            } else {
                self.changes.shown_again.push(address.clone());
            }
        }
        Ok(Done::ok())
    }

    /// An address in the tenant of the command.
    pub fn address(&self, aggregate: Aggregate, id: &Token) -> Address {
        Address { tenant: self.command.tenant.clone(), aggregate, id: id.clone() }
    }

    /// What is there now, whether in reach or not.
    fn present(&self, address: &Address) -> Option<&State> {
        self.changes.states.get(address).or_else(|| self.world.states.get(address))
    }

    /// Looks up an aggregate; `None`: there is none.
    pub fn state(&mut self, address: &Address) -> Result<Option<&State>> {
        self.look_at(address)?;
        let state = self.present(address);
        if state.is_none() && !self.world.reach.addresses.contains(address) {
            return Err(Stop::OutOfReach(Some(Want::Aggregate(address.clone()))));
        }
        Ok(state)
    }

    fn look_at(&mut self, address: &Address) -> Result<()> {
        if !self.seen.contains(address) {
            self.seen.insert(address.clone());
        }
        let behind = self.world.held_back.contains(address);
        if behind { Err(Stop::OutOfReach(None)) } else { Ok(()) }
    }

    pub fn cart(&mut self, address: &Address) -> Result<Option<Cart>> {
        Ok(self.state(address)?.and_then(State::cart).cloned())
    }

    pub fn order(&mut self, address: &Address) -> Result<Option<Order>> {
        Ok(self.state(address)?.and_then(State::order).cloned())
    }

    pub fn payment(&mut self, address: &Address) -> Result<Option<Payment>> {
        Ok(self.state(address)?.and_then(State::payment).cloned())
    }

    pub fn table(&mut self, address: &Address) -> Result<Option<Table>> {
        Ok(self.state(address)?.and_then(State::table).cloned())
    }

    pub fn user(&mut self, address: &Address) -> Result<Option<User>> {
        Ok(self.state(address)?.and_then(State::user).cloned())
    }

    /// A cart as it is now: what was done since it was read may have changed it.
    pub fn again(&self, cart: Cart) -> Cart {
        let changed = self.changes.states.get(&cart.head.address);
        changed.and_then(State::cart).cloned().unwrap_or(cart)
    }

    /// Requires an owner to be locked in SQL.
    pub fn reach_owner(&mut self, lock: &Address, mode: Mode) -> Result<()> {
        self.look_at(lock)?;
        if self.world.reach.owners.get(lock).is_some_and(|reached| *reached >= mode) {
            return Ok(());
        }
        Err(Stop::OutOfReach(Some(Want::Owner(lock.clone(), mode))))
    }

    /// The lock row of an owner whose lock was reached.
    pub fn lock_row(&self, lock: &Address) -> Option<&lock::Lock> {
        self.present(lock).and_then(State::lock)
    }

    /// The next fencing token.
    pub fn fencing_token(&mut self) -> Result<i64> {
        let left = self.world.tokens.len().checked_sub(self.changes.tokens + 1);
        let at = left.ok_or(Stop::OutOfReach(Some(Want::FencingToken)))?;
        self.changes.tokens += 1;
        Ok(self.world.tokens[at])
    }

    /// Keeps what was changed so far, even if the command is then refused.
    pub fn keep(&mut self) {
        self.kept = self.changes.clone();
    }

    /// Counts a change that was made to an aggregate, and makes its event.
    pub fn record(&mut self, state: impl Into<State>, kind: event::Kind, data: &impl Serialize) {
        let mut state = state.into();
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
        self.changes.events.push(Event {
            address: head.address.clone(),
            version: head.version,
            kind,
            at: self.now,
            payload: event::Payload { data: raw(data), after },
            command_id: self.command.command_id.clone(),
            traceparent: self.command.traceparent.clone(),
        });
        self.changes.states.insert(head.address.clone(), state);
    }

    /// Notes a turn of a table that is new, or changed.
    pub fn note_turn(&mut self, table: &Address, turn: Turn) {
        let key = (table.tenant.clone(), turn.id.clone());
        self.changes.turns.insert(key, (table.id.clone(), turn));
    }

    /// Notes a refund task that is new, or done.
    pub fn note_task(&mut self, task: RefundTask) {
        let key = (self.command.tenant.clone(), task.id.clone());
        self.changes.tasks.insert(key, task);
    }
}

/// The data of an outcome: parts as they are shown, and what the verb adds.
struct Data(Vec<Extra>);

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
