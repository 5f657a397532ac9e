//! The pure core: every rule of the domain, one file per aggregate, without I/O, clock or
//! randomness.
//!
//! [`World`] holds the aggregates that a batch has loaded. [`World::decide`] lets one command
//! change it, so that the next command of the batch sees the result, and collects the events.

pub mod cart;
mod head;

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::{Address, Body, Command, Outcome, Refusal, Timestamp, Token, event};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

pub use cart::Cart;
pub use head::Head;

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
    carts: HashMap<Address, Cart>,
    changed: BTreeSet<Address>,
    events: Vec<Event>,
}

/// An event before it is known which command it came from.
#[derive(Debug)]
struct Fact {
    version: u64,
    kind: event::Kind,
    at: Timestamp,
    payload: event::Payload,
}

/// What a verb made of its aggregate.
struct Decided<A> {
    status: u16,
    state: A,
    facts: Vec<Fact>,
    data: Box<RawValue>,
}

impl World {
    /// A world with what was loaded; what is missing does not exist.
    #[must_use]
    pub fn new(carts: impl IntoIterator<Item = Cart>) -> Self {
        let carts = carts.into_iter().map(|cart| (cart.head.address.clone(), cart)).collect();
        Self { carts, ..Self::default() }
    }

    /// Decides one command at the time `now` of the database.
    pub fn decide(&mut self, command: &Command, now: Timestamp) -> Outcome {
        let request = match &command.request {
            Ok(request) => request,
            Err(refusal) => return Outcome::refused(command, refusal.clone(), None),
        };
        let present = self.carts.get(&request.address).map(|cart| cart.head.version);
        if request.deadline.is_some_and(|deadline| deadline < now) {
            let refusal =
                Refusal::new(504, "deadline_passed", "the deadline passed before this was decided");
            return Outcome::refused(command, refusal, present);
        }
        if request.expected_version.is_some_and(|expected| expected != present.unwrap_or(0)) {
            let refusal =
                Refusal::new(412, "version_mismatch", "the version is not the expected one");
            return Outcome::refused(command, refusal, present);
        }
        let decided = match &request.body {
            Body::Cart(verb) => {
                let cart = self.carts.get(&request.address);
                cart::decide(&request.address, cart, verb, now)
            }
        };
        match decided {
            Ok(decided) => self.accept(command, &request.address, decided),
            Err(refusal) => Outcome::refused(command, refusal, present),
        }
    }

    /// The changed carts, sorted by address.
    pub fn changed_carts(&self) -> impl Iterator<Item = &Cart> {
        self.changed.iter().filter_map(|address| self.carts.get(address))
    }

    /// A cart that was loaded and not changed.
    #[must_use]
    pub fn unchanged_cart(&self, address: &Address) -> Option<&Cart> {
        self.carts.get(address).filter(|_| !self.changed.contains(address))
    }

    /// The events so far, in the order in which they were decided.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn accept(&mut self, command: &Command, address: &Address, decided: Decided<Cart>) -> Outcome {
        let version = decided.state.head.version;
        self.carts.insert(address.clone(), decided.state);
        self.changed.insert(address.clone());
        self.events.extend(decided.facts.into_iter().map(|fact| Event {
            address: address.clone(),
            version: fact.version,
            kind: fact.kind,
            at: fact.at,
            payload: fact.payload,
            command_id: command.command_id.clone(),
            traceparent: command.traceparent.clone(),
        }));
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

/// Serialises a shape of ours.
///
/// # Panics
/// Never: the shapes have string keys and no failing `Serialize`.
fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("shapes serialise")
}
