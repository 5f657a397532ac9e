//! Aggregates of any kind, loaded from SQL.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate};
use brigade_domain::State;
use sqlx::PgConnection;

use super::{carts, locks, orders, payments, tables, users};

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
            Aggregate::Lock => add(&mut states, locks::load(connection, requested).await?),
        }
    }
    Ok(states)
}

fn add<T: Into<State>>(states: &mut Vec<State>, loaded: Vec<T>) {
    states.extend(loaded.into_iter().map(Into::into));
}
