//! The data that a batch has locked and loaded, kept up to date while its commands are decided.

use std::collections::{HashMap, HashSet};

use brigade_contracts::{Address, Era, Token, cart::SecretKey};

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
    /// The modes of locked owners, by the address of the owner's lock.
    pub owners: HashMap<Address, Mode>,
    /// The version above which a lock without a row begins, by tenant.
    pub lock_floors: HashMap<Token, u64>,
    /// Every cart of a session, by tenant and session. The carts are locked as well.
    pub sessions: HashMap<(Token, Token), Vec<Address>>,
    /// The number of open carts that have a name as their owner or session, by tenant and name.
    pub open_carts: HashMap<(Token, Token), usize>,
    /// The number of an owner's orders that are pending ([`crate::Order::is_pending`]), by tenant and
    /// owner; not counted further than a decision looks.
    pub pending_orders: HashMap<(Token, Token), usize>,
    /// The table that a turn is or was at, by tenant and turn; `None` if there is no such turn.
    pub turns: HashMap<(Token, Token), Option<Token>>,
    /// Every order of the open or latest turn of each table that is locked, by tenant and turn. The
    /// orders are locked as well.
    pub turn_orders: HashMap<(Token, Token), Vec<Address>>,
    /// True where a program has named somebody so who need not be a user, by tenant and name.
    pub named: HashMap<(Token, Token), bool>,
    /// Users who were managers when they were locked with the batch, by tenant.
    pub managers: HashMap<Token, Vec<Address>>,
    /// The user that has an email, by tenant and folded email. The user need not be locked.
    pub emails: HashMap<(Token, String), Option<Address>>,
}

/// Something that the next batch has to load for a deferred command.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    Aggregate(Address),
    /// An owner in this mode, by the address of the owner's lock.
    Owner(Address, Mode),
    /// The version above which a lock without a row begins, of this tenant.
    LockFloor(Token),
    /// The carts of a session, by tenant and session.
    Session(Token, Token),
    /// The number of open carts that have a name, by tenant and name.
    OpenCarts(Token, Token),
    /// The number of pending orders of an owner, by tenant and owner.
    PendingOrders(Token, Token),
    /// The table of a turn, by tenant and turn.
    Turn(Token, Token),
    /// The answer whether a program has named somebody so, by tenant and name.
    Name(Token, Token),
    /// The managers of this tenant.
    Managers(Token),
    /// One more fencing token.
    FencingToken,
    /// The user that has an email, by tenant and folded email.
    Email(Token, String),
    /// The check of a password against the hash that the user has now, for the command of this
    /// tenant and Command-Id.
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
    /// Versions are of this era of the database.
    pub era: Era,
    /// Fencing tokens that are left, the next one last.
    pub tokens: Vec<i64>,
    pub inputs: AuthInputs,
    /// The key from which the secrets of carts are derived.
    pub secret_key: SecretKey,
    /// The addresses that deferred commands have looked up: later commands wait behind them.
    pub deferred: HashSet<Address>,
}
