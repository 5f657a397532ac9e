//! A cart becomes an order, once.

use brigade_contracts::{
    Aggregate, Refusal, Timestamp,
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
    if let Some(lock) = lock {
        work.change_lock(lock, |lock| lock.release("checked_out"))?;
    }
    work[cart].status = Status::CheckedOut;
    work[cart].order_id = Some(verb.order_id.clone());
    work.record(cart, Fact::new(CART_CHECKED_OUT, &json!({ "order_id": verb.order_id })));
    order::place_cart(work, order);
    Ok(Done::ok())
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
