//! The lock of an owner over all its carts, while one of them is paid.
//!
//! ```text
//! (nothing), released ── lock, initiate ──► held ── unlock, check_out, the last result ──► released
//!                                           │  ▲ └─ the deadline, nothing open under it ──► released
//!                                           └──┘ bind_transaction, extend, the deadline with a
//!                                                payment open under it (up to the cap)
//! ```
//!
//! Each time it is taken it gets a new fencing token; whoever comes with an older one is refused.
//! Only the deadline on the database's clock counts: a command that meets a lock beyond it decides
//! its expiry before anything else, and that stays even if the command is then refused.

use brigade_contracts::{
    Address, Aggregate, Body, Money, Refusal, Timestamp, Token, cart,
    event::{
        CART_LOCK_EXPIRED, CART_LOCK_EXTENDED, CART_LOCKED, CART_TRANSACTION_BOUND, CART_UNLOCKED,
    },
    lock::{self, Action, Live},
    payment::{self, Method, Target},
};
use serde_json::{json, value::RawValue};

use super::{
    Cart, Head, HistoryRow, LockMetric, Mode, State,
    json::raw,
    outcome::{Done, NotDone, Result},
    unit_of_work::UnitOfWork,
};

/// Refusals that one token, or one cart without a live lock, is written down with in the history.
const MOST_REFUSALS: u32 = 1000;

/// A row of `cart_locks`. Its address is the owner's.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    pub head: Head,
    pub state: lock::State,
    pub cart_id: Token,
    pub token: i64,
    pub method: Method,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
    pub transaction_id: Option<Token>,
    /// Of the cart's contents, which stay the same while it is held.
    pub fingerprint: String,
    /// What was due when it was taken.
    pub amount: Money,
    /// Why it was released.
    pub reason: Option<String>,
    /// How many refusals met this token; counting one changes no version.
    pub refusals: u32,
}

impl Lock {
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == lock::State::Held
    }

    #[must_use]
    pub fn cart(&self) -> Address {
        let head = &self.head.address;
        Address { aggregate: Aggregate::Cart, id: self.cart_id.clone(), ..head.clone() }
    }

    /// Its value in `cart_locks`.
    pub(super) fn value(&self) -> Box<RawValue> {
        raw(&lock::Value {
            version: self.head.version,
            at: self.head.at,
            state: self.state,
            cart: self.cart_id.clone(),
            token: self.token,
            method: self.method,
            acquired_at: self.acquired_at,
            expires_at: self.expires_at,
            reason: self.reason.clone(),
        })
    }

    fn live(&self) -> Live {
        Live {
            cart: self.cart_id.clone(),
            method: self.method,
            acquired_at: self.acquired_at,
            expires_at: self.expires_at,
        }
    }

    /// Why a command has to wait for it. Whose transaction it is stays with the holder.
    pub(super) fn refusal(&self, now: Timestamp) -> NotDone {
        let message = "this cart is being paid; it can be changed again when the payment has ended";
        let retry_after_ms = Some(now.millis_until(self.expires_at));
        Refusal { retry_after_ms, ..Refusal::new(423, "cart_locked", message) }.into()
    }

    fn released(self, reason: &str) -> Self {
        Self { state: lock::State::Released, reason: Some(reason.to_owned()), ..self }
    }
}

pub(super) fn stale_token() -> NotDone {
    Refusal::new(409, "stale_token", "this is not the token of the cart's lock").into()
}

pub(super) fn tell(lock: &Lock, done: Done, amount: Money) -> Done {
    done.with("token", &lock.token)
        .with("expires_at", &lock.expires_at)
        .with("fingerprint", &lock.fingerprint)
        .with("amount", &amount)
}

