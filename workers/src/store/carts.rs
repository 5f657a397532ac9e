//! Carts in SQL, as every reader gets them. Only command-handler locks and writes them.

use brigade_contracts::{Address, Aggregate, Currency, Money, Timestamp};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use super::rows::{head, keys, optional_token, parse, refused};
use crate::domain::Cart;

/// A row of `brigade.carts`.
pub(crate) struct CartRow {
    pub(crate) tenant: String,
    pub(crate) id: String,
    pub(crate) version: i64,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) parts: Value,
    pub(crate) parts_at: Value,
    pub(crate) kind: String,
    pub(crate) owner: String,
    pub(crate) session: Option<String>,
    pub(crate) status: String,
    pub(crate) currency: String,
    pub(crate) members: Value,
    pub(crate) items: Value,
    pub(crate) paid: i64,
    pub(crate) refunded: i64,
    pub(crate) payments: Value,
    pub(crate) order_id: Option<String>,
    pub(crate) locked_until: Option<OffsetDateTime>,
}

/// Reads carts without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(Aggregate::Cart, addresses);
    let rows = sqlx::query_as!(
        CartRow,
        "select cart.* from unnest($1::text[], $2::text[]) as asked (tenant, id)
         join brigade.carts cart using (tenant, id)",
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(CartRow::into_cart).collect()
}

impl CartRow {
    /// A row that command-handler did not write is an error, not a guess.
    pub(crate) fn into_cart(self) -> sqlx::Result<Cart> {
        let Self { tenant, id, version, updated_at, parts, parts_at, .. } = self;
        Ok(Cart {
            head: head(Aggregate::Cart, &tenant, &id, version, updated_at, (parts, parts_at))?,
            kind: parse(Value::String(self.kind))?,
            owner: self.owner.parse().map_err(refused)?,
            session: optional_token(self.session)?,
            status: parse(Value::String(self.status))?,
            currency: Currency::new(&self.currency).map_err(refused)?,
            members: parse(self.members)?,
            items: parse(self.items)?,
            paid: Money::new(self.paid).map_err(refused)?,
            refunded: Money::new(self.refunded).map_err(refused)?,
            payments: parse(self.payments)?,
            order_id: optional_token(self.order_id)?,
            locked_until: self.locked_until.map(Timestamp::from),
        })
    }
}
