//! The gateways that may tell of a tenant's payments over HTTP: what they sign their messages with.
//!
//! edge reads a secret with each message, so what is written here counts at once.

use anyhow::{Result, bail, ensure};
use brigade_contracts::Token;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::tenants;
use crate::store::{
    gateway_secrets::{self, GatewayFormat, ListedSecret, NewSecret},
    security_log::add_tenant_change,
};

/// The secrets of a gateway that are good at once: the present one, and the next.
const MAX_SECRETS: usize = 2;
/// The longest name: `gateway-<name>` is the actor of what it tells.
const MAX_NAME: usize = 32;
/// The length of secrets, in bytes. A shorter one could be guessed.
const SECRET_LEN: std::ops::RangeInclusive<usize> = 16..=512;
/// The number of digits of a fingerprint.
const FINGERPRINT: usize = 16;

/// Reads the name of a gateway.
///
/// # Errors
/// If it is no Token, or too long.
pub fn parse(name: &str) -> Result<Token> {
    match Token::new(name) {
        Ok(gateway) if name.len() <= MAX_NAME => Ok(gateway),
        _ => bail!("{name:?} cannot be a gateway: 1 to {MAX_NAME} of A-Z a-z 0-9 _ -"),
    }
}

/// Returns that by which people name a secret, and from which nobody can tell it.
#[must_use]
pub fn fingerprint(secret: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(secret));
    digits.truncate(FINGERPRINT);
    digits
}

/// Adds a secret of a gateway, which begins to exist with its first one. Returns its fingerprint. A
/// secret that is there already stays.
///
/// # Errors
/// If the tenant is not registered, the gateway has two secrets already or another format, or the
/// secret is too short or too long; if Postgres refuses.
pub async fn add(
    postgres: &PgPool,
    tenant: &Token,
    gateway: &Token,
    format: GatewayFormat,
    secret: &str,
    actor: &str,
) -> Result<String> {
    ensure!(
        SECRET_LEN.contains(&secret.len()),
        "a secret has {} to {} bytes",
        SECRET_LEN.start(),
        SECRET_LEN.end()
    );
    let state = tenants::get(postgres, tenant).await?.state;
    ensure!(state != "removed", "{tenant} was removed");
    let added = fingerprint(secret);
    let mut change = postgres.begin().await?;
    let present = gateway_secrets::lock(&mut change, tenant.as_str(), gateway.as_str()).await?;
    if present.iter().any(|(known, _)| *known == added) {
        return Ok(added);
    }
    if let Some((_, other)) = present.iter().find(|(_, of)| of != format.as_str()) {
        bail!("{gateway} of {tenant} is of the format {other}: give another name");
    }
    if let [oldest, ..] = &present[..]
        && present.len() >= MAX_SECRETS
    {
        bail!(
            "{gateway} of {tenant} has {MAX_SECRETS} secrets. To end the older one: `brigade \
             gateways rm {tenant} {gateway} --secret {}`",
            oldest.0
        );
    }
    let new = NewSecret {
        tenant: tenant.as_str(),
        gateway: gateway.as_str(),
        fingerprint: &added,
        format,
        secret,
    };
    gateway_secrets::add(&mut *change, &new).await?;
    let detail = json!({
        "action": "gateway_secret_added", "gateway": gateway, "fingerprint": added,
    });
    add_tenant_change(&mut *change, tenant, actor, &detail).await?;
    change.commit().await?;
    Ok(added)
}

/// Returns the secrets of all gateways, by their fingerprints.
///
/// # Errors
/// If Postgres refuses.
pub async fn list(postgres: &PgPool) -> sqlx::Result<Vec<ListedSecret>> {
    gateway_secrets::list(postgres).await
}

