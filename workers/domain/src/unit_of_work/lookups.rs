//! Lookups of what a batch has loaded with its states: lists, counts, tokens, checked passwords.

use brigade_contracts::{Address, Aggregate, Email, Secret, Token, user::Random};

use super::{Handle, UnitOfWork};
use crate::{
    head::Head,
    inputs::Verified,
    loaded::{Missing, Mode},
    outcome::{NotDone, Result},
    state::{Lock, User},
    throttle::{Count, FailureKey},
};

impl<'b> UnitOfWork<'b> {
    /// Returns the ETag of a version, which is of the present era.
    pub fn etag(&self, version: u64) -> String {
        self.batch.era.at(version).etag()
    }

    /// Returns the next fencing token.
    pub fn fencing_token(&mut self) -> Result<i64> {
        let token = self.batch.tokens.iter().rev().nth(self.changes.tokens);
        let token = token.ok_or(Missing::FencingToken)?;
        self.changes.tokens += 1;
        Ok(*token)
    }

    /// Returns a random number that nobody else gets.
    pub fn random(&mut self) -> Result<Random> {
        let random = self.batch.inputs.randoms.iter().rev().nth(self.changes.randoms);
        let random = random.ok_or(Missing::Random)?;
        self.changes.randoms += 1;
        Ok(*random)
    }

    /// Returns the head of a lock that is about to be acquired, in the place of a released one. One
    /// without a row may have had one, which was deleted: the new one continues above all versions
    /// that ever were.
    pub fn lock_head(&self, released: Option<Handle<Lock>>, address: Address) -> Result<Head> {
        if let Some(released) = released {
            return Ok(self[released].head.clone());
        }
        let tenant = &self.command.tenant;
        let floor = self.batch.locked.lock_floors.get(tenant).copied();
        let version = floor.ok_or_else(|| Missing::LockFloor(tenant.clone()))?;
        Ok(Head { version, ..Head::unborn(address, self.now) })
    }

    /// Returns every cart of a session.
    pub fn carts_of_session(&self, session: &Token) -> Result<&'b [Address]> {
        let key = self.key(session);
        match self.batch.locked.sessions.get(&key) {
            Some(carts) => Ok(carts),
            None => Err(Missing::Session(key.0, key.1).into()),
        }
    }

    /// Returns how many open carts have this name as their owner or their session. It is locked for
    /// that like an owner, exclusively: nobody opens or claims another one meanwhile.
    pub fn open_carts(&mut self, name: &Token) -> Result<usize> {
        self.require_owner(&self.address(Aggregate::Lock, name), Mode::Exclusive)?;
        let key = self.key(name);
        let known = self.batch.locked.open_carts.get(&key).copied();
        known.ok_or_else(|| Missing::OpenCarts(key.0, key.1).into())
    }

    /// Returns the secret that the command gives its cart.
    pub fn cart_secret(&self) -> Secret {
        self.batch.secret_key.of_cart(self.command)
    }

    /// Returns the secret of a session.
    pub fn session_secret(&self, session: &Token) -> Secret {
        self.batch.secret_key.of_session(&self.command.tenant, session)
    }

    /// Notes that the command names a person, who need not be a user. A customer names himself.
    pub fn name_person(&mut self, name: &Token) {
        if self.command.relation.is_none() {
            self.changes.named.insert(self.key(name));
        }
    }

    /// Returns whether a program has named somebody so. The name is locked for that like an owner,
    /// exclusively: nobody opens a cart for it meanwhile.
    pub fn is_named(&mut self, name: &Token) -> Result<bool> {
        self.require_owner(&self.address(Aggregate::Lock, name), Mode::Exclusive)?;
        let key = self.key(name);
        let known = self.batch.locked.named.get(&key).copied();
        known.ok_or_else(|| Missing::Name(key.0, key.1).into())
    }

    /// Returns how many orders of this owner are pending. The owner is locked exclusively for that:
    /// nobody checks out another of his carts meanwhile.
    pub fn pending_orders(&mut self, owner: &Token) -> Result<usize> {
        self.require_owner(&self.address(Aggregate::Lock, owner), Mode::Exclusive)?;
        let key = self.key(owner);
        let known = self.batch.locked.pending_orders.get(&key).copied();
        known.ok_or_else(|| Missing::PendingOrders(key.0, key.1).into())
    }

    /// Returns the table that a turn is or was at, or `None` if there is no such turn.
    pub fn table_of_turn(&self, turn: &Token) -> Result<Option<&'b Token>> {
        let key = self.key(turn);
        match self.batch.locked.turns.get(&key) {
            Some(table) => Ok(table.as_ref()),
            None => Err(Missing::Turn(key.0, key.1).into()),
        }
    }

    /// Returns the orders that the turn of a table had before the command.
    pub fn orders_of_turn(&self, turn: &Token, table: &Address) -> Result<&'b [Address]> {
        match self.batch.locked.turn_orders.get(&self.key(turn)) {
            Some(orders) => Ok(orders),
            None => Err(Missing::Aggregate(table.clone()).into()),
        }
    }

    /// Returns the user who has an email, in whatever case.
    pub fn owner_of_email(&self, email: &Email) -> Result<Option<&'b Address>> {
        let key = (self.command.tenant.clone(), email.folded());
        match self.batch.locked.emails.get(&key) {
            Some(owner) => Ok(owner.as_ref()),
            None => Err(Missing::Email(key.0, key.1).into()),
        }
    }

    /// Returns whether the tenant has a manager besides this user. All of them are locked for that: of
    /// two who go at once one stays.
    pub fn has_other_manager(&mut self, user: &Address) -> Result<bool> {
        let tenant = &self.command.tenant;
        let managers = self.batch.locked.managers.get(tenant);
        for manager in managers.ok_or_else(|| Missing::Managers(tenant.clone()))? {
            if manager != user && self.find::<User>(manager)?.is_some_and(User::is_manager) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns how often a key has failed.
    pub fn failures(&self, key: &FailureKey) -> Result<Count> {
        let count = self.batch.inputs.throttle.count(key);
        count.ok_or_else(|| Missing::Failures(key.clone()).into())
    }

    /// Returns the hash of the new password in the command.
    pub fn hashed_password(&self) -> Result<&'b Secret> {
        self.rehashed_password().ok_or_else(|| self.unchecked())
    }

    /// Returns the new hash of the password in the command, if it needs one.
    pub fn rehashed_password(&self) -> Option<&'b Secret> {
        self.checked.and_then(|checked| checked.hashed.as_ref())
    }

    /// Returns whether the password in the command is right. It has to be verified against the hash
    /// that the user has now, which has a salt of its own.
    pub fn verified(&self, password_hash: Option<&Secret>) -> Result<bool> {
        match self.checked.and_then(|checked| checked.verified.as_ref()) {
            Some(Verified { password_hash_seen, ok })
                if password_hash_seen.as_ref() == password_hash =>
            {
                Ok(*ok)
            }
            _ => Err(self.unchecked()),
        }
    }

    fn unchecked(&self) -> NotDone {
        let (tenant, id) = (self.command.tenant.clone(), self.command.command_id.clone());
        Missing::Password(tenant, id).into()
    }

    fn key(&self, name: &Token) -> (Token, Token) {
        (self.command.tenant.clone(), name.clone())
    }
}
