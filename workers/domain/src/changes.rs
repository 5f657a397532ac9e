//! The results of a command, or of a batch, that are stored with the states of its aggregates.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use brigade_contracts::{
    Address, Email, Part, Secret, Timestamp, Token, Via, event,
    lock::Action,
    payment::{Method, RefundTask},
    user::Tokens,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{json::raw, security::SecurityEntry, state::Turn, throttle::FailureKey};

/// The record of a change that a rule made: the kind of the event, and its data.
pub(crate) struct Fact {
    pub kind: event::EventKind,
    pub data: Box<RawValue>,
}

impl Fact {
    pub fn new(kind: event::EventKind, data: &impl Serialize) -> Self {
        Self { kind, data: raw(data) }
    }
}

/// The record of a change of a held lock: the event of the cart that holds it, and the row of
/// the history.
pub(crate) struct LockFact {
    pub fact: Fact,
    pub action: Action,
    pub reason: Option<String>,
}

/// A fact that was decided, ready to be stored.
#[derive(Clone, Debug)]
pub struct Event {
    pub address: Address,
    pub version: u64,
    pub kind: event::EventKind,
    pub at: Timestamp,
    pub payload: event::Payload,
    pub command_id: Token,
    pub actor: Option<Token>,
    pub via: Via,
    pub traceparent: Option<String>,
}

/// A row of the history of locks, which is only ever added to.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryRow {
    pub tenant: Token,
    pub owner: Token,
    pub cart_id: Token,
    pub token: Option<i64>,
    pub action: Action,
    pub method: Option<Method>,
    pub reason: Option<String>,
    pub actor: Option<Token>,
    pub at: Timestamp,
}

/// An observation about a lock, which is counted once the decision is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockMetric {
    Acquired(Method),
    /// A `lock` or an `initiate` was refused with this code.
    Refused(Method, Cow<'static, str>),
    /// The lock was held so long, until it was released or expired.
    Held {
        method: Method,
        millis: u64,
        ended: Action,
    },
}

/// A token for a new password, which a program of the tenant sends to the user.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub user: Address,
    pub email: Email,
    pub token: Secret,
    pub expires_at: Timestamp,
}

/// The results of one command, except the changed states.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub events: Vec<Event>,
    pub history: Vec<HistoryRow>,
    /// The refund tasks that are new or changed, by tenant and id.
    pub refund_tasks: BTreeMap<(Token, String), RefundTask>,
    /// The turns that are new or changed, by tenant and id, each with the id of its table.
    pub turns: BTreeMap<(Token, Token), (Token, Turn)>,
    pub metrics: Vec<LockMetric>,
    /// Aggregates whose own parts are to be projected again.
    pub reprojected: Vec<Address>,
    /// Parts whose last event is to go to the outbox again.
    pub repeat_events: Vec<(Address, Part)>,
    /// The number of fencing tokens that were used.
    pub tokens: usize,
    /// The number of random numbers that were used.
    pub randoms: usize,
    /// The keys of failed logins.
    pub failures: Vec<FailureKey>,
    /// The keys whose earlier failures do not count any more.
    pub cleared: Vec<FailureKey>,
    /// Rows of the security log.
    pub security: Vec<SecurityEntry>,
    /// The tokens that only the sender gets.
    pub issued: Option<Tokens>,
    /// The users who are erased, with the folded emails that they had.
    pub erased: Vec<(Address, String)>,
    /// The requests to the tenant's programs, sent after the commit.
    pub hooks: Vec<Hook>,
    /// The people who were named, by tenant and name.
    pub named: BTreeSet<(Token, Token)>,
}
