//! The registered tenants: rows of `brigade.tenants`, and their accounts on nats-server
//! ([`accounts`]).
//!
//! Workers read the row with the statements that they run anyway, so what is written here counts
//! at once for commands, and within a second for queries and streams.

pub mod accounts;
pub mod reload;

use anyhow::{Result, bail, ensure};
use brigade_contracts::{Token, permissions::Role};
use serde_json::json;
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;

use crate::store::security_log::add_tenant_change;

/// A registered tenant, or one that was.
#[derive(Debug)]
pub struct Tenant {
    pub tenant: String,
    /// `active`, `suspended` or `removed`.
    pub state: String,
    pub created_at: OffsetDateTime,
    pub suspended_at: Option<OffsetDateTime>,
    pub removed_at: Option<OffsetDateTime>,
}

/// Reads the name of a tenant, which has to leave room for the names of its users.
///
/// # Errors
/// If it is no Token, or too long.
pub fn parse(name: &str) -> Result<Token> {
    let longest = longest_name();
    match Token::new(name) {
        Ok(_) if name == PATH_OF_ERRORS => bail!("{name:?} is a path of the API, /v1/{name}"),
        Ok(tenant) if name.len() <= longest => Ok(tenant),
        _ => bail!("{name:?} cannot be a tenant: 1 to {longest} of A-Z a-z 0-9 _ -"),
    }
}

/// The word that stands in the place of a tenant in `/v1/errors/<code>`.
const PATH_OF_ERRORS: &str = "errors";

/// Returns how long the name of a tenant may be: behind it is that of a user, and a generation of
/// three digits (`-999`).
fn longest_name() -> usize {
    let names = |role: Role| [Some(role.as_str()), role.alias()].into_iter().flatten();
    let longest = Role::ALL.into_iter().flat_map(names).map(str::len).max();
    Token::MAX_LEN - longest.unwrap_or_default() - "-".len() - "-999".len()
}

/// Registers tenants; those that are registered stay as they are.
///
/// # Errors
/// If Postgres refuses.
pub async fn ensure_added(postgres: &PgPool, tenants: &[&str]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into brigade.tenants (tenant) select unnest($1::text[]) on conflict do nothing",
        tenants as _,
    )
    .execute(postgres)
    .await?;
    Ok(())
}

/// Registers a tenant. Returns false if it was active already. One that was removed is registered
/// again with `restore` alone, since it gets its history back.
///
/// # Errors
/// If it is suspended, or was removed; if Postgres refuses.
pub async fn add(postgres: &PgPool, tenant: &Token, restore: bool, actor: &str) -> Result<bool> {
    let mut change = postgres.begin().await?;
    let added = sqlx::query!(
        "insert into brigade.tenants as present (tenant) values ($1)
         on conflict (tenant) do update
         set state = 'active', suspended_at = null, removed_at = null
         where present.state = 'removed' and $2",
        tenant.as_str(),
        restore,
    )
    .execute(&mut *change)
    .await?;
    if added.rows_affected() > 0 {
        let action = if restore { "restored" } else { "added" };
        log(&mut change, tenant, actor, action).await?;
        change.commit().await?;
        return Ok(true);
    }
    change.rollback().await?;
    match get(postgres, tenant).await?.state.as_str() {
        "active" => Ok(false),
        "suspended" => bail!("{tenant} is suspended: `brigade tenants resume {tenant}`"),
        _ => bail!(
            "{tenant} was removed, and its history is still in SQL: its users, orders and payments \
             would be those of the new one. If it is the same restaurant: --restore. Else choose \
             another name"
        ),
    }
}

/// Returns all tenants, by name.
///
/// # Errors
/// If Postgres refuses.
pub async fn list(postgres: &PgPool) -> sqlx::Result<Vec<Tenant>> {
    sqlx::query_as!(
        Tenant,
        "select tenant, state, created_at, suspended_at, removed_at
         from brigade.tenants order by tenant"
    )
    .fetch_all(postgres)
    .await
}

