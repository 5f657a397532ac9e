//! The items of a cart.

use brigade_contracts::{
    MAX_ITEMS, Refusal,
    cart::{AddItem, Item, RemoveItem, SetItem},
    event::{CART_ITEM_ADDED, CART_ITEM_CHANGED, CART_ITEM_REMOVED},
};

use super::checks::not_a_member;
use crate::{changes::Fact, refusal::too_large, state::Cart};

pub(super) fn add(cart: &mut Cart, add: &AddItem) -> Result<Fact, Refusal> {
    cart.require_unpaid()?;
    if cart.items.iter().any(|item| item.item_id == add.item_id) {
        return Err(Refusal::new(409, "item_exists", "there is an item of this id"));
    }
    if add.user.as_ref().is_some_and(|user| !cart.is_member(user)) {
        return Err(not_a_member());
    }
    if cart.items.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 items"));
    }
    cart.items.push(Item {
        item_id: add.item_id.clone(),
        sku: add.sku.clone(),
        name: add.name.clone(),
        unit_price: add.unit_price,
        quantity: add.quantity,
        user: add.user.clone(),
    });
    cart.total()?;
    cart.require_fitting()?;
    Ok(Fact::new(CART_ITEM_ADDED, add))
}

pub(super) fn set(cart: &mut Cart, set: &SetItem) -> Result<Fact, Refusal> {
    cart.require_unpaid()?;
    let item = cart.items.iter_mut().find(|item| item.item_id == set.item_id);
    item.ok_or_else(item_not_found)?.quantity = set.quantity;
    cart.total()?;
    cart.require_fitting()?;
    Ok(Fact::new(CART_ITEM_CHANGED, set))
}

pub(super) fn remove(cart: &mut Cart, remove: &RemoveItem) -> Result<Fact, Refusal> {
    cart.require_unpaid()?;
    let at = cart.items.iter().position(|item| item.item_id == remove.item_id);
    cart.items.remove(at.ok_or_else(item_not_found)?);
    Ok(Fact::new(CART_ITEM_REMOVED, remove))
}

fn item_not_found() -> Refusal {
    Refusal::new(404, "item_not_found", "there is no such item in the cart")
}