/// What of a gateway is ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// The secret of this fingerprint, but not the last one of the gateway.
    Secret(&'a str),
    /// The secret of this fingerprint, whether it is the last one or not.
    AnySecret(&'a str),
    /// The gateway, with all its secrets.
    Gateway,
}

/// Ends a secret of a gateway, or all of them. Returns how many there were.
///
/// # Errors
/// If there is none, or the gateway would end with it; if Postgres refuses.
pub async fn remove(
    postgres: &PgPool,
    tenant: &Token,
    gateway: &Token,
    ended: Ended<'_>,
    actor: &str,
) -> Result<u64> {
    let fingerprint = match ended {
        Ended::Secret(fingerprint) | Ended::AnySecret(fingerprint) => Some(fingerprint),
        Ended::Gateway => None,
    };
    let mut change = postgres.begin().await?;
    let (of, name) = (tenant.as_str(), gateway.as_str());
    let present = gateway_secrets::lock(&mut change, of, name).await?;
    let is_last = matches!((ended, &present[..]), (Ended::Secret(one), [(last, _)]) if one == last);
    ensure!(
        !is_last,
        "this is the last secret of {gateway} of {tenant}: nothing that it tells is taken any more. \
         To do it: --yes"
    );
    let removed = gateway_secrets::remove(&mut *change, of, name, fingerprint).await?;
    ensure!(removed > 0, "there is none: `brigade gateways ls` lists them");
    let detail = json!({
        "action": "gateway_secret_removed", "gateway": gateway, "fingerprint": fingerprint,
    });
    add_tenant_change(&mut *change, tenant, actor, &detail).await?;
    change.commit().await?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    const FIRST: &str = "whsec_first-of-the-gateway";

    #[tokio::test]
    async fn a_gateway_has_two_secrets_at_most_and_nobody_is_shown_them() -> Result<()> {
        let database = TestDatabase::start().await?;
        let (tenant, gateway) = (Token::new("t1")?, parse("stripe")?);
        let add = async |secret: &str| {
            super::add(&database.sql, &tenant, &gateway, GatewayFormat::Stripe, secret, "op").await
        };
        let first = add(FIRST).await?;
        assert_eq!(add(FIRST).await?, first, "a repetition");
        let second = add("whsec_second-of-the-gateway").await?;
        let why = add("whsec_third-of-the-gateway").await.unwrap_err().to_string();
        assert!(why.contains(&format!("--secret {first}")), "{why}");
        assert!(add("short").await.is_err());
        let listed = list(&database.sql).await?;
        let shown: Vec<_> = listed.iter().map(|secret| secret.fingerprint.clone()).collect();
        assert_eq!(shown, [first.clone(), second.clone()]);
        assert!(!format!("{listed:?}").contains("whsec"));

        let end =
            async |ended: Ended<'_>| remove(&database.sql, &tenant, &gateway, ended, "op").await;
        assert_eq!(end(Ended::Secret(&first)).await?, 1);
        assert!(end(Ended::Secret(&first)).await.is_err());
        let why = end(Ended::Secret(&second)).await.unwrap_err().to_string();
        assert!(why.ends_with("To do it: --yes"), "{why}");
        assert_eq!(end(Ended::AnySecret(&second)).await?, 1);
        assert!(end(Ended::Gateway).await.is_err());
        add(FIRST).await?;
        add("whsec_second-of-the-gateway").await?;
        assert_eq!(end(Ended::Gateway).await?, 2);
        let logged: Vec<String> = sqlx::query_scalar(
            "select detail ->> 'action' || detail::text from brigade.security_log order by seq",
        )
        .fetch_all(&database.sql)
        .await?;
        assert_eq!(logged.len(), 7, "{logged:?}");
        assert!(logged.iter().all(|row| !row.contains("whsec")), "{logged:?}");

        let nobody = Token::new("nobody")?;
        let stripe = GatewayFormat::Stripe;
        assert!(super::add(&database.sql, &nobody, &gateway, stripe, FIRST, "op").await.is_err());
        for name in ["", "a.b", &"x".repeat(33)] {
            assert!(parse(name).is_err(), "{name}");
        }
        Ok(())
    }
}
