//! Products: what the restaurant sells, and at what price. The id of a product is its sku.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, MAX_NAME, Money, Text, Timestamp, Token,
    verb::{Nothing, verbs},
};

verbs! {
    /// The verbs of a product.
    pub enum Verb {
        /// 201. Puts the product on the price list, or changes what the list says of it.
        "set" => Set(SetProduct),
        /// Takes the product off the price list. `set` puts it back.
        "withdraw" => Withdraw(Nothing),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetProduct {
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub currency: Currency,
    /// A heading of the menu; without one, none.
    pub category: Option<Text<MAX_NAME>>,
    /// False while it is sold out; without one, true.
    pub available: Option<bool>,
}

/// The part `core` of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    pub version: u64,
    pub at: Timestamp,
    /// It is on the price list; false: it was withdrawn.
    pub listed: bool,
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub currency: Currency,
    pub category: Option<Text<MAX_NAME>>,
    pub available: bool,
}

/// A row of the price list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedProduct {
    pub sku: Token,
    pub version: u64,
    pub name: Text<MAX_NAME>,
    pub unit_price: Money,
    pub currency: Currency,
    pub category: Option<Text<MAX_NAME>>,
    pub available: bool,
}

/// A page of the price list, in the order of skus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProductPage {
    pub products: Vec<ListedProduct>,
    /// The header `After` of the next query; null: there are no more.
    pub after: Option<Token>,
}
