//! A cart becomes an order, once.

use brigade_contracts::{
    Aggregate, MAX_PENDING_ORDERS, Refusal, Timestamp,
    cart::{CheckOut, Status},
    event::CART_CHECKED_OUT,
};
use serde_json::json;

use crate::{
    changes::Fact,
    lock, order,
    outcome::{Done, Result},
    refusal::cart_empty,
    state::{Cart, Lock, Order},
    table,
    unit_of_work::{Handle, UnitOfWork},
};

/// Makes an order of an open cart, over which there may be a live lock. What is paid, and every payment, goes over to the order, and the
/// lock is released. Whatever is refused is refused before anything is changed.
pub(crate) fn check_out(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    lock: Option<Handle<Lock>>,
    verb: &CheckOut,
) -> Result<Done> {
    require_named(&work[cart], lock.map(|lock| &work[lock]), verb.token, work.now)?;
    if work[cart].items.is_empty() {
        return Err(cart_empty().into());
    }
    let seat = table::seat(work, verb.table_id.as_ref(), verb.turn_id.as_ref())?;
    let address = work.address(Aggregate::Order, &verb.order_id);
    if work.find::<Order>(&address)?.is_some() {
        return Err(Refusal::new(409, "order_exists", "there is an order of this id").into());
    }
    let order = order::of_cart(address, &work[cart], work.now)?.at(seat);
    if work.command.relation.is_some() && order.is_pending() {
        let owner = work[cart].owner.clone();
        if work.pending_orders(&owner)? >= MAX_PENDING_ORDERS {
            return Err(too_many_orders().into());
        }
    }
    if let Some(lock) = lock {
        work.change_lock(lock, |lock| lock.release("checked_out"))?;
    }
    work[cart].status = Status::CheckedOut;
    work[cart].order_id = Some(verb.order_id.clone());
    work.record(cart, Fact::new(CART_CHECKED_OUT, &json!({ "order_id": verb.order_id })));
    order::place_cart(work, order);
    Ok(Done::ok())
}

/// Nobody but the restaurant fills the screen of the kitchen: what a customer has ordered has to be
/// accepted, or paid, before he orders more.
fn too_many_orders() -> Refusal {
    let message = "20 orders of this owner wait to be accepted or paid; pay or cancel one first";
    Refusal::new(409, "too_many_orders", message)
}

/// Requires a live lock to be the cart's own, and the token to name it.
fn require_named(
    cart: &Cart,
    lock: Option<&Lock>,
    token: Option<i64>,
    now: Timestamp,
) -> std::result::Result<(), Refusal> {
    match (lock, token) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(lock::ended_token()),
        (Some(lock), Some(token)) if token != lock.token => Err(lock::stale_token()),
        (Some(lock), Some(_)) if lock.cart_id == cart.head.address.id => Ok(()),
        (Some(lock), _) => Err(lock.refusal(now)),
    }
}
