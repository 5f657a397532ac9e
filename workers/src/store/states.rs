//! Aggregates of any kind, loaded from SQL.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate, Era};
use brigade_domain::{Cart, Lock, Order, Payment, Product, State, Table, User};
use sqlx::PgConnection;

use super::{
    carts::{self, StoredCart},
    locks,
    orders::{self, StoredOrder},
    payments::{self, PaymentRows},
    products::{self, StoredProduct},
    rows::{columns, parse},
    tables::{self, TableRows},
    users,
};

/// Loads aggregates without a lock; one statement a kind that is requested.
///
/// # Errors
/// If Postgres refuses a statement, or command-handler did not write a row.
pub async fn load(
    connection: &mut PgConnection,
    addresses: &[Address],
) -> sqlx::Result<Vec<State>> {
    load_all(connection, addresses, true).await
}

/// Loads them for those who may not read the hashes of users, each of which is `-`.
///
/// # Errors
/// If Postgres refuses a statement, or command-handler did not write a row.
pub async fn load_without_hashes(
    connection: &mut PgConnection,
    addresses: &[Address],
) -> sqlx::Result<Vec<State>> {
    load_all(connection, addresses, false).await
}

/// Reads aggregates of a database in this era, for those who have no right on the tables; neither
/// users nor locks.
///
/// # Errors
/// If Postgres refuses the statement (`55000` in recovery and in another era), or command-handler
/// did not write a row.
pub async fn read(
    connection: &mut PgConnection,
    era: Era,
    addresses: &[Address],
) -> sqlx::Result<Vec<State>> {
    let (tenants, aggregates, ids) = columns(addresses);
    let rows = sqlx::query!(
        r#"select kind as "kind!", body as "body!"
           from brigade.read_aggregates($1, $2, $3, $4)"#,
        era.as_sql(),
        &tenants as _,
        &aggregates as _,
        &ids as _,
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| from_row(&row.kind, &row.body)).collect()
}

/// Returns the aggregate of a row that a function of the schema gives as JSON.
///
/// # Errors
/// If command-handler did not write it.
pub(crate) fn from_row(kind: &str, row: &str) -> sqlx::Result<State> {
    Ok(match kind {
        "cart" => State::Cart(parse::<StoredCart>(row)?.into()),
        "order" => State::Order(parse::<StoredOrder>(row)?.into()),
        "payment" => State::Payment(parse::<PaymentRows>(row)?.into()),
        "table" => State::Table(parse::<TableRows>(row)?.into()),
        "product" => State::Product(parse::<StoredProduct>(row)?.into()),
        other => return Err(sqlx::Error::Decode(format!("a row of kind {other:?}").into())),
    })
}

async fn load_all(
    connection: &mut PgConnection,
    addresses: &[Address],
    with_hashes: bool,
) -> sqlx::Result<Vec<State>> {
    let kinds: BTreeSet<Aggregate> = addresses.iter().map(|address| address.aggregate).collect();
    let mut states = Vec::with_capacity(addresses.len());
    for kind in kinds {
        let (connection, requested) = (&mut *connection, addresses.iter());
        match kind {
            Aggregate::Cart => add(&mut states, carts::load(connection, requested).await?),
            Aggregate::Order => add(&mut states, orders::load(connection, requested).await?),
            Aggregate::Payment => add(&mut states, payments::load(connection, requested).await?),
            Aggregate::Table => add(&mut states, tables::load(connection, requested).await?),
            Aggregate::User if !with_hashes => {
                add(&mut states, users::load_without_hashes(connection, requested).await?);
            }
            Aggregate::User => add(&mut states, users::load(connection, requested).await?),
            Aggregate::Product => add(&mut states, products::load(connection, requested).await?),
            Aggregate::Lock => add(&mut states, locks::load(connection, requested).await?),
        }
    }
    Ok(states)
}

fn add<T: Into<State>>(states: &mut Vec<State>, loaded: Vec<T>) {
    states.extend(loaded.into_iter().map(Into::into));
}

/// Changed states, to be saved each in the table of its kind.
#[derive(Default)]
pub(crate) struct StatesByKind<'a> {
    pub carts: Vec<&'a Cart>,
    pub orders: Vec<&'a Order>,
    pub payments: Vec<&'a Payment>,
    pub tables: Vec<&'a Table>,
    pub users: Vec<&'a User>,
    pub products: Vec<&'a Product>,
    pub locks: Vec<&'a Lock>,
}

impl<'a> From<&'a [State]> for StatesByKind<'a> {
    fn from(states: &'a [State]) -> Self {
        let mut sorted = Self::default();
        for state in states {
            match state {
                State::Cart(cart) => sorted.carts.push(cart),
                State::Order(order) => sorted.orders.push(order),
                State::Payment(payment) => sorted.payments.push(payment),
                State::Table(table) => sorted.tables.push(table),
                State::User(user) => sorted.users.push(user),
                State::Product(product) => sorted.products.push(product),
                State::Lock(lock) => sorted.locks.push(lock),
            }
        }
        sorted
    }
}