impl UnitOfWork<'_> {
    fn policy(&self) -> &crate::LockPolicy {
        self.lock_policy()
    }
    /// The lock that an owner's carts are under now, its expiry decided.
    pub fn live_lock(&mut self, owner: &Token) -> Result<Option<Lock>> {
        let address = self.address(Aggregate::Lock, owner);
        self.require_owner(&address, Mode::Shared)?;
        let Some(lock) = self.lock_row(&address).filter(|lock| lock.is_held()) else {
            return Ok(None);
        };
        if self.now < lock.expires_at {
            return Ok(Some(lock.clone()));
        }
        let lock = lock.clone();
        self.settle(lock)?;
        self.keep();
        Ok(self.lock_row(&address).filter(|lock| lock.is_held()).cloned())
    }

    /// The live lock, if it is the one that this token of this cart names.
    pub fn held_lock(&mut self, cart: &Cart, token: i64) -> Result<Lock> {
        let lock = self.live_lock(&cart.owner)?;
        lock.filter(|lock| lock.token == token && lock.cart_id == cart.head.address.id)
            .ok_or_else(stale_token)
    }

    /// Ends a lock that is past its deadline, or extends it while a payment is open under it.
    fn settle(&mut self, lock: Lock) -> Result<()> {
        let cart = self.cart(&lock.cart())?;
        let open = cart.as_ref().is_some_and(|cart| cart.has_open_payment(Some(lock.token)));
        match self.policy().lives_until(&lock.live(), open, self.now) {
            Some(until) => self.move_deadline(lock, until, "payment_open"),
            None => self.end_lock(lock, Action::Expired, "expired"),
        }
    }

    fn cap(&self, lock: &Lock) -> Timestamp {
        lock.acquired_at.plus(self.policy().cap)
    }

    /// Adds to the deadline of a held lock, up to the cap.
    pub fn extend(&mut self, lock: Lock, seconds: u32) -> Result<()> {
        let added = std::time::Duration::from_secs(u64::from(seconds));
        // The cap may have been lowered since it was taken: no deadline comes nearer by this.
        let until = lock.expires_at.plus(added).min(self.cap(&lock)).max(lock.expires_at);
        self.move_deadline(lock, until, "asked")
    }

    fn move_deadline(&mut self, lock: Lock, until: Timestamp, reason: &str) -> Result<()> {
        let lock = Lock { expires_at: until, ..lock };
        if let Some(mut cart) = self.cart(&lock.cart())? {
            cart.locked_until = Some(until);
            let data = json!({ "token": lock.token, "expires_at": until, "reason": reason });
            self.put_record(cart, CART_LOCK_EXTENDED, &data);
        }
        self.note(&lock, Action::Extended, Some(reason));
        self.change_lock(lock)
    }

    /// Takes the lock of the cart's owner, which nobody holds.
    pub fn acquire(
        &mut self,
        mut cart: Cart,
        method: Method,
        transaction_id: Option<Token>,
    ) -> Result<Lock> {
        let address = self.address(Aggregate::Lock, &cart.owner);
        self.require_owner(&address, Mode::Exclusive)?;
        let head = self.lock_row(&address).map(|lock| lock.head.clone());
        let timeout = self.policy().timeout(method).min(self.policy().cap);
        let lock = Lock {
            head: head.unwrap_or_else(|| Head::unborn(address, self.now)),
            state: lock::State::Held,
            cart_id: cart.head.address.id.clone(),
            token: self.fencing_token()?,
            method,
            acquired_at: self.now,
            expires_at: self.now.plus(timeout),
            transaction_id,
            fingerprint: cart.fingerprint(),
            amount: cart.due(),
            reason: None,
            refusals: 0,
        };
        cart.locked_until = Some(lock.expires_at);
        let data = json!({
            "token": lock.token, "method": method, "expires_at": lock.expires_at,
            "fingerprint": lock.fingerprint, "amount": lock.amount,
        });
        self.put_record(cart, CART_LOCKED, &data);
        self.note(&lock, Action::Acquired, None);
        self.changes.metrics.push(LockMetric::Acquired(method));
        self.change_lock(lock.clone())?;
        Ok(lock)
    }

    /// Puts another transaction on a held lock; the deadline stays.
    pub fn bind(&mut self, lock: Lock, transaction_id: &Token) -> Result<()> {
        let lock = Lock { transaction_id: Some(transaction_id.clone()), ..lock };
        if let Some(cart) = self.cart(&lock.cart())? {
            self.put_record(cart, CART_TRANSACTION_BOUND, &json!({ "token": lock.token }));
        }
        self.note(&lock, Action::Bound, None);
        self.change_lock(lock)
    }

    pub fn release(&mut self, lock: Lock, reason: &str) -> Result<()> {
        self.end_lock(lock, Action::Released, reason)
    }

    fn end_lock(&mut self, lock: Lock, action: Action, reason: &str) -> Result<()> {
        if let Some(mut cart) = self.cart(&lock.cart())? {
            cart.locked_until = None;
            let kind = if action == Action::Expired { CART_LOCK_EXPIRED } else { CART_UNLOCKED };
            self.put_record(cart, kind, &json!({ "token": lock.token, "reason": reason }));
        }
        self.note(&lock, action, Some(reason));
        let millis = lock.acquired_at.millis_until(self.now);
        self.changes.metrics.push(LockMetric::Held { method: lock.method, millis, ended: action });
        self.change_lock(lock.released(reason))
    }

    /// Gives the lock of a session to the user that the session turned out to be.
    pub fn hand_over(&mut self, lock: Lock, user: &Token) -> Result<()> {
        let address = self.address(Aggregate::Lock, user);
        let head = self.lock_row(&address).map(|lock| lock.head.clone());
        let head = head.unwrap_or_else(|| Head::unborn(address, self.now));
        let taken = Lock { head, ..lock.clone() };
        self.note(&lock, Action::Released, Some("claimed"));
        self.note(&taken, Action::Acquired, Some("claimed"));
        self.change_lock(lock.released("claimed"))?;
        self.change_lock(taken)
    }

    fn change_lock(&mut self, mut lock: Lock) -> Result<()> {
        self.require_owner(&lock.head.address, Mode::Exclusive)?;
        lock.head.version += 1;
        lock.head.at = self.now;
        self.put(lock);
        Ok(())
    }

    fn note(&mut self, lock: &Lock, action: Action, reason: Option<&str>) {
        self.changes.history.push(HistoryRow {
            tenant: lock.head.address.tenant.clone(),
            owner: lock.head.address.id.clone(),
            cart_id: lock.cart_id.clone(),
            token: Some(lock.token),
            action,
            method: Some(lock.method),
            reason: reason.map(str::to_owned),
            actor: self.command.actor.clone(),
            at: self.now,
        });
    }
}

