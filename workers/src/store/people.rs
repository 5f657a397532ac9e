//! What is asked of users in SQL by another name than their id, and what is removed of them.

use std::collections::HashMap;

use brigade_contracts::{Address, Aggregate, Secret, Token, user::BY_EMAIL};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{keys, parse, refused};

/// The row that is needed to check the password that somebody shows.
#[derive(Clone, Debug, PartialEq)]
pub struct PasswordOf {
    pub user: Token,
    pub hash: Secret,
    /// The sources that the user has logged in from.
    pub known_sources: Vec<String>,
}

/// Loads the passwords of users that are addressed by their id, and by their folded email if it is
/// given; by that alone where the id is [`BY_EMAIL`]. `None` if there is no such user. In the order
/// of the request.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn passwords_of(
    executor: impl PgExecutor<'_>,
    requested: &[(&Address, Option<String>)],
) -> sqlx::Result<Vec<Option<PasswordOf>>> {
    let column = |f: fn(&Address) -> &str| requested.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let emails: Vec<_> = requested.iter().map(|(_, email)| email.as_deref()).collect();
    let rows = sqlx::query!(
        r#"select u.id as "id?", u.password_hash as "hash?", u.known_sources::text as "known?"
           from unnest($1::text[], $2::text[], $3::text[])
                with ordinality as requested (tenant, id, email, place)
           left join lateral (
               select * from brigade.users
               where (tenant, email_folded) = (requested.tenant, requested.email)
                 and account_status <> 'erased'
                 and requested.id in (id, $4)
               union all
               select * from brigade.users
               where (tenant, id) = (requested.tenant, requested.id) and requested.email is null
                 and account_status <> 'erased')
               u on true
           order by requested.place"#,
        &column(|a| a.tenant.as_str()) as _,
        &column(|a| a.id.as_str()) as _,
        &emails as _,
        BY_EMAIL,
    )
    .fetch_all(executor)
    .await?;
    let found = rows.into_iter().map(|row| {
        let (Some(id), Some(hash), Some(known)) = (row.id, row.hash, row.known) else {
            return Ok(None);
        };
        let user = Token::new(&id).map_err(refused)?;
        let hash = Secret::new(hash).map_err(refused)?;
        Ok(Some(PasswordOf { user, hash, known_sources: parse(&known)? }))
    });
    found.collect()
}

/// Most managers that are looked at.
const MAX_MANAGERS: i64 = 32;

/// Returns the active managers of a tenant, without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn managers(executor: impl PgExecutor<'_>, tenant: &Token) -> sqlx::Result<Vec<Address>> {
    let ids = sqlx::query_scalar!(
        r#"select id from brigade.users
           where tenant = $1 and roles ? 'manager' and account_status = 'active'
           order by id limit $2"#,
        tenant.as_str(),
        MAX_MANAGERS,
    )
    .fetch_all(executor)
    .await?;
    let address = |id: &String| Address::new(tenant.as_str(), Aggregate::User, id).map_err(refused);
    ids.iter().map(address).collect()
}

/// Removes what else is known of erased users, each with the folded email that it had: their emails
/// and addresses in the security log, in failed logins, and where a release before has stored them.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn erase(
    connection: &mut PgConnection,
    erased: &[(Address, String)],
) -> sqlx::Result<()> {
    if erased.is_empty() {
        return Ok(());
    }
    let (tenants, ids) = keys(Aggregate::User, erased.iter().map(|(user, _)| user));
    let emails: Vec<_> = erased.iter().map(|(_, email)| email.as_str()).collect();
    sqlx::query!(
        "select from brigade.erase_users($1, $2, $3)",
        &tenants as _,
        &ids as _,
        &emails as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Loads who has these emails; those that nobody has are in the answer too. The users that may
/// change theirs are to be locked before.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn owners(
    executor: impl PgExecutor<'_>,
    emails: &[(Token, String)],
) -> sqlx::Result<HashMap<(Token, String), Option<Address>>> {
    let tenants: Vec<_> = emails.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let folded: Vec<_> = emails.iter().map(|(_, email)| email.as_str()).collect();
    let rows = sqlx::query!(
        "select u.tenant, u.email_folded, u.id
         from unnest($1::text[], $2::text[]) as requested (tenant, email)
         join brigade.users u on (u.tenant, u.email_folded) = (requested.tenant, requested.email)",
        &tenants as _,
        &folded as _,
    )
    .fetch_all(executor)
    .await?;
    let mut owners: HashMap<_, _> = emails.iter().cloned().map(|email| (email, None)).collect();
    for row in rows {
        let owner = Address::new(&row.tenant, Aggregate::User, &row.id).map_err(refused)?;
        owners.insert((owner.tenant.clone(), row.email_folded), Some(owner));
    }
    Ok(owners)
}
