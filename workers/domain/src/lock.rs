//! The lock of an owner over all its carts, while one of them is paid.
//!
//! ```text
//! (nothing), released ── lock, initiate ──► held
//! held ── unlock, check_out, the last result ──► released
//! held ── the deadline, nothing open under it ──► released
//! held ── bind_transaction, extend ──► held
//! held ── the deadline, a payment open under it (up to the cap) ──► held
//! ```
//!
//! Each time it is acquired it gets a new fencing token; a command with an older one is refused.
//! Only the deadline on the database's clock counts: a command that meets a lock beyond it decides
//! its expiry before anything else, and that stays even if the command is then refused.

use std::time::Duration;

use brigade_contracts::{
    Address, Aggregate, Money, Refusal, Timestamp, Token,
    event::{
        CART_LOCK_EXPIRED, CART_LOCK_EXTENDED, CART_LOCKED, CART_TRANSACTION_BOUND, CART_UNLOCKED,
    },
    lock::{Action, LockState},
    payment::Method,
};
use serde_json::json;

use crate::{
    changes::{Fact, LockMetric},
    head::Head,
    loaded::Mode,
    outcome::{Done, Result},
    state::{Cart, Lock},
    unit_of_work::{Handle, UnitOfWork},
};

/// Returns the lock that an owner's carts are under now. A lock that is past its deadline is ended,
/// or extended, before.
pub(crate) fn live(work: &mut UnitOfWork<'_>, owner: &Token) -> Result<Option<Handle<Lock>>> {
    let address = work.address(Aggregate::Lock, owner);
    let Some(lock) = work.load_lock(&address, Mode::Shared)? else { return Ok(None) };
    if work[lock].is_held() && work.now >= work[lock].expires_at {
        let cart = work.load::<Cart>(&work[lock].cart())?;
        let open = cart.is_some_and(|cart| work[cart].has_open_payment(Some(work[lock].token)));
        let until = work.lock_policy().lives_until(&work[lock].live(), open, work.now);
        change(work, lock, |lock| match until {
            Some(until) => lock.extend_to(until, "payment_open"),
            None => lock.end(Action::Expired, "expired"),
        })?;
        work.keep();
    }
    Ok(work[lock].is_held().then_some(lock))
}

/// Returns the live lock of a cart's owner.
pub(crate) fn live_over(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
) -> Result<Option<Handle<Lock>>> {
    let owner = work[cart].owner.clone();
    live(work, &owner)
}

/// Returns the live lock, if the cart holds it by this token.
pub(crate) fn live_of(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    token: i64,
) -> Result<Handle<Lock>> {
    let lock = live_over(work, cart)?.filter(|lock| work[*lock].is_named(&work[cart], token));
    Ok(lock.ok_or_else(stale_token)?)
}

/// Returns the lock that the cart holds by this token, even past its deadline.
pub(crate) fn held_by(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    token: i64,
) -> Result<Handle<Lock>> {
    let address = work.address(Aggregate::Lock, &work[cart].owner);
    let lock = work.load_lock(&address, Mode::Shared)?;
    let lock = lock.filter(|lock| work[*lock].is_held());
    let lock = lock.filter(|lock| work[*lock].is_named(&work[cart], token));
    Ok(lock.ok_or_else(stale_token)?)
}

/// Changes a held lock by a rule, and records what the rule tells: in the cart that holds it, and
/// in the history.
pub(crate) fn change(
    work: &mut UnitOfWork<'_>,
    lock: Handle<Lock>,
    rule: impl FnOnce(&mut Lock) -> Change,
) -> Result<()> {
    let Change { fact, action, reason } = rule(&mut work[lock]);
    let changed = &work[lock];
    let deadline = changed.is_held().then_some(changed.expires_at);
    if deadline.is_none() {
        let (method, millis) = (changed.method, changed.acquired_at.millis_until(work.now));
        work.changes.metrics.push(LockMetric::Held { method, millis, ended: action });
    }
    if let Some(cart) = work.load::<Cart>(&work[lock].cart())? {
        work[cart].locked_until = deadline;
        work.record(cart, fact);
    }
    work.record_lock(lock, action, reason)
}

