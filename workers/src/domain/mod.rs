//! The pure core: every rule of the domain, one file per aggregate, without I/O, clock or
//! randomness.
//!
//! [`World`] holds the aggregates that a batch has loaded. [`World::decide`] lets one command
//! change it, so that the next command of the batch sees the result, and collects the events.

pub mod cart;
mod head;
pub mod order;
mod state;

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::{Address, Body, Command, Outcome, Part, Refusal, Timestamp, Token, event};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

pub use cart::Cart;
pub use head::Head;
pub use order::Order;
pub use state::State;

/// A fact that was decided, ready to be stored.
#[derive(Clone, Debug)]
pub struct Event {
    pub address: Address,
    pub version: u64,
    pub kind: event::Kind,
    pub at: Timestamp,
    pub payload: event::Payload,
    pub command_id: Token,
    pub traceparent: Option<String>,
}

/// The aggregates that a batch works on, as they are after the commands decided so far.
#[derive(Debug, Default)]
pub struct World {
    states: HashMap<Address, State>,
    changed: BTreeSet<Address>,
    events: Vec<Event>,
}

/// What a verb made of its aggregate.
struct Decided {
    status: u16,
    state: State,
    fact: Fact,
    data: Box<RawValue>,
}

/// An event before it is known which command it came from.
#[derive(Debug)]
struct Fact {
    kind: event::Kind,
    at: Timestamp,
    payload: event::Payload,
}

type Result<T> = std::result::Result<T, Refusal>;

impl World {
    /// A world with what was loaded; what is missing does not exist.
    #[must_use]
    pub fn new(states: impl IntoIterator<Item = State>) -> Self {
        let states = states.into_iter().map(|state| (state.head().address.clone(), state));
        Self { states: states.collect(), ..Self::default() }
    }

    /// Decides one command at the time `now` of the database.
    pub fn decide(&mut self, command: &Command, now: Timestamp) -> Outcome {
        let request = match &command.request {
            Ok(request) => request,
            Err(refusal) => return Outcome::refused(command, refusal.clone(), None),
        };
        let address = &request.address;
        let state = self.states.get(address);
        let present = state.map(|state| state.head().version);
        if request.deadline.is_some_and(|deadline| deadline < now) {
            let message = "the deadline passed before this was decided";
            let refusal = Refusal::new(504, "deadline_passed", message);
            return Outcome::refused(command, refusal, present);
        }
        if request.expected_version.is_some_and(|expected| expected != present.unwrap_or(0)) {
            let message = "the version is not the expected one";
            let refusal = Refusal::new(412, "version_mismatch", message);
            return Outcome::refused(command, refusal, present);
        }
        let decided = match &request.body {
            Body::Cart(verb) => cart::decide(address, state.and_then(State::cart), verb, now),
            Body::Order(verb) => order::decide(address, state.and_then(State::order), verb, now),
        };
        match decided {
            Ok(decided) => self.accept(command, address, decided),
            Err(refusal) => Outcome::refused(command, refusal, present),
        }
    }

    /// The changed aggregates, sorted by address.
    pub fn changed(&self) -> impl Iterator<Item = &State> {
        self.changed.iter().filter_map(|address| self.states.get(address))
    }

    /// An aggregate that was loaded and not changed.
    #[must_use]
    pub fn unchanged(&self, address: &Address) -> Option<&State> {
        self.states.get(address).filter(|_| !self.changed.contains(address))
    }

    /// The events so far, in the order in which they were decided.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn accept(&mut self, command: &Command, address: &Address, decided: Decided) -> Outcome {
        let version = decided.state.head().version;
        self.states.insert(address.clone(), decided.state);
        self.changed.insert(address.clone());
        self.events.push(Event {
            address: address.clone(),
            version,
            kind: decided.fact.kind,
            at: decided.fact.at,
            payload: decided.fact.payload,
            command_id: command.command_id.clone(),
            traceparent: command.traceparent.clone(),
        });
        Outcome {
            command_id: Some(command.command_id.to_string()),
            status: decided.status,
            code: if decided.status == 201 { "created" } else { "ok" }.into(),
            message: "done".into(),
            aggregate: address.aggregate.to_string(),
            id: address.id.to_string(),
            version: Some(version),
            etag: Some(Outcome::etag_of(version)),
            effects: vec![address.at(version)],
            data: decided.data,
            retry_after_ms: None,
        }
    }
}

/// Counts a change that was made to `state` and makes its event. The answer shows `core`, and
/// `payments` too where the change touches them.
fn record(
    mut state: State,
    kind: event::Kind,
    data: &impl Serialize,
    status: u16,
    now: Timestamp,
) -> Decided {
    #[derive(Serialize)]
    struct Shown<'a> {
        core: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        payments: Option<&'a RawValue>,
    }
    state.head_mut().touch(&kind, now);
    let touched = kind.touches.contains(&Part::Payments);
    let core = state.part(Part::Core);
    let payments = (touched || kind.ends).then(|| state.part(Part::Payments));
    let answer = raw(&Shown { core: &core, payments: payments.as_deref().filter(|_| touched) });
    let after = event::After { ended: kind.ends, core: kind.ends.then_some(core), payments };
    let payload = event::Payload { data: raw(data), after };
    Decided { status, state, fact: Fact { kind, at: now, payload }, data: answer }
}

/// Serialises a shape of ours.
///
/// # Panics
/// Never: the shapes have string keys and no failing `Serialize`.
fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("shapes serialise")
}

fn already_exists() -> Refusal {
    Refusal::new(409, "already_exists", "there is something of this id already")
}

fn not_found() -> Refusal {
    Refusal::new(404, "not_found", "there is nothing of this id")
}

fn too_large(what: &'static str) -> Refusal {
    Refusal::new(422, "too_large", what)
}
