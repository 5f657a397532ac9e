//! Tables and their turns in SQL, as every reader gets them. Only command-handler locks and writes
//! them.

use brigade_contracts::{
    Address, Aggregate, MAX_NAME, Quantity, Text, Timestamp, Token,
    table::{CloseReason, Status},
};
use brigade_domain::{Table, Turn};
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head_of_core, keys, parse};

/// A row of `brigade.tables`, its open or latest row of `brigade.turns`, and the orders of that.
#[derive(Deserialize)]
struct TableRow {
    table: Columns,
    turn: Option<TurnRow>,
    #[serde(default)]
    orders: Vec<Token>,
}

#[derive(Deserialize)]
struct Columns {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    label: Text<MAX_NAME>,
    seats: Quantity,
    status: Status,
    open_turn_id: Option<Token>,
}

#[derive(Deserialize)]
struct TurnRow {
    id: Token,
    version: u64,
    updated_at: Timestamp,
    party_size: Option<Quantity>,
    opened_at: Timestamp,
    closed_at: Option<Timestamp>,
    close_reason: Option<CloseReason>,
}

/// Reads tables without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Table>> {
    let (tenants, ids) = keys(Aggregate::Table, addresses);
    let rows = sqlx::query_scalar!(
        r#"select json_build_object(
                      'table', row_to_json(t),
                      'turn', case when u.id is not null then row_to_json(u) end)::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
           join brigade.tables t using (tenant, id)
           left join lateral brigade.turn_at(t.tenant, t.id) u on true"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| Ok(from_row(row)?.0)).collect()
}

/// A table of its row as JSON, and the orders of its open or latest turn, where they are told.
///
/// # Errors
/// Where command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<(Table, Vec<Token>)> {
    let TableRow { table: row, turn, orders } = parse(row)?;
    let table = Table {
        head: head_of_core(Aggregate::Table, (row.tenant, row.id), row.version, row.updated_at),
        label: row.label,
        seats: row.seats,
        status: row.status,
        open_turn_id: row.open_turn_id,
        turn: turn.map(|row| Turn {
            id: row.id,
            version: row.version,
            at: row.updated_at,
            party_size: row.party_size,
            opened_at: row.opened_at,
            closed_at: row.closed_at,
            close_reason: row.close_reason,
        }),
    };
    Ok((table, orders))
}
