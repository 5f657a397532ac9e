//! A cart becomes an order, once.

use brigade_contracts::{Aggregate, Refusal, Token, cart::Status, event::CART_CHECKED_OUT};
use serde_json::json;

use super::checks::cart_empty;
use crate::{
    lock, order,
    outcome::Result,
    state::{Cart, Lock, Order},
    table,
    unit_of_work::{Handle, UnitOfWork},
};

/// Makes an order of an open cart. What is paid, and every payment, goes over to the order, and the
/// lock is released. Whatever is refused is refused before anything is changed.
pub(crate) fn check_out(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    order_id: &Token,
    table_id: Option<&Token>,
    token: Option<i64>,
) -> Result<()> {
    let lock = named_lock(work, cart, token)?;
    if work[cart].items.is_empty() {
        return Err(cart_empty().into());
    }
    let seat = table::seat(work, table_id, None)?;
    let address = work.address(Aggregate::Order, order_id);
    if work.find::<Order>(&address)?.is_some() {
        return Err(Refusal::new(409, "order_exists", "there is an order of this id").into());
    }
    if let Some(lock) = lock {
        lock::release(work, lock, "checked_out")?;
    }
    let order = order::of_cart(address, &work[cart], work.now)?.at(seat);
    let checked_out = &mut work[cart];
    checked_out.status = Status::CheckedOut;
    checked_out.order_id = Some(order_id.clone());
    work.record(cart, CART_CHECKED_OUT, &json!({ "order_id": order_id }));
    order::place_cart(work, order);
    Ok(())
}

/// Returns the live lock, which has to be this cart's and named by the token.
fn named_lock(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    token: Option<i64>,
) -> Result<Option<Handle<Lock>>> {
    let Some(lock) = lock::live_over(work, cart)? else {
        return if token.is_none() { Ok(None) } else { Err(lock::ended_token().into()) };
    };
    let held = &work[lock];
    if token.is_some_and(|token| token != held.token) {
        return Err(lock::stale_token().into());
    }
    if token.is_none() || held.cart_id != work[cart].head.address.id {
        return Err(held.refusal(work.now).into());
    }
    Ok(Some(lock))
}
