//! The items of a cart.

use brigade_contracts::{
    Address, MAX_ITEMS, Refusal,
    cart::{AddItem, Item, RemoveItem, SetItem},
    event::{CART_ITEM_ADDED, CART_ITEM_CHANGED, CART_ITEM_REMOVED},
};

use super::checks::{not_a_member, require_fitting, require_unpaid, unlocked};
use crate::{
    outcome::{Done, Result},
    refusal::too_large,
    unit_of_work::UnitOfWork,
};

pub(super) fn add(work: &mut UnitOfWork<'_>, address: &Address, add: &AddItem) -> Result<Done> {
    let cart = unlocked(work, address)?;
    let present = &work[cart];
    require_unpaid(present)?;
    if present.items.iter().any(|item| item.item_id == add.item_id) {
        return Err(Refusal::new(409, "item_exists", "there is an item of this id").into());
    }
    if add.user.as_ref().is_some_and(|user| !present.is_member(user)) {
        return Err(not_a_member().into());
    }
    if present.items.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 items").into());
    }
    let changed = &mut work[cart];
    changed.items.push(Item {
        item_id: add.item_id.clone(),
        sku: add.sku.clone(),
        name: add.name.clone(),
        unit_price: add.unit_price,
        quantity: add.quantity,
        user: add.user.clone(),
    });
    changed.total()?;
    require_fitting(changed)?;
    work.record(cart, CART_ITEM_ADDED, add);
    Ok(Done::ok())
}

pub(super) fn set(work: &mut UnitOfWork<'_>, address: &Address, set: &SetItem) -> Result<Done> {
    let cart = unlocked(work, address)?;
    require_unpaid(&work[cart])?;
    let changed = &mut work[cart];
    let item = changed.items.iter_mut().find(|item| item.item_id == set.item_id);
    item.ok_or_else(item_not_found)?.quantity = set.quantity;
    changed.total()?;
    require_fitting(changed)?;
    work.record(cart, CART_ITEM_CHANGED, set);
    Ok(Done::ok())
}

pub(super) fn remove(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    remove: &RemoveItem,
) -> Result<Done> {
    let cart = unlocked(work, address)?;
    require_unpaid(&work[cart])?;
    let at = work[cart].items.iter().position(|item| item.item_id == remove.item_id);
    work[cart].items.remove(at.ok_or_else(item_not_found)?);
    work.record(cart, CART_ITEM_REMOVED, remove);
    Ok(Done::ok())
}

fn item_not_found() -> Refusal {
    Refusal::new(404, "item_not_found", "there is no such item in the cart")
}
