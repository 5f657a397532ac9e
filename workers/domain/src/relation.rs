//! What customers may do.
//!
//! A command of a customer names the relation that he has to have to its aggregate. Whether he has
//! it is decided here, with the rest of the command, so that nothing changes in between: nobody is
//! still a member because he was one when his request came. A command that names no relation is
//! trusted.
//!
//! Whatever does not exist looks like what is another's.

use brigade_contracts::{
    Address, Aggregate, Body, Refusal, Relation, Secret, Token, cart,
    command::Request,
    payment::{Initiate, Target, Verb as PaymentVerb},
};

use crate::{
    outcome::Result,
    state::{Cart, Order, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

/// Requires the actor of a command to be what it says that he has to be.
pub(crate) fn require(work: &mut UnitOfWork<'_>, request: &Request) -> Result<()> {
    let relation = match work.command.relation {
        // Of somebody who makes what is not there yet nothing is asked.
        None | Some(Relation::Customer) => return Ok(()),
        Some(relation) => relation,
    };
    let Some(actor) = work.command.actor.clone() else { return Err(not_allowed().into()) };
    match relation {
        Relation::Invited => return require_right(shows_secret(work, request)?),
        Relation::Claimant => return require_right(shows_session(work, request, &actor)?),
        _ => {}
    }
    let cart = cart_of(work, request)?;
    let is_so = match relation {
        Relation::Payer => pays(work, request, cart, &actor)?,
        Relation::Participant => cart.is_some_and(|cart| work[cart].is_participant(&actor)),
        _ => cart.is_some_and(|cart| work[cart].is_owned_by(&actor)),
    };
    if is_so { Ok(()) } else { Err(not_allowed().into()) }
}

/// Requires a customer who names a table to name its turn as well. He knows that from whoever has
/// seated him, and it is his only while he sits there; that it is the open one is looked at in any
/// case.
pub(crate) fn require_turn(
    work: &UnitOfWork<'_>,
    table_id: Option<&Token>,
    turn_id: Option<&Token>,
) -> std::result::Result<(), Refusal> {
    if work.command.relation.is_none() || table_id.is_none() || turn_id.is_some() {
        return Ok(());
    }
    let message = "name the turn that is open at the table as well";
    Err(Refusal::new(403, "turn_required", message))
}

/// Returns whether a `join` shows the secret of its cart.
fn shows_secret(work: &mut UnitOfWork<'_>, request: &Request) -> Result<bool> {
    let Body::Cart(cart::Verb::Join(join)) = &request.body else { return Ok(false) };
    let cart = work.find::<Cart>(&request.address)?;
    let shown = join.secret.as_ref().map(Secret::sha256);
    Ok(cart.is_some_and(|cart| shown.is_some() && cart.secret_hash == shown))
}

/// Returns whether a `claim` shows the secret of its cart's session, or the cart is the user's.
fn shows_session(work: &mut UnitOfWork<'_>, request: &Request, actor: &Token) -> Result<bool> {
    let Body::Cart(cart::Verb::Claim(claim)) = &request.body else { return Ok(false) };
    let Some(cart) = work.load::<Cart>(&request.address)? else { return Ok(false) };
    if work[cart].is_owned_by(actor) {
        return Ok(true);
    }
    let session = work[cart].session.clone();
    let expected = session.map(|session| work.session_secret(&session));
    Ok(expected.is_some() && claim.session_secret == expected)
}

/// Returns whether somebody pays a payment, or owns the cart that it pays.
fn pays(
    work: &mut UnitOfWork<'_>,
    request: &Request,
    cart: Option<Handle<Cart>>,
    actor: &Token,
) -> Result<bool> {
    let payment = work.find::<Payment>(&request.address)?;
    let is_payer = payment.is_some_and(|payment| payment.user.as_ref() == Some(actor));
    let Some(cart) = cart else { return Ok(is_payer) };
    // One who paid as a session is no user, even where a user has its name.
    let is_session = work[cart].session.as_ref() == Some(actor);
    Ok((is_payer && !is_session) || work[cart].is_owned_by(actor))
}

/// Returns the cart that a command is about: its own, that of its order, or that which its payment
/// pays.
fn cart_of(work: &mut UnitOfWork<'_>, request: &Request) -> Result<Option<Handle<Cart>>> {
    let target = match &request.body {
        Body::Payment(PaymentVerb::Initiate(Initiate { target, .. })) => {
            target_address(work, target)
        }
        Body::Payment(_) => {
            let Some(payment) = work.find::<Payment>(&request.address)? else { return Ok(None) };
            let target = payment.target.clone();
            target_address(work, &target)
        }
        _ => request.address.clone(),
    };
    if target.aggregate == Aggregate::Cart {
        return work.load(&target);
    }
    if target.aggregate != Aggregate::Order {
        return Ok(None);
    }
    let cart = work.find::<Order>(&target)?.and_then(|order| order.cart_id.clone());
    match cart {
        Some(cart) => work.load(&work.address(Aggregate::Cart, &cart)),
        None => Ok(None),
    }
}

fn target_address(work: &UnitOfWork<'_>, target: &Target) -> Address {
    match target {
        Target::Cart(id) => work.address(Aggregate::Cart, id),
        Target::Order(id) => work.address(Aggregate::Order, id),
    }
}

fn require_right(is_right: bool) -> Result<()> {
    if is_right {
        return Ok(());
    }
    let message = "this is not there, or the secret is not its present one";
    Err(Refusal::new(403, "wrong_secret", message).into())
}

fn not_allowed() -> Refusal {
    let message = "this is not there, or not for the user who asks";
    Refusal::new(403, "not_allowed", message)
}

#[cfg(test)]
mod tests;
