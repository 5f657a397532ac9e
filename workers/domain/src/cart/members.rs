//! The members of a team cart.

use brigade_contracts::{
    Address, MAX_ITEMS, Money, Refusal, Token,
    cart::{Commitment, Item, Kind, MemberPayment},
    event::{CART_MEMBER_COMMITTED, CART_MEMBER_JOINED, CART_MEMBER_LEFT},
};
use serde_json::json;

use super::checks::{cart_paid, not_a_member, open, require_fitting, unlocked};
use crate::{
    outcome::{Done, Result},
    refusal::{payment_open, too_large},
    state::{Cart, entry},
    unit_of_work::UnitOfWork,
};

pub(super) fn join(work: &mut UnitOfWork<'_>, address: &Address, user: &Token) -> Result<Done> {
    let cart = unlocked(work, address)?;
    let present = &work[cart];
    if present.kind != Kind::Team {
        return Err(Refusal::new(409, "not_a_team_cart", "only team carts have members").into());
    }
    if present.is_member(user) {
        return Err(Refusal::new(409, "already_member", "this user is a member already").into());
    }
    if present.members.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 members").into());
    }
    let changed = &mut work[cart];
    changed.members.push(MemberPayment { user: user.clone(), committed: None, paid: Money::ZERO });
    require_fitting(changed)?;
    work.record(cart, CART_MEMBER_JOINED, &json!({ "user": user }));
    Ok(Done::ok())
}

/// Takes a member out, with the items that it brought, so that the shares still sum to the total.
pub(super) fn leave(work: &mut UnitOfWork<'_>, address: &Address, user: &Token) -> Result<Done> {
    let cart = unlocked(work, address)?;
    let present = &work[cart];
    require_free_to_leave(present, user)?;
    let own = |item: &&Item| item.user.as_ref() == Some(user);
    let gone: Vec<_> = present.items.iter().filter(own).map(|item| item.item_id.clone()).collect();
    if present.paid > Money::ZERO && !gone.is_empty() {
        return Err(cart_paid().into());
    }
    let changed = &mut work[cart];
    changed.members.retain(|member| member.user != *user);
    changed.items.retain(|item| !own(&item));
    work.record(cart, CART_MEMBER_LEFT, &json!({ "user": user, "items": gone }));
    Ok(Done::ok())
}

fn require_free_to_leave(cart: &Cart, user: &Token) -> std::result::Result<(), Refusal> {
    let member = cart.members.iter().find(|m| m.user == *user).ok_or_else(not_a_member)?;
    if *user == cart.owner {
        let message = "the owner cannot leave; abandon the cart";
        return Err(Refusal::new(409, "owner_stays", message));
    }
    if member.committed.is_some() {
        return Err(already_committed("this member has committed to pay"));
    }
    if member.paid > Money::ZERO {
        return Err(Refusal::new(409, "member_paid", "this member has paid something"));
    }
    if entry::open(&cart.payments).any(|entry| entry.payment.user.as_ref() == Some(user)) {
        return Err(payment_open());
    }
    Ok(())
}

pub(super) fn commit_cod(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    user: &Token,
) -> Result<Done> {
    let cart = open(work, address)?;
    let members = &mut work[cart].members;
    let member = members.iter_mut().find(|m| m.user == *user).ok_or_else(not_a_member)?;
    if member.committed.is_some() {
        return Err(already_committed("this member has committed already").into());
    }
    member.committed = Some(Commitment::Cod);
    work.record(cart, CART_MEMBER_COMMITTED, &json!({ "user": user, "method": "cod" }));
    Ok(Done::ok())
}

fn already_committed(message: &'static str) -> Refusal {
    Refusal::new(409, "already_committed", message)
}
