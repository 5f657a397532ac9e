//! The members of a team cart.

use brigade_contracts::{
    MAX_ITEMS, Money, Refusal, Secret, Token,
    cart::{Commitment, Item, Kind, MemberPayment},
    event::{CART_INVITED, CART_MEMBER_COMMITTED, CART_MEMBER_JOINED, CART_MEMBER_LEFT},
    verb::Nothing,
};
use serde_json::json;

use super::checks::{cart_paid, not_a_member};
use crate::{
    changes::Fact,
    refusal::{payment_open, too_large},
    state::{Cart, entry},
};

/// Gives the cart another secret by which customers join it.
pub(super) fn invite(cart: &mut Cart, secret: &Secret) -> Result<Fact, Refusal> {
    cart.require_open()?;
    require_team(cart)?;
    cart.secret_hash = Some(secret.sha256());
    Ok(Fact::new(CART_INVITED, &Nothing {}))
}

pub(super) fn join(cart: &mut Cart, user: &Token) -> Result<Fact, Refusal> {
    require_team(cart)?;
    if cart.is_member(user) {
        return Err(Refusal::new(409, "already_member", "this user is a member already"));
    }
    if cart.members.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 members"));
    }
    cart.members.push(MemberPayment { user: user.clone(), committed: None, paid: Money::ZERO });
    cart.require_fitting()?;
    Ok(Fact::new(CART_MEMBER_JOINED, &json!({ "user": user })))
}

fn require_team(cart: &Cart) -> Result<(), Refusal> {
    if cart.kind == Kind::Team {
        return Ok(());
    }
    Err(Refusal::new(409, "not_a_team_cart", "only team carts have members"))
}

/// Takes a member out, with the items that it brought, so that the shares still sum to the total.
pub(super) fn leave(cart: &mut Cart, user: &Token) -> Result<Fact, Refusal> {
    require_free_to_leave(cart, user)?;
    let own = |item: &&Item| item.user.as_ref() == Some(user);
    let gone: Vec<_> = cart.items.iter().filter(own).map(|item| item.item_id.clone()).collect();
    if cart.paid > Money::ZERO && !gone.is_empty() {
        return Err(cart_paid());
    }
    cart.members.retain(|member| member.user != *user);
    cart.items.retain(|item| !own(&item));
    Ok(Fact::new(CART_MEMBER_LEFT, &json!({ "user": user, "items": gone })))
}

fn require_free_to_leave(cart: &Cart, user: &Token) -> Result<(), Refusal> {
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

pub(super) fn commit_cod(cart: &mut Cart, user: &Token) -> Result<Fact, Refusal> {
    cart.require_open()?;
    let member = cart.members.iter_mut().find(|m| m.user == *user).ok_or_else(not_a_member)?;
    if member.committed.is_some() {
        return Err(already_committed("this member has committed already"));
    }
    member.committed = Some(Commitment::Cod);
    Ok(Fact::new(CART_MEMBER_COMMITTED, &json!({ "user": user, "method": "cod" })))
}

fn already_committed(message: &'static str) -> Refusal {
    Refusal::new(409, "already_committed", message)
}
