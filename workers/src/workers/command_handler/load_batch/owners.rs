//! Everything of owners that is read once they are locked.

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::{MAX_OPEN_CARTS, Token};
use sqlx::PgConnection;

use crate::store::rows::columns_of_names;

/// Loads the version above which the locks of tenants begin that have no row, in a statement that
/// begins when their owners are locked: nobody deletes such a row meanwhile.
pub async fn lock_floors(
    connection: &mut PgConnection,
    tenants: &[&Token],
) -> sqlx::Result<HashMap<Token, u64>> {
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.as_str()).collect();
    let floors = sqlx::query_scalar!(
        r#"select coalesce(floor.version, 0) as "version!"
           from unnest($1::text[]) with ordinality as requested (tenant, place)
           left join brigade.lock_floors floor on floor.tenant = requested.tenant
           order by requested.place"#,
        &names as _,
    )
    .fetch_all(connection)
    .await?;
    let floors = floors.into_iter().map(i64::cast_unsigned);
    Ok(tenants.iter().copied().cloned().zip(floors).collect())
}

/// Counts the open carts of owners and sessions, in a statement that begins when they are locked,
/// and not further than a decision looks.
pub async fn open_carts(
    connection: &mut PgConnection,
    counted: &BTreeSet<(Token, Token)>,
) -> sqlx::Result<HashMap<(Token, Token), usize>> {
    let (tenants, names) = columns_of_names(counted);
    let counts = sqlx::query_scalar!(
        r#"select open.count as "count!"
           from unnest($1::text[], $2::text[]) with ordinality
                as requested (tenant, name, place)
           cross join lateral (
               select count(*) from (
                   (select c.id from brigade.carts c
                    where (c.tenant, c.owner) = (requested.tenant, requested.name)
                      and c.status = 'open'
                    limit $3)
                   union
                   (select c.id from brigade.carts c
                    where (c.tenant, c.session) = (requested.tenant, requested.name)
                      and c.status = 'open'
                    limit $3)
               ) of_either
           ) open
           order by requested.place"#,
        &tenants as _,
        &names as _,
        MAX_OPEN_CARTS as i64,
    )
    .fetch_all(connection)
    .await?;
    let counts = counts.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(counted.iter().cloned().zip(counts).collect())
}