/// Writes down that a `lock` or an `initiate` was refused. Past [`MOST_REFUSALS`] for one token, or
/// for a cart that no live lock holds, it is not written down any more, so that nobody can fill the
/// history. Counting changes no version.
pub(super) fn count_refusal(
    draft: &mut UnitOfWork<'_>,
    cart: &Address,
    method: Method,
    refusal: &Refusal,
) -> Result<()> {
    let Some(cart) = draft.cart(cart)? else { return Ok(()) };
    let lock = draft.live_lock(&cart.owner)?;
    let token = lock.as_ref().map(|lock| lock.token);
    draft.changes.metrics.push(LockMetric::Refused(method, refusal.code.clone()));
    // Looking at the lock may have ended it, which changes its cart.
    let mut cart = draft.again(cart);
    let refusals = lock.as_ref().map_or(cart.refusals, |lock| lock.refusals);
    if refusals >= MOST_REFUSALS {
        return Ok(());
    }
    let counted = match lock {
        Some(mut lock) => {
            lock.refusals += 1;
            draft.require_owner(&lock.head.address, Mode::Exclusive)?;
            State::Lock(lock)
        }
        None => {
            cart.refusals += 1;
            State::Cart(cart.clone())
        }
    };
    draft.put(counted);
    draft.changes.history.push(HistoryRow {
        tenant: cart.head.address.tenant,
        owner: cart.owner,
        cart_id: cart.head.address.id,
        token,
        action: Action::Refused,
        method: Some(method),
        reason: Some(refusal.code.to_string()),
        actor: draft.command.actor.clone(),
        at: draft.now,
    });
    Ok(())
}

#[cfg(test)]
mod tests;
