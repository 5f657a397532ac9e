//! Columns and conversions that the rows of all aggregates have in common.
//!
//! A row travels as JSON in both directions. That takes one statement for any number of rows, names
//! each column once on either side, and goes straight into the types of the domain: a row that
//! command-handler did not write is an error, not a guess.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{Address, Aggregate, Part, PartVersions, Refusal, Timestamp, Token};
use brigade_domain::Head;
use serde::de::DeserializeOwned;
use sqlx::types::Json;

/// Returns the tenants and ids of one kind among these addresses.
pub(crate) fn keys<'a>(
    aggregate: Aggregate,
    addresses: impl Iterator<Item = &'a Address>,
) -> (Vec<&'a str>, Vec<&'a str>) {
    addresses
        .filter(|address| address.aggregate == aggregate)
        .map(|address| (address.tenant.as_str(), address.id.as_str()))
        .unzip()
}

/// Returns the tenants, aggregates and ids of these addresses.
pub(crate) fn columns<'a>(
    addresses: impl IntoIterator<Item = &'a Address>,
) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    let addresses = addresses.into_iter();
    addresses.map(|a| (a.tenant.as_str(), a.aggregate.as_str(), a.id.as_str())).collect()
}

/// Returns tenants and names as columns.
pub(crate) fn columns_of_names(names: &BTreeSet<(Token, Token)>) -> (Vec<&str>, Vec<&str>) {
    names.iter().map(|(tenant, name)| (tenant.as_str(), name.as_str())).unzip()
}

/// Returns values as the rows of one statement, which SQL takes apart by the names of the fields.
pub(crate) fn to_rows<Row: From<T>, T>(values: impl IntoIterator<Item = T>) -> Json<Vec<Row>> {
    Json(values.into_iter().map(Row::from).collect())
}

/// Parses what `row_to_json` made of a row.
///
/// # Errors
/// If command-handler did not write it.
pub(crate) fn parse<T: DeserializeOwned>(row: &str) -> sqlx::Result<T> {
    serde_json::from_str(row).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Returns the head of a row; `parts` and `parts_at` are the columns of these names.
pub(crate) fn head(
    aggregate: Aggregate,
    (tenant, id): (Token, Token),
    version: u64,
    at: Timestamp,
    parts: PartVersions,
    parts_at: &BTreeMap<Part, Timestamp>,
) -> Head {
    let parts = parts
        .into_iter()
        .map(|(part, version)| (part, (version, parts_at.get(&part).copied().unwrap_or(at))))
        .collect();
    Head { address: Address { tenant, aggregate, id }, version, at, parts }
}

/// Returns the head of a row that has no part but `core`, which each change touches.
pub(crate) fn head_of_core(
    aggregate: Aggregate,
    key: (Token, Token),
    version: u64,
    at: Timestamp,
) -> Head {
    head(aggregate, key, version, at, [(Part::Core, version)].into(), &BTreeMap::new())
}

/// Returns the error of a column that the domain's types refuse.
pub(crate) fn refused(refusal: Refusal) -> sqlx::Error {
    sqlx::Error::Decode(refusal.into())
}
