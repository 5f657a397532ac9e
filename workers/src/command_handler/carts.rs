//! Carts in SQL.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Part, Refusal, Timestamp,
    cart::{Kind, Status},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::{PgExecutor, Postgres, Transaction};
use time::OffsetDateTime;

use crate::domain::{Cart, Head};

/// A row of `brigade.carts`.
struct Row {
    tenant: String,
    id: String,
    version: i64,
    updated_at: OffsetDateTime,
    parts: Value,
    parts_at: Value,
    kind: String,
    owner: String,
    session: Option<String>,
    status: String,
    currency: String,
    members: Value,
    items: Value,
    paid: i64,
    refunded: i64,
    payments: Value,
    order_id: Option<String>,
    locked_until: Option<OffsetDateTime>,
}

/// Reads and locks the carts among these addresses, in the order of their keys.
///
/// # Errors
/// Those of Postgres.
pub async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    addresses: &BTreeSet<&Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(addresses.iter().copied());
    let rows = sqlx::query_as!(
        Row,
        "select cart.* from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.carts cart using (tenant, id)
         order by tenant, id
         for update of cart",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Row::into_cart).collect()
}

/// Reads carts without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(addresses);
    let rows = sqlx::query_as!(
        Row,
        "select cart.* from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.carts cart using (tenant, id)",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Row::into_cart).collect()
}

fn keys<'a>(addresses: impl Iterator<Item = &'a Address>) -> (Vec<&'a str>, Vec<&'a str>) {
    addresses
        .filter(|address| address.aggregate == Aggregate::Cart)
        .map(|address| (address.tenant.as_str(), address.id.as_str()))
        .unzip()
}

/// Writes carts that are locked, or new. Where another handler made the same cart meanwhile, the
/// unique version of its first event lets the transaction fail and be tried again.
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, carts: &[Cart]) -> sqlx::Result<()> {
    let text = |f: fn(&Cart) -> &str| carts.iter().map(f).collect::<Vec<_>>();
    let optional = |f: fn(&Cart) -> Option<&str>| carts.iter().map(f).collect::<Vec<_>>();
    let number = |f: fn(&Cart) -> i64| carts.iter().map(f).collect::<Vec<_>>();
    let document = |f: fn(&Cart) -> Value| carts.iter().map(f).collect::<Vec<_>>();
    let times: Vec<_> = carts.iter().map(|c| c.head.at.inner()).collect();
    let locked: Vec<_> = carts.iter().map(|c| c.locked_until.map(Timestamp::inner)).collect();
    sqlx::query_file!(
        "src/command_handler/save_carts.sql",
        &text(|c| c.head.address.tenant.as_str()) as _,
        &text(|c| c.head.address.id.as_str()) as _,
        &number(|c| c.head.version.cast_signed()),
        &times,
        &document(|c| json(&c.head.part_versions())),
        &document(|c| json(&part_times(&c.head))),
        &text(|c| c.kind.as_str()) as _,
        &text(|c| c.owner.as_str()) as _,
        &optional(|c| c.session.as_ref().map(|s| s.as_str())) as _,
        &text(|c| c.status.as_str()) as _,
        &text(|c| c.currency.as_str()) as _,
        &document(|c| json(&c.members)),
        &document(|c| json(&c.items)),
        &number(|c| c.paid.minor_units()),
        &number(|c| c.refunded.minor_units()),
        &document(|c| json(&c.payments)),
        &optional(|c| c.order_id.as_ref().map(|id| id.as_str())) as _,
        &locked as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn part_times(head: &Head) -> BTreeMap<Part, Timestamp> {
    head.parts.iter().map(|(part, (_, at))| (*part, *at)).collect()
}

impl Row {
    /// A row that command-handler did not write is an error, not a guess.
    fn into_cart(self) -> sqlx::Result<Cart> {
        let versions: BTreeMap<Part, u64> = parse(self.parts)?;
        let mut times: BTreeMap<Part, Timestamp> = parse(self.parts_at)?;
        let at = Timestamp::from(self.updated_at);
        let parts = versions
            .into_iter()
            .map(|(part, version)| (part, (version, times.remove(&part).unwrap_or(at))))
            .collect();
        let address = Address::new(&self.tenant, Aggregate::Cart, &self.id).map_err(refused)?;
        let kind: Kind = parse(Value::String(self.kind))?;
        let status: Status = parse(Value::String(self.status))?;
        Ok(Cart {
            head: Head { address, version: self.version.cast_unsigned(), at, parts },
            kind,
            owner: self.owner.parse().map_err(refused)?,
            session: self.session.map(|s| s.parse()).transpose().map_err(refused)?,
            status,
            currency: Currency::new(&self.currency).map_err(refused)?,
            members: parse(self.members)?,
            items: parse(self.items)?,
            paid: Money::new(self.paid).map_err(refused)?,
            refunded: Money::new(self.refunded).map_err(refused)?,
            payments: parse(self.payments)?,
            order_id: self.order_id.map(|id| id.parse()).transpose().map_err(refused)?,
            locked_until: self.locked_until.map(Timestamp::from),
        })
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> sqlx::Result<T> {
    serde_json::from_value(value).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn refused(refusal: Refusal) -> sqlx::Error {
    sqlx::Error::Decode(refusal.into())
}
