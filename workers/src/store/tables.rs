//! Tables and their turns in SQL. Everybody reads them in this way; only command-handler locks and
//! saves them.

use brigade_contracts::{
    Address, Aggregate, MAX_NAME, Quantity, Text, Timestamp, Token,
    table::{CloseReason, Status},
};
use brigade_domain::{Table, Turn};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head_of_core, keys, parse, to_rows};

/// A table with its open or latest turn.
#[derive(Deserialize)]
pub(crate) struct TableRows {
    table: StoredTable,
    turn: Option<StoredTurn>,
    /// The orders of the turn, if they were loaded.
    #[serde(default)]
    pub orders: Vec<Token>,
}

/// A row of `brigade.tables`.
#[derive(Serialize, Deserialize)]
struct StoredTable {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    label: Text<MAX_NAME>,
    seats: Quantity,
    status: Status,
    open_turn_id: Option<Token>,
}

/// A row of `brigade.turns`.
#[derive(Serialize, Deserialize)]
struct StoredTurn {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    table_id: Token,
    party_size: Option<Quantity>,
    opened_at: Timestamp,
    closed_at: Option<Timestamp>,
    close_reason: Option<CloseReason>,
}

/// Loads tables without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Table>> {
    let (tenants, ids) = keys(Aggregate::Table, addresses);
    let rows = sqlx::query_scalar!(
        r#"select json_build_object(
                      'table', row_to_json(t),
                      'turn', case when u.id is not null then row_to_json(u) end)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.tables t using (tenant, id)
           left join lateral brigade.turn_at(t.tenant, t.id) u on true"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<TableRows>(row).map(Table::from)).collect()
}

/// Saves tables that are locked, or new; see [`super::carts::save`]. Their turns are saved apart.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, tables: &[&Table]) -> sqlx::Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.tables
             (tenant, id, version, updated_at, label, seats, status, open_turn_id)
         select tenant, id, version, updated_at, label, seats, status, open_turn_id
         from jsonb_populate_recordset(null::brigade.tables, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             status = excluded.status, open_turn_id = excluded.open_turn_id",
        to_rows::<StoredTable, _>(tables.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Saves turns of tables that are locked: tenant, table, turn. Closed ones come first, since a
/// table has one open turn. If another handler opened a turn of the same id at another table
/// meanwhile, the transaction fails, to be tried again.
///
/// # Errors
/// If Postgres refuses the statement; `RowNotFound` if a turn is another table's.
pub async fn save_turns(
    connection: &mut PgConnection,
    turns: &[(&Token, &Token, &Turn)],
) -> sqlx::Result<()> {
    if turns.is_empty() {
        return Ok(());
    }
    let saved = sqlx::query!(
        "insert into brigade.turns as u
             (tenant, id, version, updated_at, table_id, party_size, opened_at, closed_at,
              close_reason)
         select tenant, id, version, updated_at, table_id, party_size, opened_at, closed_at,
                close_reason
         from jsonb_populate_recordset(null::brigade.turns, $1)
         order by closed_at nulls last, tenant, id
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             closed_at = excluded.closed_at, close_reason = excluded.close_reason
         where u.table_id = excluded.table_id and u.version < excluded.version",
        to_rows::<StoredTurn, _>(turns.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    let all = saved.rows_affected() == turns.len() as u64;
    all.then_some(()).ok_or(sqlx::Error::RowNotFound)
}

impl From<&Table> for StoredTable {
    fn from(table: &Table) -> Self {
        Self {
            tenant: table.head.address.tenant.clone(),
            id: table.head.address.id.clone(),
            version: table.head.version,
            updated_at: table.head.at,
            label: table.label.clone(),
            seats: table.seats,
            status: table.status,
            open_turn_id: table.open_turn_id.clone(),
        }
    }
}

/// From a tenant, the id of the table, and the turn.
impl From<(&Token, &Token, &Turn)> for StoredTurn {
    fn from((tenant, table, turn): (&Token, &Token, &Turn)) -> Self {
        Self {
            tenant: tenant.clone(),
            id: turn.id.clone(),
            version: turn.version,
            updated_at: turn.at,
            table_id: table.clone(),
            party_size: turn.party_size,
            opened_at: turn.opened_at,
            closed_at: turn.closed_at,
            close_reason: turn.close_reason,
        }
    }
}

impl From<TableRows> for Table {
    fn from(TableRows { table: row, turn, .. }: TableRows) -> Self {
        let key = (row.tenant, row.id);
        Self {
            head: head_of_core(Aggregate::Table, key, row.version, row.updated_at),
            label: row.label,
            seats: row.seats,
            status: row.status,
            open_turn_id: row.open_turn_id,
            turn: turn.map(Turn::from),
        }
    }
}

impl From<StoredTurn> for Turn {
    fn from(row: StoredTurn) -> Self {
        Self {
            id: row.id,
            version: row.version,
            at: row.updated_at,
            party_size: row.party_size,
            opened_at: row.opened_at,
            closed_at: row.closed_at,
            close_reason: row.close_reason,
        }
    }
}
