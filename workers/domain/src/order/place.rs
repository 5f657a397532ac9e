//! Orders begin: placed by themselves, or made of a cart.

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Money, Part, Refusal, Timestamp, cart,
    event::ORDER_PLACED,
    order::{Item, Place, PlacedItem},
};
use serde_json::json;

use super::paid::record_paid;
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    product,
    refusal::{MOST_CONTENTS, already_exists, too_large},
    state::{Cart, Order},
    table,
    unit_of_work::UnitOfWork,
};

pub(super) fn place(work: &mut UnitOfWork<'_>, address: &Address, place: &Place) -> Result<Done> {
    if work.find::<Order>(address)?.is_some() {
        return Err(already_exists().into());
    }
    let seat = table::seat(work, place.table_id.as_ref(), place.turn_id.as_ref())?;
    if place.items.is_empty() {
        return Err(Refusal::new(422, "order_empty", "an order needs an item").into());
    }
    if place.items.len() > MAX_ITEMS {
        return Err(too_large("an order has at most 200 items").into());
    }
    let mut ids = BTreeSet::new();
    let mut total = Money::ZERO;
    let mut items = Vec::with_capacity(place.items.len());
    for item in &place.items {
        if item.item_id.as_ref().is_some_and(|id| !ids.insert(id)) {
            let message = "two items have the same item_id";
            return Err(Refusal::new(422, "item_repeated", message).into());
        }
        let item = priced(work, place.currency, item)?;
        total = total.plus(item.unit_price.times(item.quantity)?)?;
        items.push(item);
    }
    let total = total.bounded()?;
    let order = Order::new(address.clone(), place.currency, items, total, work.now).at(seat);
    if order.part(Part::Core).get().len() > MOST_CONTENTS {
        return Err(too_large("an order has at most 64 KiB").into());
    }
    let placed = json!({
        "table_id": order.table_id, "turn_id": order.turn_id, "currency": order.currency,
        "items": order.items,
    });
    let order = work.create(order);
    work.record(order, Fact::new(ORDER_PLACED, &placed));
    record_paid(work, order);
    Ok(Done::created())
}

fn priced(work: &mut UnitOfWork<'_>, currency: Currency, item: &PlacedItem) -> Result<Item> {
    let PlacedItem { item_id, sku, name, unit_price, quantity, note } = item;
    let (name, unit_price) = product::offered(work, sku, currency, name.as_ref(), *unit_price)?;
    Ok(Item {
        item_id: item_id.clone(),
        sku: sku.clone(),
        name,
        unit_price,
        quantity: *quantity,
        note: note.clone(),
    })
}

/// Returns the order that a cart becomes: its items, and all that is paid or being paid.
pub(crate) fn of_cart(
    address: Address,
    cart: &Cart,
    now: Timestamp,
) -> std::result::Result<Order, Refusal> {
    let item = |item: &cart::Item| Item {
        item_id: Some(item.item_id.clone()),
        sku: item.sku.clone(),
        name: item.name.clone(),
        unit_price: item.unit_price,
        quantity: item.quantity,
        note: None,
    };
    let items = cart.items.iter().map(item).collect();
    Ok(Order {
        cart_id: Some(cart.head.address.id.clone()),
        owner: Some(cart.owner.clone()),
        paid: cart.paid,
        refunded: cart.refunded,
        payments: cart.payments.clone(),
        ..Order::new(address, cart.currency, items, cart.total()?, now)
    })
}

/// Records an order that was a cart, paid or not.
pub(crate) fn place_cart(work: &mut UnitOfWork<'_>, order: Order) {
    let placed = json!({
        "cart_id": order.cart_id, "table_id": order.table_id, "turn_id": order.turn_id,
        "currency": order.currency, "items": order.items,
    });
    let order = work.create(order);
    work.record(order, Fact::new(ORDER_PLACED, &placed));
    record_paid(work, order);
}
