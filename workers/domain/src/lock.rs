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
    changes::{HistoryRow, LockMetric},
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
        expire_or_extend(work, lock)?;
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
    let lock = live_over(work, cart)?.filter(|lock| is_named(work, *lock, cart, token));
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
    let lock = lock.filter(|lock| work[*lock].is_held() && is_named(work, *lock, cart, token));
    Ok(lock.ok_or_else(stale_token)?)
}

fn is_named(work: &UnitOfWork<'_>, lock: Handle<Lock>, cart: Handle<Cart>, token: i64) -> bool {
    let lock = &work[lock];
    lock.token == token && lock.cart_id == work[cart].head.address.id
}

/// Ends a lock that is past its deadline, or extends it while a payment is open under it.
fn expire_or_extend(work: &mut UnitOfWork<'_>, lock: Handle<Lock>) -> Result<()> {
    let cart = holder(work, lock)?;
    let token = work[lock].token;
    let open = cart.is_some_and(|cart| work[cart].has_open_payment(Some(token)));
    match work.lock_policy().lives_until(&work[lock].live(), open, work.now) {
        Some(until) => move_deadline(work, lock, until, "payment_open"),
        None => end(work, lock, Action::Expired, "expired"),
    }
}

/// Adds to the deadline of a held lock, up to the cap.
pub(crate) fn extend(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, seconds: u32) -> Result<()> {
    let Lock { acquired_at, expires_at, .. } = work[lock];
    let until = expires_at.plus(Duration::from_secs(u64::from(seconds)));
    // The cap may have been lowered since it was acquired: no deadline comes nearer by this.
    let until = until.min(acquired_at.plus(work.lock_policy().cap)).max(expires_at);
    move_deadline(work, lock, until, "asked")
}

fn move_deadline(
    work: &mut UnitOfWork<'_>,
    lock: Handle<Lock>,
    until: Timestamp,
    reason: &str,
) -> Result<()> {
    let cart = holder(work, lock)?;
    change(work, lock)?.expires_at = until;
    if let Some(cart) = cart {
        work[cart].locked_until = Some(until);
        let data = json!({ "token": work[lock].token, "expires_at": until, "reason": reason });
        work.record(cart, CART_LOCK_EXTENDED, &data);
    }
    record(work, lock, Action::Extended, Some(reason));
    Ok(())
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
    let lock = work.store(released, acquired);
    change(work, lock)?;
    work.record(cart, CART_LOCKED, &data);
    record(work, lock, Action::Acquired, None);
    work.changes.metrics.push(LockMetric::Acquired(method));
    Ok(lock)
}

/// Puts another transaction on a held lock; the deadline stays.
pub(crate) fn bind(
    work: &mut UnitOfWork<'_>,
    lock: Handle<Lock>,
    transaction_id: &Token,
) -> Result<()> {
    let cart = holder(work, lock)?;
    change(work, lock)?.transaction_id = Some(transaction_id.clone());
    if let Some(cart) = cart {
        let data = json!({ "token": work[lock].token });
        work.record(cart, CART_TRANSACTION_BOUND, &data);
    }
    record(work, lock, Action::Bound, None);
    Ok(())
}

pub(crate) fn release(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, reason: &str) -> Result<()> {
    end(work, lock, Action::Released, reason)
}

fn end(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, action: Action, reason: &str) -> Result<()> {
    let cart = holder(work, lock)?;
    change(work, lock)?.release(reason);
    let Lock { token, method, acquired_at, .. } = work[lock];
    if let Some(cart) = cart {
        work[cart].locked_until = None;
        let kind = if action == Action::Expired { CART_LOCK_EXPIRED } else { CART_UNLOCKED };
        work.record(cart, kind, &json!({ "token": token, "reason": reason }));
    }
    record(work, lock, action, Some(reason));
    let millis = acquired_at.millis_until(work.now);
    work.changes.metrics.push(LockMetric::Held { method, millis, ended: action });
    Ok(())
}

/// Gives the lock of a session to the user that the session turned out to be, whose own lock is
/// not held.
pub(crate) fn hand_over(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, user: &Token) -> Result<()> {
    let address = work.address(Aggregate::Lock, user);
    let released = work.load_lock(&address, Mode::Shared)?;
    let acquired = Lock { head: head(work, released, address)?, ..work[lock].clone() };
    change(work, lock)?.release("claimed");
    let acquired = work.store(released, acquired);
    change(work, acquired)?;
    record(work, lock, Action::Released, Some("claimed"));
    record(work, acquired, Action::Acquired, Some("claimed"));
    Ok(())
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

/// Returns the cart that holds a lock.
fn holder(work: &mut UnitOfWork<'_>, lock: Handle<Lock>) -> Result<Option<Handle<Cart>>> {
    let address = work[lock].cart();
    work.load(&address)
}

/// Returns the head of a lock that is about to change. One without a row may have had one, which
/// was deleted: the new one continues above all versions that ever were.
fn head(work: &UnitOfWork<'_>, released: Option<Handle<Lock>>, address: Address) -> Result<Head> {
    match released {
        Some(lock) => Ok(work[lock].head.clone()),
        None => Ok(Head { version: work.lock_floor()?, ..Head::unborn(address, work.now) }),
    }
}

/// Counts a change that is made to a lock. No event is made of it: its cart has one.
fn change<'w>(work: &'w mut UnitOfWork<'_>, lock: Handle<Lock>) -> Result<&'w mut Lock> {
    require_exclusive(work, lock)?;
    let now = work.now;
    let lock = &mut work[lock];
    lock.head.version += 1;
    lock.head.at = now;
    Ok(lock)
}

/// Requires the owner of a lock to be locked exclusively in SQL.
pub(crate) fn require_exclusive(work: &mut UnitOfWork<'_>, lock: Handle<Lock>) -> Result<()> {
    let address = work[lock].head.address.clone();
    work.require_owner(&address, Mode::Exclusive)
}

fn record(work: &mut UnitOfWork<'_>, lock: Handle<Lock>, action: Action, reason: Option<&str>) {
    let Lock { head, cart_id, token, method, .. } = &work[lock];
    let row = HistoryRow {
        tenant: head.address.tenant.clone(),
        owner: head.address.id.clone(),
        cart_id: cart_id.clone(),
        token: Some(*token),
        action,
        method: Some(*method),
        reason: reason.map(str::to_owned),
        actor: work.command.actor.clone(),
        at: work.now,
    };
    work.changes.history.push(row);
}

impl Lock {
    fn release(&mut self, reason: &str) {
        self.state = LockState::Released;
        self.reason = Some(reason.to_owned());
    }
}

#[cfg(test)]
mod tests;
