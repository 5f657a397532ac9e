//! What the rows of all aggregates have in common. They are read as JSON, which takes one statement
//! for rows of any kind, and straight into the types of the domain: a row that command-handler did
//! not write is an error, not a guess.

use std::collections::BTreeMap;

use brigade_contracts::{Address, Aggregate, Part, PartVersions, Refusal, Timestamp, Token};
use brigade_domain::Head;
use serde::de::DeserializeOwned;

/// The tenants and ids of one kind among these addresses.
pub(crate) fn keys<'a>(
    aggregate: Aggregate,
    addresses: impl Iterator<Item = &'a Address>,
) -> (Vec<&'a str>, Vec<&'a str>) {
    addresses
        .filter(|address| address.aggregate == aggregate)
        .map(|address| (address.tenant.as_str(), address.id.as_str()))
        .unzip()
}

/// The head of a row; `parts` and `parts_at` are the columns of these names.
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

/// The head of a row that has no part but `core`, which each change touches.
pub(crate) fn head_of_core(
    aggregate: Aggregate,
    key: (Token, Token),
    version: u64,
    at: Timestamp,
) -> Head {
    head(aggregate, key, version, at, [(Part::Core, version)].into(), &BTreeMap::new())
}

/// What `row_to_json` made of a row.
pub(crate) fn parse<T: DeserializeOwned>(row: &str) -> sqlx::Result<T> {
    serde_json::from_str(row).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(crate) fn refused(refusal: Refusal) -> sqlx::Error {
    sqlx::Error::Decode(refusal.into())
}
