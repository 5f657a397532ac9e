//! Orders in SQL. Everybody reads them in this way; only command-handler locks and saves them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use brigade_contracts::{
    Address, Aggregate, Currency, MAX_PENDING_ORDERS, Money, Part, PartVersions, Timestamp, Token,
    order::{Item, Status},
};
use brigade_domain::{Cart, Entry, Order};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{columns_of_names, head, keys, parse, to_rows};

/// A row of `brigade.orders`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredOrder {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    status: Status,
    currency: Currency,
    cart_id: Option<Token>,
    owner: Option<Token>,
    table_id: Option<Token>,
    turn_id: Option<Token>,
    items: Vec<Item>,
    total: Money,
    paid: Money,
    refunded: Money,
    paid_at: Option<Timestamp>,
    payments: Vec<Entry>,
    created_at: Timestamp,
    reason: Option<String>,
}

/// Loads orders without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Order>> {
    let (tenants, ids) = keys(Aggregate::Order, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(o)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.orders o using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<StoredOrder>(row).map(Order::from)).collect()
}

/// Saves orders that are locked, or new; see [`super::carts::save`].
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, orders: &[&Order]) -> sqlx::Result<()> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.orders
             (tenant, id, version, updated_at, parts, parts_at, status, currency, cart_id, owner,
              table_id, turn_id, items, total, paid, refunded, paid_at, payments, created_at, reason)
         select tenant, id, version, updated_at, parts, parts_at, status, currency, cart_id, owner,
                table_id, turn_id, items, total, paid, refunded, paid_at, payments, created_at,
                reason
         from jsonb_populate_recordset(null::brigade.orders, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             parts = excluded.parts, parts_at = excluded.parts_at,
             status = excluded.status, items = excluded.items, total = excluded.total,
             table_id = excluded.table_id, turn_id = excluded.turn_id,
             paid = excluded.paid, refunded = excluded.refunded, paid_at = excluded.paid_at,
             payments = excluded.payments, reason = excluded.reason",
        to_rows::<StoredOrder, _>(orders.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts the orders of owners that are pending, in a statement that begins when they are locked,
/// and not further than a decision looks. Which orders are is said by `Order::is_pending`.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn count_pending(
    connection: &mut PgConnection,
    owners: &BTreeSet<(Token, Token)>,
) -> sqlx::Result<HashMap<(Token, Token), usize>> {
    let (tenants, names) = columns_of_names(owners);
    let counts = sqlx::query_scalar!(
        r#"select pending.count as "count!"
           from unnest($1::text[], $2::text[]) with ordinality
                as requested (tenant, owner, place)
           cross join lateral (
               select count(*) from (
                   select from brigade.orders o
                   where (o.tenant, o.owner) = (requested.tenant, requested.owner) and o.active
                     and o.status = 'placed' and (o.total > o.paid or o.paid = 0)
                   limit $3
               ) counted
           ) pending
           order by requested.place"#,
        &tenants as _,
        &names as _,
        MAX_PENDING_ORDERS as i64 + 1,
    )
    .fetch_all(connection)
    .await?;
    let counts = counts.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(owners.iter().cloned().zip(counts).collect())
}

/// Saves whose the orders are that carts have become: those of their owners and members. A session
/// is nobody.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save_people(connection: &mut PgConnection, carts: &[&Cart]) -> sqlx::Result<()> {
    let (mut tenants, mut people, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    for cart in carts {
        let Some(order) = cart.order_id.as_ref() else { continue };
        for person in people_of(cart) {
            tenants.push(cart.head.address.tenant.as_str());
            people.push(person.as_str());
            orders.push(order.as_str());
        }
    }
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.order_people (tenant, person, created_at, order_id)
         select o.tenant, new.person, o.created_at, o.id
         from unnest($1::text[], $2::text[], $3::text[]) as new (tenant, person, order_id)
         join brigade.orders o on (o.tenant, o.id) = (new.tenant, new.order_id)
         on conflict do nothing",
        &tenants as _,
        &people as _,
        &orders as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn people_of(cart: &Cart) -> BTreeSet<&Token> {
    let members = cart.members.iter().map(|member| &member.user);
    let mut people: BTreeSet<&Token> = members.chain([&cart.owner]).collect();
    if let Some(session) = cart.session.as_ref().filter(|session| **session == cart.owner) {
        people.remove(session);
    }
    people
}

impl From<&Order> for StoredOrder {
    fn from(order: &Order) -> Self {
        Self {
            tenant: order.head.address.tenant.clone(),
            id: order.head.address.id.clone(),
            version: order.head.version,
            updated_at: order.head.at,
            parts: order.head.part_versions(),
            parts_at: order.head.part_times(),
            status: order.status,
            currency: order.currency,
            cart_id: order.cart_id.clone(),
            owner: order.owner.clone(),
            table_id: order.table_id.clone(),
            turn_id: order.turn_id.clone(),
            items: order.items.clone(),
            total: order.total,
            paid: order.paid,
            refunded: order.refunded,
            paid_at: order.paid_at,
            payments: order.payments.clone(),
            created_at: order.created_at,
            reason: order.reason.clone(),
        }
    }
}

impl From<StoredOrder> for Order {
    fn from(row: StoredOrder) -> Self {
        let (key, at) = ((row.tenant, row.id), row.updated_at);
        Self {
            head: head(Aggregate::Order, key, row.version, at, row.parts, &row.parts_at),
            status: row.status,
            currency: row.currency,
            cart_id: row.cart_id,
            owner: row.owner,
            table_id: row.table_id,
            turn_id: row.turn_id,
            items: row.items,
            total: row.total,
            paid: row.paid,
            refunded: row.refunded,
            paid_at: row.paid_at,
            payments: row.payments,
            created_at: row.created_at,
            reason: row.reason,
        }
    }
}
