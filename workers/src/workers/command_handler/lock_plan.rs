//! The locks of a batch, as far as its commands name them. Anything else that they need is found
//! while they are decided, and the next batch names it.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{
    Address, Aggregate, Body, Command, MAX_NAME, Text, Token, cart, command::Request, order,
    payment, table, user,
};
use brigade_domain::{Missing, Mode};

/// Everything that a batch locks and loads, by name.
#[derive(Default)]
pub struct LockPlan {
    /// The aggregates. With `true` the aggregates that its commands may change are needed too: the
    /// lock of a cart's owner, exclusively, and the table of an order. A product without is only
    /// read.
    pub aggregates: BTreeMap<Address, bool>,
    /// The owners, by the address of their locks. With `true` they are locked exclusively.
    pub owners: BTreeMap<Address, bool>,
    /// Tenants and sessions whose open carts are needed.
    pub sessions: BTreeSet<(Token, Token)>,
    /// Tenants and names of owners or sessions whose open carts are counted.
    pub counted: BTreeSet<(Token, Token)>,
    /// Tenants and names of which it is needed whether they are somebody's.
    pub named: BTreeSet<(Token, Token)>,
    /// Tenants and owners whose pending orders are counted, as far as they are known by name.
    pub pending: BTreeSet<(Token, Token)>,
    /// Tenants and turns.
    pub turns: BTreeSet<(Token, Token)>,
    pub fencing_tokens: i32,
    /// Tenants in which a lock may be taken.
    pub locking: BTreeSet<Token>,
}

/// Returns the aggregates that a command names, and the owners as their locks.
pub fn addresses_of(command: &Command) -> BTreeSet<Address> {
    LockPlan::new([command], &BTreeSet::new()).addresses()
}

/// Returns the aggregates that are missing by name, and the owners as their locks.
pub fn addresses_of_missing(missing: &BTreeSet<Missing>) -> BTreeSet<Address> {
    LockPlan::new([], missing).addresses()
}

/// Returns the address of an owner's lock.
pub fn lock_of(tenant: &Token, owner: &Token) -> Address {
    Address { tenant: tenant.clone(), aggregate: Aggregate::Lock, id: owner.clone() }
}

