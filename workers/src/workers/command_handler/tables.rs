//! Writes tables and their turns.

use brigade_contracts::{Quantity, Timestamp, Token, table::CloseReason};
use brigade_domain::{Table, Turn};
use sqlx::{Postgres, Transaction};

use super::columns::Columns;

/// Writes tables that are locked, or new; see [`super::carts::save`].
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, tables: &[&Table]) -> sqlx::Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let c = Columns(tables);
    let seats: Vec<i32> = tables.iter().map(|t| i32::from(t.seats.get())).collect();
    sqlx::query!(
        "insert into brigade.tables as t
             (tenant, id, version, updated_at, label, seats, status, open_turn_id)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[],
                              $6::integer[], $7::text[], $8::text[])
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             status = excluded.status, open_turn_id = excluded.open_turn_id",
        &c.text(|t| t.head.address.tenant.as_str()) as _,
        &c.text(|t| t.head.address.id.as_str()) as _,
        &c.number(|t| t.head.version.cast_signed()),
        &c.time(|t| t.head.at),
        &c.text(|t| t.label.as_str()) as _,
        &seats,
        &c.text(|t| t.status.as_str()) as _,
        &c.token(|t| t.open_turn_id.as_ref()) as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes turns of tables that are locked: tenant, table, turn. Closed ones first, since a table
/// has one open turn. Where another handler opened a turn of the same id at another table
/// meanwhile, the transaction fails and is tried again.
///
/// # Errors
/// Those of Postgres; `RowNotFound` where a turn is another table's.
pub async fn save_turns(
    tx: &mut Transaction<'_, Postgres>,
    turns: &[(&Token, &Token, &Turn)],
) -> sqlx::Result<()> {
    if turns.is_empty() {
        return Ok(());
    }
    let rows: Vec<&Turn> = turns.iter().map(|(.., turn)| *turn).collect();
    let c = Columns(&rows);
    let tenants: Vec<&str> = turns.iter().map(|(tenant, ..)| tenant.as_str()).collect();
    let tables: Vec<&str> = turns.iter().map(|(_, table, _)| table.as_str()).collect();
    let sizes: Vec<Option<i32>> =
        rows.iter().map(|u| u.party_size.map(Quantity::get).map(i32::from)).collect();
    let closed: Vec<_> = rows.iter().map(|u| u.closed_at.map(Timestamp::inner)).collect();
    let saved = sqlx::query!(
        "insert into brigade.turns as u
             (tenant, id, version, updated_at, table_id, party_size, opened_at, closed_at,
              close_reason)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[],
                              $6::integer[], $7::timestamptz[], $8::timestamptz[], $9::text[])
                as changed (tenant, id, version, updated_at, table_id, party_size, opened_at,
                            closed_at, close_reason)
         order by closed_at nulls last, tenant, id
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             closed_at = excluded.closed_at, close_reason = excluded.close_reason
         where u.table_id = excluded.table_id and u.version < excluded.version",
        &tenants as _,
        &c.text(|u| u.id.as_str()) as _,
        &c.number(|u| u.version.cast_signed()),
        &c.time(|u| u.at),
        &tables as _,
        &sizes as _,
        &c.time(|u| u.opened_at),
        &closed as _,
        &c.optional(|u| u.close_reason.map(CloseReason::as_str)) as _,
    )
    .execute(&mut **tx)
    .await?;
    let all = saved.rows_affected() == turns.len() as u64;
    all.then_some(()).ok_or(sqlx::Error::RowNotFound)
}
