//! The invariants of `docs/reference/guarantees.md` that hold of a fleet at rest, checked from
//! outside: SQL, streams and KV. Each check returns what breaks it, one line a finding that begins
//! with the invariant's number; nothing is asserted here. The acceptance tests and `brigade chaos`
//! both use them.

pub mod deadlines;
pub mod kv;
pub mod money;
pub mod streams;

use sqlx::PgConnection;

/// A statement that finds what breaks an invariant, and that invariant.
type NoneOf = (&'static str, &'static str);

/// Returns what the statements find, one line for each that finds something.
async fn rows_of(connection: &mut PgConnection, none_of: &[NoneOf]) -> sqlx::Result<Vec<String>> {
    let mut broken = Vec::new();
    for (invariant, sql) in none_of {
        let rows: Vec<String> = sqlx::query_scalar(*sql).fetch_all(&mut *connection).await?;
        if !rows.is_empty() {
            broken.push(format!("{invariant}: {rows:?}"));
        }
    }
    Ok(broken)
}

/// Returns what is broken in the versions of aggregates and events (I-2).
///
/// # Errors
/// If Postgres does not answer.
pub async fn versions(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    rows_of(connection, VERSIONS).await
}

/// Returns what is broken between tables, turns and orders (I-13).
///
/// # Errors
/// If Postgres does not answer.
pub async fn tables(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    rows_of(connection, TABLES).await
}

const VERSIONS: &[NoneOf] = &[
    (
        "I-2: versions of events without gap or repetition",
        "select format('%s.%s.%s', tenant, aggregate, id) from brigade.events
         group by tenant, aggregate, id
         having min(version) <> 1 or max(version) <> count(*)",
    ),
    (
        "I-2: an aggregate has the version of its last event",
        "select format('%s.%s.%s', s.tenant, s.kind, s.id)
         from (select tenant, 'cart' as kind, id, version from brigade.carts
               union all select tenant, 'order', id, version from brigade.orders
               union all select tenant, 'payment', id, version from brigade.payments
               union all select tenant, 'table', id, version from brigade.tables
               union all select tenant, 'user', id, version from brigade.users
               union all select tenant, 'product', id, version from brigade.products) s
         where s.version is distinct from (
             select max(version) from brigade.events e
             where (e.tenant, e.aggregate, e.id) = (s.tenant, s.kind, s.id))",
    ),
];

const TABLES: &[NoneOf] = &[
    (
        "I-13: a table is occupied exactly as long as it has an open turn",
        "select format('table %s.%s is %s', t.tenant, t.id, t.status) from brigade.tables t
         left join brigade.turns u
              on (u.tenant, u.table_id) = (t.tenant, t.id) and u.closed_at is null
         where (t.status = 'occupied') <> (u.id is not null)
            or t.open_turn_id is distinct from u.id",
    ),
    (
        "I-13: a turn with orders is open exactly while one is unpaid, unless closed by force",
        "select format('turn %s.%s, closed: %s', u.tenant, u.id, u.close_reason)
         from brigade.turns u
         join brigade.orders o on (o.tenant, o.turn_id) = (u.tenant, u.id)
         group by u.tenant, u.id
         having bool_or(o.paid_at is null and o.status <> 'cancelled')
                is distinct from (u.closed_at is null) and u.close_reason is distinct from 'forced'",
    ),
];
