//! Carts in SQL. Everybody reads them in this way; only command-handler locks and saves them.

use std::collections::BTreeMap;

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Part, PartVersions, Timestamp, Token,
    cart::{Item, Kind, MemberPayment, Status},
};
use brigade_domain::{Cart, Entry};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head, keys, parse, to_rows};

/// A row of `brigade.carts`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCart {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    kind: Kind,
    owner: Token,
    session: Option<Token>,
    status: Status,
    currency: Currency,
    members: Vec<MemberPayment>,
    items: Vec<Item>,
    paid: Money,
    refunded: Money,
    payments: Vec<Entry>,
    order_id: Option<Token>,
    locked_until: Option<Timestamp>,
    refusals: u32,
    secret_hash: Option<String>,
}

/// Loads carts without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Cart>> {
    let (tenants, ids) = keys(Aggregate::Cart, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(cart)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.carts cart using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<StoredCart>(row).map(Cart::from)).collect()
}

/// Saves carts that are locked, or new. If another handler made the same cart meanwhile, the unique
/// version of its first event lets the transaction fail, to be tried again.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, carts: &[&Cart]) -> sqlx::Result<()> {
    if carts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.carts
             (tenant, id, version, updated_at, parts, parts_at, kind, owner, session, status,
              currency, members, items, paid, refunded, payments, order_id, locked_until, refusals,
              secret_hash, changed_hour)
         select tenant, id, version, updated_at, parts, parts_at, kind, owner, session, status,
                currency, members, items, paid, refunded, payments, order_id, locked_until,
                refusals, secret_hash, floor(extract(epoch from updated_at) / 3600)
         from jsonb_populate_recordset(null::brigade.carts, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             parts = excluded.parts, parts_at = excluded.parts_at,
             owner = excluded.owner, status = excluded.status,
             members = excluded.members, items = excluded.items,
             paid = excluded.paid, refunded = excluded.refunded, payments = excluded.payments,
             order_id = excluded.order_id, locked_until = excluded.locked_until,
             refusals = excluded.refusals, secret_hash = excluded.secret_hash,
             changed_hour = excluded.changed_hour",
        to_rows::<StoredCart, _>(carts.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl From<&Cart> for StoredCart {
    fn from(cart: &Cart) -> Self {
        Self {
            tenant: cart.head.address.tenant.clone(),
            id: cart.head.address.id.clone(),
            version: cart.head.version,
            updated_at: cart.head.at,
            parts: cart.head.part_versions(),
            parts_at: cart.head.part_times(),
            kind: cart.kind,
            owner: cart.owner.clone(),
            session: cart.session.clone(),
            status: cart.status,
            currency: cart.currency,
            members: cart.members.clone(),
            items: cart.items.clone(),
            paid: cart.paid,
            refunded: cart.refunded,
            payments: cart.payments.clone(),
            order_id: cart.order_id.clone(),
            locked_until: cart.locked_until,
            refusals: cart.refusals,
            secret_hash: cart.secret_hash.clone(),
        }
    }
}

impl From<StoredCart> for Cart {
    fn from(row: StoredCart) -> Self {
        let (key, at) = ((row.tenant, row.id), row.updated_at);
        Self {
            head: head(Aggregate::Cart, key, row.version, at, row.parts, &row.parts_at),
            kind: row.kind,
            owner: row.owner,
            session: row.session,
            status: row.status,
            currency: row.currency,
            members: row.members,
            items: row.items,
            paid: row.paid,
            refunded: row.refunded,
            payments: row.payments,
            order_id: row.order_id,
            locked_until: row.locked_until,
            refusals: row.refusals,
            secret_hash: row.secret_hash,
        }
    }
}
