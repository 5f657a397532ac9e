//! What is in a cart.

use brigade_contracts::{
    MAX_ITEMS, Refusal,
    cart::{AddItem, Item, RemoveItem, SetItem},
    event::{CART_ITEM_ADDED, CART_ITEM_CHANGED, CART_ITEM_REMOVED},
};

use super::{
    super::outcome::{Done, Result},
    super::unit_of_work::UnitOfWork,
    Cart, not_a_member, too_large,
};

pub(super) fn add(draft: &mut UnitOfWork<'_>, cart: Cart, add: &AddItem) -> Result<Done> {
    let mut cart = cart.with_items_free()?;
    if cart.items.iter().any(|item| item.item_id == add.item_id) {
        return Err(Refusal::new(409, "item_exists", "there is an item of this id").into());
    }
    if let Some(user) = &add.user
        && !cart.is_member(user)
    {
        return Err(not_a_member().into());
    }
    if cart.items.len() >= MAX_ITEMS {
        return Err(too_large("a cart has at most 200 items").into());
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
    draft.put_record(cart, CART_ITEM_ADDED, add);
    Ok(Done::ok())
}

pub(super) fn set(draft: &mut UnitOfWork<'_>, cart: Cart, set: &SetItem) -> Result<Done> {
    let mut cart = cart.with_items_free()?;
    let item = cart.items.iter_mut().find(|item| item.item_id == set.item_id);
    item.ok_or_else(item_not_found)?.quantity = set.quantity;
    cart.total()?;
    cart.require_fitting()?;
    draft.put_record(cart, CART_ITEM_CHANGED, set);
    Ok(Done::ok())
}

pub(super) fn remove(draft: &mut UnitOfWork<'_>, cart: Cart, remove: &RemoveItem) -> Result<Done> {
    let mut cart = cart.with_items_free()?;
    let at = cart.items.iter().position(|item| item.item_id == remove.item_id);
    cart.items.remove(at.ok_or_else(item_not_found)?);
    draft.put_record(cart, CART_ITEM_REMOVED, remove);
    Ok(Done::ok())
}

fn item_not_found() -> Refusal {
    Refusal::new(404, "item_not_found", "there is no such item in the cart")
}
