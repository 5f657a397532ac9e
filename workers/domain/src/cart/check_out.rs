//! A cart becomes an order, once.

use brigade_contracts::{Aggregate, Refusal, Token, cart::Status, event::CART_CHECKED_OUT};
use serde_json::json;

use super::{super::lock::stale_token, Cart, locking::cart_empty};
use crate::{
    order::{of_cart, place_cart},
    outcome::Result,
    table,
    unit_of_work::UnitOfWork,
};

/// What is paid, and every payment, goes over to the order, and the lock is released. Whatever is
/// refused is refused before anything is changed.
pub(crate) fn check_out(
    draft: &mut UnitOfWork<'_>,
    cart: Cart,
    order_id: &Token,
    table_id: Option<&Token>,
    token: Option<i64>,
) -> Result<()> {
    let lock = draft.live_lock(&cart.owner)?;
    match (&lock, token) {
        (None, None) => {}
        (Some(lock), Some(token)) if lock.token == token => {
            if lock.cart_id != cart.head.address.id {
                return Err(lock.refusal(draft.now));
            }
        }
        (_, Some(_)) => return Err(stale_token()),
        (Some(lock), None) => return Err(lock.refusal(draft.now)),
    }
    let cart = draft.again(cart);
    if cart.items.is_empty() {
        return Err(cart_empty().into());
    }
    let seat = table::seat(draft, table_id, None)?;
    let address = draft.address(Aggregate::Order, order_id);
    if draft.order(&address)?.is_some() {
        return Err(Refusal::new(409, "order_exists", "there is an order of this id").into());
    }
    if let Some(lock) = lock {
        draft.release(lock, "checked_out")?;
    }
    let mut cart = draft.again(cart);
    let order = of_cart(address, &cart, draft.now)?.at(seat);
    cart.status = Status::CheckedOut;
    cart.order_id = Some(order_id.clone());
    draft.put_record(cart, CART_CHECKED_OUT, &json!({ "order_id": order_id }));
    place_cart(draft, order);
    Ok(())
}
