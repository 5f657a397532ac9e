//! What the gateways of tenants sign their messages with. Only edge and an operator read it, and only
//! an operator writes it.

use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

/// The format of a gateway's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayFormat {
    /// Events of Stripe, signed by the header `Stripe-Signature`.
    Stripe,
}

impl GatewayFormat {
    pub const ALL: [Self; 1] = [Self::Stripe];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }
}

/// A secret as people see it: by its fingerprint alone.
#[derive(Debug)]
pub struct ListedSecret {
    pub tenant: String,
    pub gateway: String,
    pub fingerprint: String,
    /// The format of the gateway's messages.
    pub format: String,
    pub created_at: OffsetDateTime,
}

/// Returns all secrets, those of one gateway from the oldest to the newest.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn list(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<ListedSecret>> {
    sqlx::query_as!(
        ListedSecret,
        "select tenant, gateway, fingerprint, format, created_at
         from brigade.gateway_secrets order by tenant, gateway, created_at, fingerprint"
    )
    .fetch_all(executor)
    .await
}

/// Locks a gateway, so that nobody else changes its secrets until the transaction ends, and returns
/// their fingerprints and their formats.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn lock(
    connection: &mut PgConnection,
    tenant: &str,
    gateway: &str,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!("select tenant from brigade.tenants where tenant = $1 for update", tenant)
        .fetch_optional(&mut *connection)
        .await?;
    let rows = sqlx::query!(
        "select fingerprint, format from brigade.gateway_secrets
         where tenant = $1 and gateway = $2 order by created_at, fingerprint",
        tenant,
        gateway,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.fingerprint, row.format)).collect())
}

/// A secret that is added.
pub struct NewSecret<'a> {
    pub tenant: &'a str,
    pub gateway: &'a str,
    pub fingerprint: &'a str,
    pub format: GatewayFormat,
    pub secret: &'a str,
}

/// Adds a secret; one that is there stays as it is.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn add(executor: impl PgExecutor<'_>, new: &NewSecret<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into brigade.gateway_secrets (tenant, gateway, fingerprint, format, secret)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
        new.tenant,
        new.gateway,
        new.fingerprint,
        new.format.as_str(),
        new.secret,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Deletes the secret of this fingerprint, or all of the gateway. Returns how many there were.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn remove(
    executor: impl PgExecutor<'_>,
    tenant: &str,
    gateway: &str,
    fingerprint: Option<&str>,
) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "delete from brigade.gateway_secrets
         where tenant = $1 and gateway = $2 and ($3::text is null or fingerprint = $3)",
        tenant,
        gateway,
        fingerprint,
    )
    .execute(executor)
    .await?;
    Ok(removed.rows_affected())
}
