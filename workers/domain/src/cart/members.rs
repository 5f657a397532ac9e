//! Who is in a team cart.

use brigade_contracts::{
    MAX_ITEMS, Money, Refusal, Token,
    cart::{Commitment, Item, Kind, Standing},
    event::{CART_MEMBER_COMMITTED, CART_MEMBER_JOINED, CART_MEMBER_LEFT},
};
use serde_json::json;

use super::{
    super::outcome::{Done, Result},
    super::unit_of_work::UnitOfWork,
    Cart, cart_paid, not_a_member, payment_open, too_large,
};

pub(super) fn join(draft: &mut UnitOfWork<'_>, mut cart: Cart, user: &Token) -> Result<Done> {
    if cart.kind != Kind::Team {
        return Err(Refusal::new(409, "not_a_team_cart", "only team carts have members").into());
    }
    if cart.is_member(user) {
        return Err(Refusal::new(409, "already_member", "this user is a member already").into());
    }
    if cart.members.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 members").into());
    }
    cart.members.push(Standing { user: user.clone(), committed: None, paid: Money::ZERO });
    cart.require_fitting()?;
    draft.put_record(cart, CART_MEMBER_JOINED, &json!({ "user": user }));
    Ok(Done::ok())
}

/// What a member brought goes with it, so that the shares still sum to the total.
pub(super) fn leave(draft: &mut UnitOfWork<'_>, mut cart: Cart, user: &Token) -> Result<Done> {
    let member = cart.members.iter().find(|m| m.user == *user).ok_or_else(not_a_member)?;
    if *user == cart.owner {
        let message = "the owner cannot leave; abandon the cart";
        return Err(Refusal::new(409, "owner_stays", message).into());
    }
    if member.committed.is_some() {
        return Err(already_committed("this member has committed to pay").into());
    }
    if member.paid > Money::ZERO {
        return Err(Refusal::new(409, "member_paid", "this member has paid something").into());
    }
    if crate::state::entry::open(&cart.payments)
        .any(|entry| entry.shown.user.as_ref() == Some(user))
    {
        return Err(payment_open().into());
    }
    let own = |item: &&Item| item.user.as_ref() == Some(user);
    let gone: Vec<_> = cart.items.iter().filter(own).map(|item| item.item_id.clone()).collect();
    if cart.paid > Money::ZERO && !gone.is_empty() {
        return Err(cart_paid().into());
    }
    cart.members.retain(|member| member.user != *user);
    cart.items.retain(|item| !own(&item));
    draft.put_record(cart, CART_MEMBER_LEFT, &json!({ "user": user, "items": gone }));
    Ok(Done::ok())
}

pub(super) fn commit_cod(draft: &mut UnitOfWork<'_>, mut cart: Cart, user: &Token) -> Result<Done> {
    let member = cart.members.iter_mut().find(|m| m.user == *user).ok_or_else(not_a_member)?;
    if member.committed.is_some() {
        return Err(already_committed("this member has committed already").into());
    }
    member.committed = Some(Commitment::Cod);
    draft.put_record(cart, CART_MEMBER_COMMITTED, &json!({ "user": user, "method": "cod" }));
    Ok(Done::ok())
}

fn already_committed(message: &'static str) -> Refusal {
    Refusal::new(409, "already_committed", message)
}
