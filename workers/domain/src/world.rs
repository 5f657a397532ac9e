use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use brigade_contracts::{
    Address, Command, Outcome, Part, Refusal, Timestamp, Token,
    cart::Status,
    event,
    lock::Action,
    payment::{Method, RefundTask},
    user::Tokens,
};

use super::{
    State, Turn,
    draft::{Changes, Draft, Stop},
    user::{Checked, FailureKey, Supplies, Throttle},
};

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

/// What is counted about locks once the decision is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockMetric {
    Acquired(Method),
    /// A `lock` or an `initiate` was refused with this code.
    Refused(Method, Cow<'static, str>),
    /// It was held so long, until it was released or expired.
    Held {
        method: Method,
        millis: u64,
        ended: Action,
    },
}

/// How long locks live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPolicy {
    /// From acquisition to the deadline, per method.
    pub card: Duration,
    pub wallet: Duration,
    pub qr: Duration,
    pub cash: Duration,
    /// From acquisition to the last deadline that extensions can reach.
    pub cap: Duration,
}

impl Default for LockPolicy {
    fn default() -> Self {
        let ten = Duration::from_secs(10 * 60);
        Self { card: ten, wallet: ten, qr: ten, cash: ten, cap: Duration::from_secs(30 * 60) }
    }
}

impl LockPolicy {
    #[must_use]
    pub fn timeout(&self, method: Method) -> Duration {
        match method {
            Method::Card => self.card,
            Method::Wallet => self.wallet,
            Method::Qr => self.qr,
            Method::Cash => self.cash,
        }
    }
}

/// How firmly an owner is locked in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Enough to rely on what the lock says.
    Shared,
    /// Enough to change it.
    Exclusive,
}

/// What is locked in SQL: of this, what was not loaded does not exist.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub addresses: HashSet<Address>,
    /// By the address of the owner's lock.
    pub owners: HashMap<Address, Mode>,
    /// By tenant: the version that a lock begins above which has no row.
    pub lock_floors: HashMap<Token, u64>,
    /// By tenant and session: every cart of that session. The carts are in reach as well.
    pub sessions: HashMap<(Token, Token), Vec<Address>>,
    /// By tenant and name: how many open carts have it as their owner or their session.
    pub open_carts: HashMap<(Token, Token), usize>,
    /// By tenant and turn: the table that it is or was at, if there is such a turn.
    pub turns: HashMap<(Token, Token), Option<Token>>,
    /// By tenant and turn: every order of the open or latest turn of each table that is in reach.
    /// The orders are in reach as well.
    pub turn_orders: HashMap<(Token, Token), Vec<Address>>,
    /// By tenant and folded email: the user that has it. The user need not be in reach.
    pub emails: HashMap<(Token, String), Option<Address>>,
}

/// What a postponed command lacked, for the next batch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    Aggregate(Address),
    /// By the address of the owner's lock.
    Owner(Address, Mode),
    /// Of a tenant: the version that a new row of a lock begins above.
    LockFloor(Token),
    /// Tenant and session.
    Session(Token, Token),
    /// Tenant and name: how many open carts have it.
    OpenCarts(Token, Token),
    /// Tenant and turn.
    Turn(Token, Token),
    /// One more fencing token.
    FencingToken,
    /// Tenant and folded email.
    Email(Token, String),
    /// Of the command of this tenant and id: what its password comes to, against the hash that
    /// the user has now.
    Password(Token, Token),
    /// One more random number for a token.
    Random,
    /// How often a key has failed.
    Failures(FailureKey),
}

/// The aggregates that a batch works on, as they are after the commands decided so far.
#[derive(Debug, Default)]
pub struct World {
    pub(super) states: HashMap<Address, State>,
    pub(super) reach: Reach,
    pub(super) policy: LockPolicy,
    /// Fencing tokens that are left, the next one last.
    pub(super) tokens: Vec<i64>,
    pub(super) supplies: Supplies,
    /// What commands that were postponed were about: later ones wait behind them.
    pub(super) held_back: HashSet<Address>,
    wanted: BTreeSet<Want>,
    changed: BTreeSet<Address>,
    events: Vec<Event>,
    history: Vec<HistoryRow>,
    tasks: BTreeMap<(Token, String), RefundTask>,
    turns: BTreeMap<(Token, Token), (Token, Turn)>,
    metrics: Vec<LockMetric>,
    shown_again: BTreeSet<Address>,
    repeat_events: BTreeSet<(Address, Part)>,
}

impl World {
    /// A world with what was loaded, what of the rest is known not to exist, and fencing tokens in
    /// ascending order, drawn while the owners were locked.
    #[must_use]
    pub fn new(
        states: impl IntoIterator<Item = State>,
        reach: Reach,
        policy: LockPolicy,
        tokens: impl IntoIterator<Item = i64>,
    ) -> Self {
        let states = states.into_iter().map(|state| (state.head().address.clone(), state));
        let mut tokens: Vec<_> = tokens.into_iter().collect();
        tokens.reverse();
        Self { states: states.collect(), reach, policy, tokens, ..Self::default() }
    }

    /// The same with what decisions about users need.
    #[must_use]
    pub fn with_users(self, supplies: Supplies) -> Self {
        Self { supplies, ..self }
    }

