//! The registered tenants: rows of `brigade.tenants`, and their accounts on nats-server
//! ([`accounts`]).
//!
//! Workers read the row with the statements that they run anyway, so what is written here counts
//! at once for commands, and within a second for queries and streams.

pub mod accounts;
pub mod reload;

use anyhow::{Result, bail, ensure};
use brigade_contracts::{Token, permissions};
use sqlx::PgPool;
use time::OffsetDateTime;

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
    let Ok(tenant) = Token::new(name) else {
        bail!("{name:?} cannot be a tenant: 1 to 64 of A-Z a-z 0-9 _ -");
    };
    let longest = permissions::tenant_users(&tenant).into_iter().map(|user| user.name.len()).max();
    // A generation of three digits.
    let is_short = longest.is_none_or(|length| length + 4 <= Token::MAX_LEN);
    ensure!(is_short, "tenant {name:?}: the names of its users would be too long");
    Ok(tenant)
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
pub async fn add(postgres: &PgPool, tenant: &Token, restore: bool) -> Result<bool> {
    let added = sqlx::query!(
        "insert into brigade.tenants as present (tenant) values ($1)
         on conflict (tenant) do update
         set state = 'active', suspended_at = null, removed_at = null
         where present.state = 'removed' and $2",
        tenant.as_str(),
        restore,
    )
    .execute(postgres)
    .await?;
    if added.rows_affected() > 0 {
        return Ok(true);
    }
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
pub async fn suspend(postgres: &PgPool, tenant: &Token) -> Result<()> {
    let suspended = sqlx::query!(
        "update brigade.tenants
         set state = 'suspended', suspended_at = coalesce(suspended_at, now())
         where tenant = $1 and state <> 'removed'",
        tenant.as_str(),
    );
    changed(suspended.execute(postgres).await?.rows_affected(), postgres, tenant).await
}

/// Resumes a tenant; one that is active stays so.
///
/// # Errors
/// If it is not registered; if Postgres refuses.
pub async fn resume(postgres: &PgPool, tenant: &Token) -> Result<()> {
    let resumed = sqlx::query!(
        "update brigade.tenants set state = 'active', suspended_at = null
         where tenant = $1 and state <> 'removed'",
        tenant.as_str(),
    );
    changed(resumed.execute(postgres).await?.rows_affected(), postgres, tenant).await
}

/// Removes a tenant that is suspended; one that was removed stays so. Its history stays.
///
/// # Errors
/// If it is active; if Postgres refuses.
pub async fn remove(postgres: &PgPool, tenant: &Token) -> Result<()> {
    let removed = sqlx::query!(
        "update brigade.tenants
         set state = 'removed', removed_at = coalesce(removed_at, now())
         where tenant = $1 and state <> 'active'",
        tenant.as_str(),
    );
    changed(removed.execute(postgres).await?.rows_affected(), postgres, tenant).await
}

/// Says why no row was changed.
async fn changed(rows: u64, postgres: &PgPool, tenant: &Token) -> Result<()> {
    if rows > 0 {
        return Ok(());
    }
    match get(postgres, tenant).await?.state.as_str() {
        "removed" => bail!("{tenant} was removed: `brigade tenants add {tenant} --restore`"),
        state => bail!("{tenant} is {state}: only what is suspended can be removed"),
    }
}
