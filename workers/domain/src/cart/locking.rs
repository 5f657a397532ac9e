//! The lock as its holder asks for it, at the cart that is paid.

use brigade_contracts::{
    Refusal, Token,
    cart::{BindTransaction, Extend, Lock, Unlock},
};

use super::{
    super::{
        Lock as LockRow,
        json::raw,
        lock::stale_token,
        outcome::{Done, NotDone, Result},
        unit_of_work::UnitOfWork,
    },
    Cart, payment_open,
};

pub(super) fn lock(draft: &mut UnitOfWork<'_>, cart: Cart, said: &Lock) -> Result<Done> {
    if let Some(held) = draft.live_lock(&cart.owner)? {
        return Err(held.refusal(draft.now));
    }
    let cart = draft.again(cart);
    if cart.items.is_empty() {
        return Err(cart_empty().into());
    }
    let fingerprint = cart.fingerprint();
    if said.fingerprint.as_ref().is_some_and(|said| said.as_str() != fingerprint) {
        let refusal = Refusal::new(409, "cart_changed", "the cart holds something else by now");
        let extra = ("fingerprint", raw(&fingerprint));
        return Err(NotDone::Refused(Box::new((refusal, Some(extra)))));
    }
    let lock = draft.acquire(cart, said.method, Some(said.transaction_id.clone()))?;
    let amount = lock.amount;
    Ok(crate::lock::tell(&lock, Done::ok(), amount))
}

pub(super) fn bind_transaction(
    draft: &mut UnitOfWork<'_>,
    cart: Cart,
    said: &BindTransaction,
) -> Result<Done> {
    let lock = draft.held_lock(&cart, said.token)?;
    draft.bind(lock.clone(), &said.transaction_id)?;
    Ok(standing(&lock))
}

pub(super) fn extend(draft: &mut UnitOfWork<'_>, cart: Cart, said: &Extend) -> Result<Done> {
    let lock = draft.held_lock(&cart, said.token)?;
    draft.extend(lock, said.seconds.get())?;
    let lock = draft.held_lock(&cart, said.token)?;
    Ok(standing(&lock))
}

pub(super) fn unlock(draft: &mut UnitOfWork<'_>, cart: Cart, said: &Unlock) -> Result<Done> {
    let lock = draft.held_lock(&cart, said.token)?;
    if draft.again(cart).has_open_payment(Some(said.token)) {
        return Err(payment_open().into());
    }
    draft.release(lock, said.reason.as_str())?;
    Ok(Done::ok())
}

/// Looking at a lock that is past its deadline decides about it; what is left to tell is how.
pub(super) fn expire(draft: &mut UnitOfWork<'_>, cart: Cart, token: i64) -> Result<Done> {
    let Some(before) = draft.held_row(&cart.owner, &cart.head.address.id, token)? else {
        return Err(stale_token());
    };
    if draft.now < before.expires_at {
        let retry_after_ms = Some(draft.now.millis_until(before.expires_at));
        let refusal = Refusal::new(409, "not_due", "the deadline has not passed");
        return Err(Refusal { retry_after_ms, ..refusal }.into());
    }
    match draft.live_lock(&cart.owner)? {
        Some(extended) => Ok(standing(&extended)),
        None => Ok(Done::code("ok").with("token", &token)),
    }
}

impl UnitOfWork<'_> {
    /// The held lock of this token and cart, be it past its deadline.
    fn held_row(&mut self, owner: &Token, cart: &Token, token: i64) -> Result<Option<LockRow>> {
        let address = self.address(brigade_contracts::Aggregate::Lock, owner);
        self.require_owner(&address, crate::Mode::Shared)?;
        let lock = self.lock_row(&address);
        let named = |l: &&LockRow| l.is_held() && l.token == token && l.cart_id == *cart;
        Ok(lock.filter(named).cloned())
    }
}

fn standing(lock: &LockRow) -> Done {
    Done::ok().with("token", &lock.token).with("expires_at", &lock.expires_at)
}

pub(crate) fn cart_empty() -> Refusal {
    Refusal::new(422, "cart_empty", "there is nothing in the cart")
}
