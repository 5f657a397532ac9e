//! The people whom programs have named, who need not be users, in SQL.

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::Token;
use sqlx::PgConnection;

use super::rows::columns_of_names;

/// Returns whether somebody was named so, by tenant and name, in a statement that begins when the
/// names are locked like owners. The owner of an open cart was, though a release before has opened
/// it.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load(
    connection: &mut PgConnection,
    names: &BTreeSet<(Token, Token)>,
) -> sqlx::Result<HashMap<(Token, Token), bool>> {
    let (tenants, columns) = columns_of_names(names);
    let named = sqlx::query_scalar!(
        r#"select (
               exists (select from brigade.named_people person
                       where (person.tenant, person.name) = (requested.tenant, requested.name))
               or exists (select from brigade.carts cart
                          where (cart.tenant, cart.owner) = (requested.tenant, requested.name)
                            and cart.status = 'open'
                            -- A session is nobody.
                            and cart.session is distinct from cart.owner)
           ) as "named!"
           from unnest($1::text[], $2::text[]) with ordinality
                as requested (tenant, name, place)
           order by requested.place"#,
        &tenants as _,
        &columns as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(names.iter().cloned().zip(named).collect())
}

/// Saves names, which may be known.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(
    connection: &mut PgConnection,
    names: &BTreeSet<(Token, Token)>,
) -> sqlx::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let (tenants, names) = columns_of_names(names);
    // Sorted, as others insert them.
    sqlx::query!(
        "insert into brigade.named_people (tenant, name)
         select * from unnest($1::text[], $2::text[])
         on conflict do nothing",
        &tenants as _,
        &names as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}
