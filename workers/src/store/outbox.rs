//! The queue of events that are not published yet.

use brigade_contracts::{Address, Part, shard_of};
use sqlx::PgConnection;

use super::rows::columns;

/// Puts the newest event that carries each of these parts into the outbox again. Returns how many
/// there were.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn repeat_parts<'a>(
    postgres: &mut PgConnection,
    parts: impl IntoIterator<Item = &'a (Address, Part)>,
) -> sqlx::Result<u64> {
    let (addresses, parts): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|(address, part)| (address, part.as_str())).unzip();
    if addresses.is_empty() {
        return Ok(0);
    }
    let (tenants, aggregates, ids) = columns(addresses.iter().copied());
    let shards: Vec<i16> = addresses.iter().map(|a| i16::from(shard_of(a))).collect();
    let repeated = sqlx::query_file!(
        "src/store/repeat_parts.sql",
        &tenants as _,
        &aggregates as _,
        &ids as _,
        &shards,
        &parts as _,
    )
    .execute(postgres)
    .await?;
    Ok(repeated.rows_affected())
}
