//! What is sold: a line of a cart or an order, with name and price.

use brigade_contracts::{Aggregate, Currency, MAX_NAME, Money, Refusal, Text, Token};

use crate::{outcome::Result, state::Product, unit_of_work::UnitOfWork};

/// Returns the name and the price of what is sold. What its sender leaves out comes from the
/// product of this sku, which has to be on the list, to be had, and in this currency.
pub(crate) fn offered(
    work: &mut UnitOfWork<'_>,
    sku: &Text<MAX_NAME>,
    currency: Currency,
    name: Option<&Text<MAX_NAME>>,
    unit_price: Option<Money>,
) -> Result<(Text<MAX_NAME>, Money)> {
    if let (Some(name), Some(unit_price)) = (name, unit_price) {
        return Ok((name.clone(), unit_price));
    }
    // What is no Token is the sku of no product.
    let sku = Token::new(sku.as_str()).map_err(|_| unknown_product())?;
    let address = work.address(Aggregate::Product, &sku);
    let product = work.find::<Product>(&address)?.filter(|product| product.listed);
    let product = product.ok_or_else(unknown_product)?;
    if !product.available {
        let message = "this product is not to be had at present";
        return Err(Refusal::new(409, "product_unavailable", message).into());
    }
    if product.currency != currency {
        let message = format!("the price of this product is in {}", product.currency.as_str());
        return Err(Refusal::new(409, "other_currency", message).into());
    }
    let name = name.unwrap_or(&product.name).clone();
    Ok((name, unit_price.unwrap_or(product.unit_price)))
}

fn unknown_product() -> Refusal {
    Refusal::new(422, "unknown_product", "there is no product of this sku on the price list")
}