impl LockPlan {
    /// Plans what commands name, and what they were found to lack when they were tried before.
    pub fn new<'a>(
        commands: impl IntoIterator<Item = &'a Command>,
        missing: &BTreeSet<Missing>,
    ) -> Self {
        let mut plan = Self::default();
        for request in commands.into_iter().filter_map(|command| command.request.as_ref().ok()) {
            plan.add(request);
        }
        for missing in missing {
            plan.add_missing(missing);
        }
        plan
    }

    fn add(&mut self, request: &Request) {
        let Request { address, body, .. } = request;
        let other =
            |aggregate, id: &Token| Address { aggregate, id: id.clone(), ..address.clone() };
        let pays = match body {
            Body::Cart(verb) => {
                self.add_cart(address, verb);
                changes_locks(verb)
            }
            Body::Payment(verb) => {
                if let payment::Verb::Initiate(initiate) = verb {
                    let (aggregate, id) = match &initiate.target {
                        payment::Target::Cart(id) => (Aggregate::Cart, id),
                        payment::Target::Order(id) => (Aggregate::Order, id),
                    };
                    self.aggregate(other(aggregate, id), aggregate == Aggregate::Cart);
                    self.fencing_tokens += 1;
                    if aggregate == Aggregate::Cart {
                        self.locking.insert(address.tenant.clone());
                    }
                    if initiate.turn_id.is_some() {
                        self.table(&address.tenant, initiate.table_id.as_ref());
                        self.turn(&address.tenant, initiate.turn_id.as_ref());
                    }
                }
                true
            }
            Body::Order(order::Verb::Place(place)) => {
                self.table(&address.tenant, place.table_id.as_ref());
                self.turn(&address.tenant, place.turn_id.as_ref());
                for item in &place.items {
                    let is_priced = item.name.is_some() && item.unit_price.is_some();
                    self.product(&address.tenant, &item.sku, is_priced);
                }
                false
            }
            Body::Order(verb) => matches!(verb, order::Verb::Cancel(_)),
            Body::Table(verb) => {
                let turn = match verb {
                    table::Verb::OpenTurn(open) => Some(&open.turn_id),
                    table::Verb::CloseTurn(close) => Some(&close.turn_id),
                    _ => None,
                };
                self.turn(&address.tenant, turn);
                false
            }
            Body::Product(_) => true,
            Body::User(user::Verb::Register(_)) => {
                self.named(&address.tenant, &address.id);
                false
            }
            Body::User(_) | Body::Rebuild(..) => false,
        };
        self.aggregate(address.clone(), pays);
    }

    /// Adds what a command of a cart needs besides the cart.
    fn add_cart(&mut self, address: &Address, verb: &cart::Verb) {
        let tenant = &address.tenant;
        match verb {
            cart::Verb::Open(open) => {
                self.counted(tenant, &open.owner);
                open.session.iter().for_each(|id| self.counted(tenant, id));
            }
            cart::Verb::Claim(claim) => {
                self.counted(tenant, &claim.user);
                self.locking.insert(tenant.clone());
            }
            cart::Verb::AddItem(item) => {
                let is_priced = item.name.is_some() && item.unit_price.is_some();
                self.product(tenant, &item.sku, is_priced);
            }
            cart::Verb::CheckOut(check_out) => {
                let id = check_out.order_id.clone();
                let order = Address { aggregate: Aggregate::Order, id, ..address.clone() };
                self.aggregate(order, false);
                self.table(tenant, check_out.table_id.as_ref());
                self.turn(tenant, check_out.turn_id.as_ref());
            }
            cart::Verb::Lock(_) => {
                self.fencing_tokens += 1;
                self.locking.insert(tenant.clone());
            }
            _ => {}
        }
    }

    fn addresses(self) -> BTreeSet<Address> {
        self.aggregates.into_keys().chain(self.owners.into_keys()).collect()
    }

    fn add_missing(&mut self, missing: &Missing) {
        match missing {
            Missing::Aggregate(address) => self.aggregate(address.clone(), false),
            Missing::Owner(lock, mode) => {
                self.owner(&lock.tenant, &lock.id, *mode == Mode::Exclusive);
            }
            Missing::LockFloor(tenant) => {
                self.locking.insert(tenant.clone());
            }
            Missing::Session(tenant, session) => {
                self.sessions.insert((tenant.clone(), session.clone()));
            }
            Missing::OpenCarts(tenant, name) => self.counted(tenant, name),
            Missing::PendingOrders(tenant, owner) => {
                self.owner(tenant, owner, true);
                self.pending.insert((tenant.clone(), owner.clone()));
            }
            Missing::Turn(tenant, turn) => self.turn(tenant, Some(turn)),
            Missing::Name(tenant, name) => self.named(tenant, name),
            Missing::FencingToken => self.fencing_tokens += 1,
            // Users are loaded apart, see `auth_inputs`.
            Missing::Managers(_)
            | Missing::Email(..)
            | Missing::Password(..)
            | Missing::Random
            | Missing::Failures(_) => {}
        }
    }

    fn aggregate(&mut self, address: Address, exclusive: bool) {
        *self.aggregates.entry(address).or_default() |= exclusive;
    }

    fn table(&mut self, tenant: &Token, id: Option<&Token>) {
        if let Some(id) = id.cloned() {
            let address = Address { tenant: tenant.clone(), aggregate: Aggregate::Table, id };
            self.aggregate(address, false);
        }
    }

    /// A product is read where something is sold of which not all is said. What is no Token is the
    /// sku of none.
    fn product(&mut self, tenant: &Token, sku: &Text<MAX_NAME>, is_priced: bool) {
        if let (false, Ok(id)) = (is_priced, Token::new(sku.as_str())) {
            let address = Address { tenant: tenant.clone(), aggregate: Aggregate::Product, id };
            self.aggregate(address, false);
        }
    }

    fn turn(&mut self, tenant: &Token, id: Option<&Token>) {
        self.turns.extend(id.map(|id| (tenant.clone(), id.clone())));
    }

    /// An owner or a session whose carts are counted is locked, so that the number stays.
    fn counted(&mut self, tenant: &Token, name: &Token) {
        self.owner(tenant, name, true);
        self.counted.insert((tenant.clone(), name.clone()));
    }

    /// A name that a user is to have is locked like an owner, so that nobody opens a cart for it.
    fn named(&mut self, tenant: &Token, name: &Token) {
        self.owner(tenant, name, true);
        self.named.insert((tenant.clone(), name.clone()));
    }

    fn owner(&mut self, tenant: &Token, owner: &Token, exclusive: bool) {
        *self.owners.entry(lock_of(tenant, owner)).or_default() |= exclusive;
    }
}

/// Returns whether a verb may take, change or release the lock of the cart's owner. It is rare that
/// another one finds it overdue: that is decided in the next batch.
fn changes_locks(verb: &cart::Verb) -> bool {
    use cart::Verb::{BindTransaction, CheckOut, Claim, ExpireLock, Extend, Lock, Unlock};
    matches!(
        verb,
        Claim(_)
            | Lock(_)
            | BindTransaction(_)
            | Extend(_)
            | Unlock(_)
            | ExpireLock(_)
            | CheckOut(_)
    )
}