    /// Decides one command at the time `now` of the database. An outcome of 503 is not final: it is
    /// not to be stored.
    ///
    /// `None`: it is not decided, and nothing is changed, because it came to something that is out
    /// of reach ([`World::wanted`]) or that a command postponed before it is about. It keeps its
    /// place before all later ones on the same things if it is decided first in the next batch.
    pub fn decide(&mut self, command: &Command, now: Timestamp) -> Option<Outcome> {
        self.decide_checked(command, now, None).map(|(outcome, _)| outcome)
    }

    /// The same with what the command's password came to. The outcome may be stored: it holds no
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
        let mut draft = Draft::new(self, command, now);
        draft.checked = checked;
        let decided = draft.decide(request);
        let (mut changes, seen) = draft.into_parts();
        match decided {
            Ok(outcome) => {
                let tokens = changes.tokens_told.take();
                self.absorb(changes, now);
                Some((outcome, tokens))
            }
            Err(want) => {
                self.held_back.extend(seen);
                self.wanted.extend(want);
                None
            }
        }
    }

    /// The changed aggregates and locks, sorted by address.
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

    /// The audit rows so far, in the order in which they were decided.
    #[must_use]
    pub fn history(&self) -> &[HistoryRow] {
        &self.history
    }

    /// Refund tasks that are new or done, with their tenants, sorted by tenant and id.
    pub fn refund_tasks(&self) -> impl Iterator<Item = (&Token, &RefundTask)> {
        self.tasks.iter().map(|((tenant, _), task)| (tenant, task))
    }

    /// Turns that are new or changed: tenant, table and turn, sorted by tenant and id.
    pub fn turns(&self) -> impl Iterator<Item = (&Token, &Token, &Turn)> {
        self.turns.iter().map(|((tenant, _), (table, turn))| (tenant, table, turn))
    }

    #[must_use]
    pub fn metrics(&self) -> &[LockMetric] {
        &self.metrics
    }

    /// What the postponed commands lacked.
    #[must_use]
    pub fn wanted(&self) -> &BTreeSet<Want> {
        &self.wanted
    }

    /// Aggregates whose own parts are to be shown again, whatever KV is believed to hold.
    pub fn shown_again(&self) -> impl Iterator<Item = &State> {
        self.shown_again.iter().filter_map(|address| self.states.get(address))
    }

    /// Parts of which the last event that touched them is to go to the outbox again.
    #[must_use]
    pub fn repeat_events(&self) -> &BTreeSet<(Address, Part)> {
        &self.repeat_events
    }

    /// Failed logins, to be stored or forgotten.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.supplies.throttle
    }

    fn absorb(&mut self, changes: Changes, now: Timestamp) {
        for (address, state) in changes.states {
            let known = self.states.insert(address.clone(), state);
            self.move_email(&address, known.as_ref());
            self.count_open(&address, known.as_ref());
            if known.is_none() {
                self.list(&address);
            }
            self.changed.insert(address);
        }
        for (key, (table, turn)) in changes.turns {
            self.reach.turns.insert(key.clone(), Some(table.clone()));
            self.reach.turn_orders.entry(key.clone()).or_default();
            self.turns.insert(key, (table, turn));
        }
        self.events.extend(changes.events);
        self.history.extend(changes.history);
        self.tasks.extend(changes.tasks);
        self.metrics.extend(changes.metrics);
        self.shown_again.extend(changes.shown_again);
        self.repeat_events.extend(changes.repeat_events);
        self.tokens.truncate(self.tokens.len() - changes.tokens);
        let Supplies { randoms, throttle } = &mut self.supplies;
        randoms.truncate(randoms.len() - changes.randoms);
        changes.cleared.into_iter().for_each(|key| throttle.clear(key));
        changes.failures.into_iter().for_each(|key| throttle.fail(key, now));
    }

    /// Lets later commands see who has an email now.
    fn move_email(&mut self, address: &Address, before: Option<&State>) {
        let key = |state: &State| {
            let user = state.user()?;
            Some((address.tenant.clone(), user.email.folded()))
        };
        let emails = &mut self.reach.emails;
        if let Some(owner) = before.and_then(key).and_then(|key| emails.get_mut(&key)) {
            *owner = None;
        }
        if let Some(key) = self.states.get(address).and_then(key) {
            emails.insert(key, Some(address.clone()));
        }
    }

    /// Lets later commands see how many open carts there are now.
    fn count_open(&mut self, address: &Address, before: Option<&State>) {
        let names = |state: Option<&State>| {
            let cart = state.and_then(State::cart).filter(|cart| cart.status == Status::Open);
            let names =
                cart.into_iter().flat_map(|cart| [Some(&cart.owner), cart.session.as_ref()]);
            names.flatten().cloned().collect::<BTreeSet<Token>>()
        };
        let (before, after) = (names(before), names(self.states.get(address)));
        for name in before.symmetric_difference(&after) {
            let key = (address.tenant.clone(), name.clone());
            let Some(count) = self.reach.open_carts.get_mut(&key) else { continue };
            *count = if after.contains(name) { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Puts what is new into the list that it belongs to.
    fn list(&mut self, address: &Address) {
        let key = |id: &Token| (address.tenant.clone(), id.clone());
        let list = match self.states.get(address) {
            Some(State::Cart(cart)) => {
                cart.session.as_ref().and_then(|id| self.reach.sessions.get_mut(&key(id)))
            }
            Some(State::Order(order)) => {
                order.turn_id.as_ref().and_then(|id| self.reach.turn_orders.get_mut(&key(id)))
            }
            _ => None,
        };
        if let Some(list) = list {
            list.push(address.clone());
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new((refusal, None)))
    }
}

#[cfg(test)]
mod tests;
