//! Carts.
//!
//! ```text
//! (nothing) ── open ──► open ── check_out, or the capture that pays it fully ──► checked_out
//!                       │  ▲ └─ abandon ──► abandoned
//!                       └──┘ invite, join, leave, add_item, set_item, remove_item, commit_cod, claim,
//!                            payments; lock, bind_transaction, extend, unlock, expire_lock
//! ```
//!
//! A team cart has members, the owner first; other carts have none. What a member owes is
//! the sum of its own items and an equal part of the items without a user. While a lock of the
//! owner is live (`super::lock`), members and items of all its carts stay as they are.
//!
//! A customer joins by a secret that the owner was given, of which the cart keeps the hash.

mod check_out;
mod checks;
mod claim;
mod items;
mod members;
mod open;

use brigade_contracts::{
    Address, Refusal,
    cart::{Status, Verb},
    event::CART_ABANDONED,
    verb::{Nothing, Reason},
};

pub(crate) use self::{check_out::check_out, checks::not_a_member};
use crate::{
    changes::Fact,
    lock,
    outcome::{Done, Result},
    refusal::payment_open,
    state::Cart,
    unit_of_work::UnitOfWork,
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Open(verb) => open::open(work, address, verb),
        Verb::Invite(Nothing {}) => {
            let (cart, secret) = (work.existing(address)?, work.cart_secret());
            work.change(cart, |cart| members::invite(cart, &secret))
        }
        Verb::Join(verb) => {
            work.name_person(&verb.user);
            change(work, address, |cart| members::join(cart, &verb.user))
        }
        Verb::Leave(verb) => change(work, address, |cart| members::leave(cart, &verb.user)),
        Verb::AddItem(verb) => items::add(work, address, verb),
        Verb::SetItem(verb) => items::set(work, address, verb),
        Verb::RemoveItem(verb) => change(work, address, |cart| items::remove(cart, verb)),
        Verb::Abandon(verb) => change(work, address, |cart| abandon(cart, verb)),
        Verb::CommitCod(verb) => {
            let cart = work.existing(address)?;
            work.change(cart, |cart| members::commit_cod(cart, &verb.user))
        }
        Verb::Claim(verb) => claim::claim(work, address, &verb.user),
        Verb::Lock(verb) => lock::lock(work, address, verb),
        Verb::BindTransaction(verb) => {
            lock::change(work, address, verb.token, |lock| lock.bind(&verb.transaction_id))
        }
        Verb::Extend(verb) => {
            let cap = work.lock_policy().cap;
            lock::change(work, address, verb.token, |lock| lock.extend(verb.seconds.get(), cap))
        }
        Verb::Unlock(verb) => lock::unlock(work, address, verb),
        Verb::ExpireLock(verb) => lock::expire(work, address, verb.token),
        Verb::CheckOut(verb) => {
            let (cart, lock) = lock::open_cart(work, address)?;
            check_out(work, cart, lock, verb)
        }
    }
}

/// Changes an open cart by a rule, unless its owner's lock keeps it as it is.
fn change(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    rule: impl FnOnce(&mut Cart) -> std::result::Result<Fact, Refusal>,
) -> Result<Done> {
    let cart = lock::unlocked_cart(work, address)?;
    work.change(cart, rule)
}

fn abandon(cart: &mut Cart, verb: &Reason) -> std::result::Result<Fact, Refusal> {
    cart.require_unpaid()?;
    if cart.has_open_payment(None) {
        return Err(payment_open());
    }
    cart.status = Status::Abandoned;
    Ok(Fact::new(CART_ABANDONED, verb))
}

#[cfg(test)]
mod tests;
