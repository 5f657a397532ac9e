//! The items of a cart.

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Refusal,
    cart::{AddItem, Item, RemoveItem, SetItem},
    event::{CART_ITEM_ADDED, CART_ITEM_CHANGED, CART_ITEM_REMOVED},
};

use super::checks::not_a_member;
use crate::{
    changes::Fact,
    lock,
    outcome::{Done, Result},
    product,
    refusal::too_large,
    state::Cart,
    unit_of_work::UnitOfWork,
};

pub(super) fn add(work: &mut UnitOfWork<'_>, address: &Address, add: &AddItem) -> Result<Done> {
    let cart = lock::unlocked_cart(work, address)?;
    require_room(&work[cart], add)?;
    let AddItem { item_id, sku, name, unit_price, quantity, user } = add;
    let currency = work[cart].currency;
    let (name, unit_price) = product::offered(work, sku, currency, name.as_ref(), *unit_price)?;
    let item = Item {
        item_id: item_id.clone(),
        sku: sku.clone(),
        name,
        unit_price,
        quantity: *quantity,
        user: user.clone(),
    };
    work.change(cart, |cart| {
        cart.items.push(item.clone());
        cart.total()?.bounded()?;
        cart.require_fitting()?;
        Ok(Fact::new(CART_ITEM_ADDED, &item))
    })
}

fn require_room(cart: &Cart, add: &AddItem) -> std::result::Result<(), Refusal> {
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
    Ok(())
}

pub(super) fn set(work: &mut UnitOfWork<'_>, address: &Address, set: &SetItem) -> Result<Done> {
    let cart = lock::unlocked_cart(work, address)?;
    work[cart].require_unpaid()?;
    let item = work[cart].items.iter().find(|item| item.item_id == set.item_id).cloned();
    let item = item.ok_or_else(item_not_found)?;
    // A program or staff may sell what is on no list, at any price.
    if work.command.relation.is_some() && set.quantity > item.quantity {
        require_offered(work, &item, work[cart].currency)?;
    }
    work.change(cart, |cart| {
        let changed = cart.items.iter_mut().find(|item| item.item_id == set.item_id);
        changed.ok_or_else(item_not_found)?.quantity = set.quantity;
        cart.total()?.bounded()?;
        cart.require_fitting()?;
        Ok(Fact::new(CART_ITEM_CHANGED, set))
    })
}

/// Requires that more of an item is to be had at its price. All pieces of an item have one price,
/// and those that are there keep theirs, so what is offered at another one is another item.
fn require_offered(work: &mut UnitOfWork<'_>, item: &Item, currency: Currency) -> Result<()> {
    let (_, unit_price) = product::offered(work, &item.sku, currency, None, None)?;
    if unit_price == item.unit_price {
        return Ok(());
    }
    let message = "the price has changed: add what is to come as another item";
    Err(Refusal::new(409, "price_changed", message).into())
}

pub(super) fn remove(cart: &mut Cart, remove: &RemoveItem) -> std::result::Result<Fact, Refusal> {
    cart.require_unpaid()?;
    let at = cart.items.iter().position(|item| item.item_id == remove.item_id);
    cart.items.remove(at.ok_or_else(item_not_found)?);
    Ok(Fact::new(CART_ITEM_REMOVED, remove))
}

fn item_not_found() -> Refusal {
    Refusal::new(404, "item_not_found", "there is no such item in the cart")
}
