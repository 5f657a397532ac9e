//! Aggregates of any kind, read from SQL.

use brigade_contracts::Address;
use sqlx::PgConnection;

use super::{carts, orders, users};
use crate::domain::State;

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
    if asked(brigade_contracts::Aggregate::Cart) {
        let carts = carts::read(&mut *connection, addresses.iter()).await?;
        states.extend(carts.into_iter().map(State::Cart));
    }
    if asked(brigade_contracts::Aggregate::Order) {
        let orders = orders::read(&mut *connection, addresses.iter()).await?;
        states.extend(orders.into_iter().map(State::Order));
    }
    if asked(brigade_contracts::Aggregate::User) {
        let users = users::read(&mut *connection, addresses.iter()).await?;
        states.extend(users.into_iter().map(State::User));
    }
    Ok(states)
}
