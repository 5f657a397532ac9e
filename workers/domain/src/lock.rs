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

mod rules;

use brigade_contracts::{
    Address, Aggregate, Refusal, Token,
    cart::{LockCart, Unlock},
    event::CART_LOCKED,
    lock::{Action, LockState},
    payment::Method,
    planted::PlantedBug,
};
use serde_json::json;

use crate::{
    changes::{Fact, LockFact, LockMetric},
    json::raw,
    loaded::Mode,
    outcome::{Done, NotDone, Result},
    refusal::{cart_empty, payment_open},
    state::{Cart, Lock},
    unit_of_work::{Handle, UnitOfWork},
};

/// Returns the lock that an owner's carts are under now. A lock that is past its deadline is ended,
/// or extended, before.
pub(crate) fn live(work: &mut UnitOfWork<'_>, owner: &Token) -> Result<Option<Handle<Lock>>> {
    let address = work.address(Aggregate::Lock, owner);
    let Some(lock) = work.load_lock(&address, Mode::Shared)? else { return Ok(None) };
    let mut now = work.now;
    if PlantedBug::EarlyExpiry.is_planted() {
        now = now.plus(std::time::Duration::from_secs(2));
    }
    if work[lock].is_held() && now >= work[lock].expires_at {
        let cart = work.load::<Cart>(&work[lock].cart())?;
        let open = cart.is_some_and(|cart| work[cart].has_open_payment(Some(work[lock].token)));
        let until = work.lock_policy().lives_until(&work[lock].live(), open, now);
        work.change_lock(lock, |lock| match until {
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

/// Returns an open cart, and the live lock of its owner.
pub(crate) fn open_cart(
    work: &mut UnitOfWork<'_>,
    address: &Address,
) -> Result<(Handle<Cart>, Option<Handle<Lock>>)> {
    let cart = work.existing::<Cart>(address)?;
    work[cart].require_open()?;
    Ok((cart, live_over(work, cart)?))
}

/// Returns an open cart that no live lock keeps as it is.
pub(crate) fn unlocked_cart(work: &mut UnitOfWork<'_>, address: &Address) -> Result<Handle<Cart>> {
    match open_cart(work, address)? {
        (cart, _) if PlantedBug::LockWithoutFreezing.is_planted() => Ok(cart),
        (_, Some(lock)) => Err(work[lock].refusal(work.now).into()),
        (cart, None) => Ok(cart),
    }
}

/// Returns an open cart, and the live lock that it holds by this token.
fn locked_cart(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    token: i64,
) -> Result<(Handle<Cart>, Handle<Lock>)> {
    let (cart, lock) = open_cart(work, address)?;
    let lock = lock.filter(|lock| work[*lock].is_held_by(&work[cart], token));
    Ok((cart, lock.ok_or_else(stale_token)?))
}

pub(crate) fn lock(work: &mut UnitOfWork<'_>, address: &Address, verb: &LockCart) -> Result<Done> {
    let cart = unlocked_cart(work, address)?;
    if work[cart].items.is_empty() {
        return Err(cart_empty().into());
    }
    let fingerprint = work[cart].fingerprint();
    if verb.fingerprint.as_ref().is_some_and(|expected| expected.as_str() != fingerprint) {
        let refusal = Refusal::new(409, "cart_changed", "the cart holds something else by now");
        let extra = ("fingerprint", raw(&fingerprint));
        return Err(NotDone::Refused(Box::new((refusal, Some(extra)))));
    }
    let lock = acquire(work, cart, verb.method, Some(verb.transaction_id.clone()))?;
    Ok(work[lock].describe(Done::ok(), work[lock].amount))
}

/// Changes the live lock that a cart holds by this token, and reports its deadline.
pub(crate) fn change(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    token: i64,
    rule: impl FnOnce(&mut Lock) -> LockFact,
) -> Result<Done> {
    let (_, lock) = locked_cart(work, address, token)?;
    work.change_lock(lock, rule)?;
    Ok(deadline(&work[lock]))
}

pub(crate) fn unlock(work: &mut UnitOfWork<'_>, address: &Address, verb: &Unlock) -> Result<Done> {
    let (cart, lock) = locked_cart(work, address, verb.token)?;
    if work[cart].has_open_payment(Some(verb.token)) {
        return Err(payment_open().into());
    }
    work.change_lock(lock, |lock| lock.release(verb.reason.as_str()))?;
    Ok(Done::ok())
}

/// Ends or extends a lock that is past its deadline, as every command does that meets it, and
/// reports which.
pub(crate) fn expire(work: &mut UnitOfWork<'_>, address: &Address, token: i64) -> Result<Done> {
    let cart = work.existing::<Cart>(address)?;
    work[cart].require_open()?;
    let lock = work.load_lock(&work.address(Aggregate::Lock, &work[cart].owner), Mode::Shared)?;
    let lock = lock.filter(|lock| work[*lock].is_held_by(&work[cart], token));
    let expires_at = work[lock.ok_or_else(stale_token)?].expires_at;
    if work.now < expires_at {
        let retry_after_ms = Some(work.now.millis_until(expires_at));
        let refusal = Refusal::new(409, "not_due", "the deadline has not passed");
        return Err(Refusal { retry_after_ms, ..refusal }.into());
    }
    match live_over(work, cart)? {
        Some(extended) => Ok(deadline(&work[extended])),
        None => Ok(Done::ok().with("token", &token)),
    }
}

fn deadline(lock: &Lock) -> Done {
    Done::ok().with("token", &lock.token).with("expires_at", &lock.expires_at)
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
        head: work.lock_head(released, address)?,
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
    let acquired = Lock { head: work.lock_head(released, address)?, ..work[lock].clone() };
    work[lock].release("claimed");
    work.record_lock(lock, Action::Released, Some("claimed".to_owned()))?;
    let acquired = work.store(released, acquired);
    work.record_lock(acquired, Action::Acquired, Some("claimed".to_owned()))
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