/// Returns a tenant.
///
/// # Errors
/// If there is none; if Postgres refuses.
pub async fn get(postgres: &PgPool, tenant: &Token) -> Result<Tenant> {
    let found = sqlx::query_as!(
        Tenant,
        "select tenant, state, created_at, suspended_at, removed_at
         from brigade.tenants where tenant = $1",
        tenant.as_str(),
    )
    .fetch_optional(postgres)
    .await?;
    match found {
        Some(found) => Ok(found),
        None => bail!("there is no tenant {tenant}: `brigade tenants ls` lists them"),
    }
}

/// Suspends a tenant; one that is suspended stays so.
///
/// # Errors
/// If it is not registered; if Postgres refuses.
pub async fn suspend(postgres: &PgPool, tenant: &Token, actor: &str) -> Result<()> {
    let mut change = postgres.begin().await?;
    let suspended = sqlx::query!(
        "update brigade.tenants
         set state = 'suspended', suspended_at = coalesce(suspended_at, now())
         where tenant = $1 and state <> 'removed'",
        tenant.as_str(),
    );
    if suspended.execute(&mut *change).await?.rows_affected() == 0 {
        change.rollback().await?;
        return unchanged(postgres, tenant).await;
    }
    log(&mut change, tenant, actor, "suspended").await?;
    Ok(change.commit().await?)
}

/// Resumes a tenant; one that is active stays so.
///
/// # Errors
/// If it is not registered; if Postgres refuses.
pub async fn resume(postgres: &PgPool, tenant: &Token, actor: &str) -> Result<()> {
    let mut change = postgres.begin().await?;
    let resumed = sqlx::query!(
        "update brigade.tenants set state = 'active', suspended_at = null
         where tenant = $1 and state <> 'removed'",
        tenant.as_str(),
    );
    if resumed.execute(&mut *change).await?.rows_affected() == 0 {
        change.rollback().await?;
        return unchanged(postgres, tenant).await;
    }
    log(&mut change, tenant, actor, "resumed").await?;
    Ok(change.commit().await?)
}

/// Removes a tenant that is suspended; one that was removed stays so. Its history stays.
///
/// # Errors
/// If it is active; if Postgres refuses.
pub async fn remove(postgres: &PgPool, tenant: &Token, actor: &str) -> Result<()> {
    let mut change = postgres.begin().await?;
    let removed = sqlx::query!(
        "update brigade.tenants
         set state = 'removed', removed_at = coalesce(removed_at, now())
         where tenant = $1 and state <> 'active'",
        tenant.as_str(),
    );
    if removed.execute(&mut *change).await?.rows_affected() == 0 {
        change.rollback().await?;
        return unchanged(postgres, tenant).await;
    }
    log(&mut change, tenant, actor, "removed").await?;
    Ok(change.commit().await?)
}

/// Begins a change of a tenant's credentials, which are files: a transaction with the entry of the
/// security log, to be committed when they are written.
///
/// # Errors
/// If the tenant is not registered, or was removed; if Postgres refuses.
pub async fn begin_credentials(
    postgres: &PgPool,
    tenant: &Token,
    actor: &str,
    action: &str,
) -> Result<PgTransaction<'static>> {
    let state = get(postgres, tenant).await?.state;
    ensure!(
        state != "removed",
        "{tenant} was removed: `brigade tenants add {tenant} --restore` gives it back"
    );
    let mut change = postgres.begin().await?;
    log(&mut change, tenant, actor, action).await?;
    Ok(change)
}

async fn log(
    change: &mut PgTransaction<'_>,
    tenant: &Token,
    actor: &str,
    action: &str,
) -> sqlx::Result<()> {
    add_tenant_change(&mut **change, tenant, actor, &json!({ "action": action })).await
}

/// Says why no row was changed.
async fn unchanged(postgres: &PgPool, tenant: &Token) -> Result<()> {
    match get(postgres, tenant).await?.state.as_str() {
        "removed" => bail!("{tenant} was removed: `brigade tenants add {tenant} --restore`"),
        state => bail!("{tenant} is {state}: only what is suspended can be removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leaves_room_for_those_of_its_users() {
        let name = |length: usize| "x".repeat(length);
        assert_eq!(longest_name(), 51);
        assert_eq!(parse(&name(51)).unwrap().as_str(), name(51));
        for refused in [name(0), name(52), name(65), "a.b".to_owned()] {
            let error = parse(&refused).unwrap_err().to_string();
            assert!(error.contains("1 to 51"), "{error}");
        }
    }
}
