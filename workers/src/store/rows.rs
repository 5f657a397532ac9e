//! What the rows of all aggregates have in common.

use std::collections::BTreeMap;

use brigade_contracts::{Address, Aggregate, Part, Refusal, Timestamp, Token};
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;

use crate::domain::Head;

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

/// `parts` are the columns `parts` and `parts_at`.
pub(crate) fn head(
    aggregate: Aggregate,
    tenant: &str,
    id: &str,
    version: i64,
    updated_at: OffsetDateTime,
    parts: (Value, Value),
) -> sqlx::Result<Head> {
    let versions: BTreeMap<Part, u64> = parse(parts.0)?;
    let mut times: BTreeMap<Part, Timestamp> = parse(parts.1)?;
    let at = Timestamp::from(updated_at);
    let parts = versions
        .into_iter()
        .map(|(part, version)| (part, (version, times.remove(&part).unwrap_or(at))))
        .collect();
    let address = Address::new(tenant, aggregate, id).map_err(refused)?;
    Ok(Head { address, version: version.cast_unsigned(), at, parts })
}

pub(crate) fn optional_token(text: Option<String>) -> sqlx::Result<Option<Token>> {
    text.map(|text| text.parse().map_err(refused)).transpose()
}

pub(crate) fn parse<T: DeserializeOwned>(value: Value) -> sqlx::Result<T> {
    serde_json::from_value(value).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(crate) fn refused(refusal: Refusal) -> sqlx::Error {
    sqlx::Error::Decode(refusal.into())
}
