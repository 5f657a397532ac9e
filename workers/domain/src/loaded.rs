//! The data that a batch has loaded and locked before its first command is decided.

use std::collections::{HashMap, HashSet};

use brigade_contracts::{Address, Token};

use crate::{inputs::AuthInputs, policy::LockPolicy, state::State, throttle::FailureKey};

/// The mode in which an owner is locked in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Enough to rely on the state of the lock.
    Shared,
    /// Enough to change the lock.
    Exclusive,
}

/// Everything that is locked in SQL. What is named here and was not loaded does not exist.
#[derive(Clone, Debug, Default)]
pub struct LockSet {
    pub addresses: HashSet<Address>,
    /// By the address of the owner's lock.
    pub owners: HashMap<Address, Mode>,
    /// By tenant: the version above which a lock begins that has no row.
    pub lock_floors: HashMap<Token, u64>,
    /// By tenant and session: every cart of that session. The carts are locked as well.
    pub sessions: HashMap<(Token, Token), Vec<Address>>,
    /// By tenant and name: the number of open carts that have it as their owner or their session.
    pub open_carts: HashMap<(Token, Token), usize>,
    /// By tenant and turn: the table that it is or was at, if there is such a turn.
    pub turns: HashMap<(Token, Token), Option<Token>>,
    /// By tenant and turn: every order of the open or latest turn of each table that is locked.
    /// The orders are locked as well.
    pub turn_orders: HashMap<(Token, Token), Vec<Address>>,
    /// By tenant and folded email: the user that has it. The user need not be locked.
    pub emails: HashMap<(Token, String), Option<Address>>,
}

/// Something that the next batch has to load for a deferred command.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    Aggregate(Address),
    /// By the address of the owner's lock.
    Owner(Address, Mode),
    /// Of a tenant: the version above which a lock begins that has no row.
    LockFloor(Token),
    /// Tenant and session.
    Session(Token, Token),
    /// Tenant and name: the number of open carts that have it.
    OpenCarts(Token, Token),
    /// Tenant and turn.
    Turn(Token, Token),
    /// One more fencing token.
    FencingToken,
    /// Tenant and folded email.
    Email(Token, String),
    /// For the command of this tenant and id: the check of its password against the hash that the
    /// user has now.
    Password(Token, Token),
    /// One more random number for a token.
    Random,
    /// The number of times that a key has failed.
    Failures(FailureKey),
}

/// The data that commands are decided on, with the changes of those decided so far.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub states: HashMap<Address, State>,
    pub locked: LockSet,
    pub policy: LockPolicy,
    /// Fencing tokens that are left, the next one last.
    pub tokens: Vec<i64>,
    pub inputs: AuthInputs,
    /// The addresses that deferred commands have looked up: later commands wait behind them.
    pub deferred: HashSet<Address>,
}
