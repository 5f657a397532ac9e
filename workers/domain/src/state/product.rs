use brigade_contracts::{Currency, MAX_NAME, Money, Text, product::Core};
use serde_json::value::RawValue;

use crate::{head::Head, json::raw};

/// A product as SQL keeps it; the id is its sku.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub head: Head,
    /// It is on the price list.
    pub listed: bool,
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub currency: Currency,
    pub category: Option<Text<MAX_NAME>>,
    pub available: bool,
}

impl Product {
    /// Returns the part `core`.
    pub(super) fn core(&self) -> Box<RawValue> {
        raw(&Core {
            version: self.head.version,
            at: self.head.at,
            listed: self.listed,
            name: self.name.clone(),
            unit_price: self.unit_price,
            currency: self.currency,
            category: self.category.clone(),
            available: self.available,
        })
    }
}
