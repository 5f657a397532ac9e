//! Aggregates of any kind, read from SQL.

use brigade_contracts::{Address, Aggregate};
use brigade_domain::State;
use sqlx::PgConnection;

use super::{carts, locks, orders, payments, tables, users};

/// Reads aggregates without a lock; one statement a kind that is asked for.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    connection: &mut PgConnection,
    addresses: &[Address],
) -> sqlx::Result<Vec<State>> {
    let asked = |aggregate| addresses.iter().any(|address| address.aggregate == aggregate);
    let mut states = Vec::with_capacity(addresses.len());
    if asked(Aggregate::Cart) {
        let carts = carts::read(&mut *connection, addresses.iter()).await?;
        states.extend(carts.into_iter().map(State::Cart));
    }
    if asked(Aggregate::Order) {
        let orders = orders::read(&mut *connection, addresses.iter()).await?;
        states.extend(orders.into_iter().map(State::Order));
    }
    if asked(Aggregate::Payment) {
        let payments = payments::read(&mut *connection, addresses.iter()).await?;
        states.extend(payments.into_iter().map(State::Payment));
    }
    if asked(Aggregate::Table) {
        let tables = tables::read(&mut *connection, addresses.iter()).await?;
        states.extend(tables.into_iter().map(State::Table));
    }
    if asked(Aggregate::Lock) {
        let locks = locks::read(&mut *connection, addresses.iter()).await?;
        states.extend(locks.into_iter().map(State::Lock));
    }
    if asked(Aggregate::User) {
        let users = users::read(&mut *connection, addresses.iter()).await?;
        states.extend(users.into_iter().map(State::User));
    }
    Ok(states)
}
