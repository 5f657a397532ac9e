//! Carts.
//!
//! ```text
//! (nothing) ── open ──► open ── check_out, or the capture that pays it fully ──► checked_out
//!                       │  ▲ └─ abandon ──► abandoned
//!                       └──┘ join, leave, add_item, set_item, remove_item, commit_cod, claim,
//!                            payments; lock, bind_transaction, extend, unlock, expire_lock
//! ```
//!
//! A team cart has members, the owner first; other carts have none. What a member owes is
//! the sum of its own items and an equal part of the items without a user. While a lock of the
//! owner is live (`super::lock`), members and items of all its carts stay as they are.

mod check_out;
mod checks;
mod claim;
mod items;
mod locking;
mod members;
mod open;

use brigade_contracts::{
    Address,
    cart::{Status, Verb},
    event::CART_ABANDONED,
    verb::Reason,
};

pub(crate) use self::{
    check_out::check_out,
    checks::{cart_empty, closed, not_a_member},
};
use crate::{
    outcome::{Done, Result},
    refusal::payment_open,
    unit_of_work::UnitOfWork,
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Open(verb) => open::open(work, address, verb),
        Verb::Join(verb) => members::join(work, address, &verb.user),
        Verb::Leave(verb) => members::leave(work, address, &verb.user),
        Verb::CommitCod(verb) => members::commit_cod(work, address, &verb.user),
        Verb::AddItem(verb) => items::add(work, address, verb),
        Verb::SetItem(verb) => items::set(work, address, verb),
        Verb::RemoveItem(verb) => items::remove(work, address, verb),
        Verb::Claim(verb) => claim::claim(work, address, &verb.user),
        Verb::Lock(verb) => locking::lock(work, address, verb),
        Verb::BindTransaction(verb) => locking::bind_transaction(work, address, verb),
        Verb::Extend(verb) => locking::extend(work, address, verb),
        Verb::Unlock(verb) => locking::unlock(work, address, verb),
        Verb::ExpireLock(verb) => locking::expire(work, address, verb.token),
        Verb::CheckOut(verb) => {
            let cart = checks::open(work, address)?;
            check_out(work, cart, &verb.order_id, verb.table_id.as_ref(), verb.token)?;
            Ok(Done::ok())
        }
        Verb::Abandon(verb) => abandon(work, address, verb),
    }
}

fn abandon(work: &mut UnitOfWork<'_>, address: &Address, verb: &Reason) -> Result<Done> {
    let cart = checks::unlocked(work, address)?;
    checks::require_unpaid(&work[cart])?;
    if work[cart].has_open_payment(None) {
        return Err(payment_open().into());
    }
    work[cart].status = Status::Abandoned;
    work.record(cart, CART_ABANDONED, verb);
    Ok(Done::ok())
}

#[cfg(test)]
mod tests;
