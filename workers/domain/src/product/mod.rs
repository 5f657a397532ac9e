//! Products: the price list of a tenant.
//!
//! ```text
//! (nothing) ─ set ─► listed ── set ──┐
//!                     │ ▲    ◄───────┘
//!            withdraw │ │ set
//!                     ▼ │
//!                  withdrawn
//! ```
//!
//! Who puts something into a cart or places an order names a sku, and what is left out of name and
//! price comes from the product ([`offered`]) as it is at that moment: later changes of the list
//! change no cart and no order.

mod offered;

use brigade_contracts::{
    Address,
    event::{PRODUCT_SET, PRODUCT_WITHDRAWN},
    product::{SetProduct, Verb},
    verb::Nothing,
};

pub(crate) use self::offered::offered;
use crate::{
    changes::Fact,
    head::Head,
    outcome::{Done, Result},
    refusal::not_found,
    state::Product,
    unit_of_work::UnitOfWork,
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Set(verb) => set(work, address, verb),
        Verb::Withdraw(Nothing {}) => withdraw(work, address),
    }
}

/// Puts a product on the list. What is there already as it is to be stays as it is: a list that is
/// imported once more makes no events.
fn set(work: &mut UnitOfWork<'_>, address: &Address, verb: &SetProduct) -> Result<Done> {
    verb.unit_price.bounded()?;
    let known = work.load::<Product>(address)?;
    let head = known.map_or_else(
        || Head::unborn(address.clone(), work.now),
        |product| work[product].head.clone(),
    );
    let wanted = Product {
        head,
        listed: true,
        name: verb.name.clone(),
        unit_price: verb.unit_price,
        currency: verb.currency,
        category: verb.category.clone(),
        available: verb.available.unwrap_or(true),
    };
    if known.is_some_and(|product| work[product] == wanted) {
        return Ok(Done::ok());
    }
    let available = Some(wanted.available);
    let product = work.store(known, wanted);
    work.record(product, Fact::new(PRODUCT_SET, &SetProduct { available, ..verb.clone() }));
    Ok(if known.is_some() { Done::ok() } else { Done::created() })
}

fn withdraw(work: &mut UnitOfWork<'_>, address: &Address) -> Result<Done> {
    let product = work.existing::<Product>(address)?;
    if !work[product].listed {
        return Err(not_found().into());
    }
    work.change(product, |product| {
        product.listed = false;
        Ok(Fact::new(PRODUCT_WITHDRAWN, &Nothing {}))
    })
}

#[cfg(test)]
mod tests;