/// Acquires the lock of the cart's owner, which nobody holds.
pub(crate) fn acquire(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    method: Method,
    transaction_id: Option<Token>,
) -> Result<Handle<Lock>> {
    let address = work.address(Aggregate::Lock, &work[cart].owner);
    let released = work.load_lock(&address, Mode::Exclusive)?;
    let policy = work.lock_policy();
    let timeout = policy.timeout(method).min(policy.cap);
    let token = work.fencing_token()?;
    let present = &work[cart];
    let acquired = Lock {
        head: head(work, released, address)?,
        state: LockState::Held,
        cart_id: present.head.address.id.clone(),
        token,
        method,
        acquired_at: work.now,
        expires_at: work.now.plus(timeout),
        transaction_id,
        fingerprint: present.fingerprint(),
        amount: present.due(),
        reason: None,
        refusals: 0,
    };
    let data = json!({
        "token": acquired.token, "method": method, "expires_at": acquired.expires_at,
        "fingerprint": acquired.fingerprint, "amount": acquired.amount,
    });
    work[cart].locked_until = Some(acquired.expires_at);
    work.record(cart, Fact::new(CART_LOCKED, &data));
    let lock = work.store(released, acquired);
    work.record_lock(lock, Action::Acquired, None)?;
    work.changes.metrics.push(LockMetric::Acquired(method));
    Ok(lock)
}

/// Gives the lock of a session to the user that the session turned out to be, whose own lock is
/// not held.
pub(crate) fn hand_over(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, user: &Token) -> Result<()> {
    let address = work.address(Aggregate::Lock, user);
    let released = work.load_lock(&address, Mode::Shared)?;
    let acquired = Lock { head: head(work, released, address)?, ..work[lock].clone() };
    work[lock].release("claimed");
    work.record_lock(lock, Action::Released, Some("claimed".to_owned()))?;
    let acquired = work.store(released, acquired);
    work.record_lock(acquired, Action::Acquired, Some("claimed".to_owned()))
}

/// Returns the head of a lock that is about to change. One without a row may have had one, which
/// was deleted: the new one continues above all versions that ever were.
fn head(work: &UnitOfWork<'_>, released: Option<Handle<Lock>>, address: Address) -> Result<Head> {
    match released {
        Some(lock) => Ok(work[lock].head.clone()),
        None => Ok(Head { version: work.lock_floor()?, ..Head::unborn(address, work.now) }),
    }
}

/// What a rule says of its change of a lock: the event of its cart, and the row of the history.
pub(crate) struct Change {
    fact: Fact,
    action: Action,
    reason: Option<String>,
}

impl Lock {
    /// Returns whether a cart holds it by this token.
    fn is_named(&self, cart: &Cart, token: i64) -> bool {
        self.token == token && self.cart_id == cart.head.address.id
    }

    /// Puts another transaction on it; the deadline stays.
    pub(crate) fn bind(&mut self, transaction_id: &Token) -> Change {
        self.transaction_id = Some(transaction_id.clone());
        let fact = Fact::new(CART_TRANSACTION_BOUND, &json!({ "token": self.token }));
        Change { fact, action: Action::Bound, reason: None }
    }

    /// Adds to its deadline, up to the cap.
    pub(crate) fn extend(&mut self, seconds: u32, cap: Duration) -> Change {
        let until = self.expires_at.plus(Duration::from_secs(u64::from(seconds)));
        // The cap may have been lowered since it was acquired: no deadline comes nearer by this.
        self.extend_to(until.min(self.acquired_at.plus(cap)).max(self.expires_at), "asked")
    }

    fn extend_to(&mut self, until: Timestamp, reason: &str) -> Change {
        self.expires_at = until;
        let data = json!({ "token": self.token, "expires_at": until, "reason": reason });
        let fact = Fact::new(CART_LOCK_EXTENDED, &data);
        Change { fact, action: Action::Extended, reason: Some(reason.to_owned()) }
    }

    pub(crate) fn release(&mut self, reason: &str) -> Change {
        self.end(Action::Released, reason)
    }

    fn end(&mut self, action: Action, reason: &str) -> Change {
        self.state = LockState::Released;
        self.reason = Some(reason.to_owned());
        let kind = if action == Action::Expired { CART_LOCK_EXPIRED } else { CART_UNLOCKED };
        let fact = Fact::new(kind, &json!({ "token": self.token, "reason": reason }));
        Change { fact, action, reason: Some(reason.to_owned()) }
    }
}

/// Adds to an outcome the lock that its command acquired, or pays under.
pub(crate) fn describe(done: Done, lock: &Lock, amount: Money) -> Done {
    done.with("token", &lock.token)
        .with("expires_at", &lock.expires_at)
        .with("fingerprint", &lock.fingerprint)
        .with("amount", &amount)
}

/// Refuses the token of a lock that nobody holds any more: a capture that paid the cart fully has
/// released it, or its deadline has passed.
pub(crate) fn ended_token() -> Refusal {
    let message = "the lock of this token has ended; the cart is not locked: send no token";
    Refusal::new(409, "stale_token", message)
}

pub(crate) fn stale_token() -> Refusal {
    Refusal::new(409, "stale_token", "this is not the token of the cart's lock")
}

#[cfg(test)]
mod tests;
