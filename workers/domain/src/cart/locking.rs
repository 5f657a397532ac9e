//! The lock as its holder asks for it, at the cart that is paid.

use brigade_contracts::{
    Address, Refusal,
    cart::{BindTransaction, Extend, LockCart, Unlock},
};

use super::checks::{cart_empty, open, unlocked};
use crate::{
    json::raw,
    lock,
    outcome::{Done, NotDone, Result},
    refusal::payment_open,
    state::Lock,
    unit_of_work::UnitOfWork,
};

pub(super) fn lock(work: &mut UnitOfWork<'_>, address: &Address, verb: &LockCart) -> Result<Done> {
    let cart = unlocked(work, address)?;
    if work[cart].items.is_empty() {
        return Err(cart_empty().into());
    }
    let fingerprint = work[cart].fingerprint();
    if verb.fingerprint.as_ref().is_some_and(|expected| expected.as_str() != fingerprint) {
        let refusal = Refusal::new(409, "cart_changed", "the cart holds something else by now");
        let extra = ("fingerprint", raw(&fingerprint));
        return Err(NotDone::Refused(Box::new((refusal, Some(extra)))));
    }
    let lock = lock::acquire(work, cart, verb.method, Some(verb.transaction_id.clone()))?;
    Ok(lock::describe(Done::ok(), &work[lock], work[lock].amount))
}

pub(super) fn bind_transaction(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &BindTransaction,
) -> Result<Done> {
    change(work, address, verb.token, |lock| lock.bind(&verb.transaction_id))
}

pub(super) fn extend(work: &mut UnitOfWork<'_>, address: &Address, verb: &Extend) -> Result<Done> {
    let cap = work.lock_policy().cap;
    change(work, address, verb.token, |lock| lock.extend(verb.seconds.get(), cap))
}

/// Changes the live lock that an open cart holds by this token, and reports its deadline.
fn change(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    token: i64,
    rule: impl FnOnce(&mut Lock) -> lock::Change,
) -> Result<Done> {
    let cart = open(work, address)?;
    let lock = lock::live_of(work, cart, token)?;
    lock::change(work, lock, rule)?;
    Ok(deadline(&work[lock]))
}

pub(super) fn unlock(work: &mut UnitOfWork<'_>, address: &Address, verb: &Unlock) -> Result<Done> {
    let cart = open(work, address)?;
    let lock = lock::live_of(work, cart, verb.token)?;
    if work[cart].has_open_payment(Some(verb.token)) {
        return Err(payment_open().into());
    }
    lock::change(work, lock, |lock| lock.release(verb.reason.as_str()))?;
    Ok(Done::ok())
}

/// Ends or extends a lock that is past its deadline, as every command does that meets it, and
/// reports which.
pub(super) fn expire(work: &mut UnitOfWork<'_>, address: &Address, token: i64) -> Result<Done> {
    let cart = open(work, address)?;
    let lock = lock::held_by(work, cart, token)?;
    let expires_at = work[lock].expires_at;
    if work.now < expires_at {
        let retry_after_ms = Some(work.now.millis_until(expires_at));
        let refusal = Refusal::new(409, "not_due", "the deadline has not passed");
        return Err(Refusal { retry_after_ms, ..refusal }.into());
    }
    match lock::live_over(work, cart)? {
        Some(extended) => Ok(deadline(&work[extended])),
        None => Ok(Done::ok().with("token", &token)),
    }
}

fn deadline(lock: &Lock) -> Done {
    Done::ok().with("token", &lock.token).with("expires_at", &lock.expires_at)
}
