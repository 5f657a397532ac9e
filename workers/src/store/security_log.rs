//! The security log in SQL. Rows are only ever added, and deleted by age.

use std::net::IpAddr;

use brigade_contracts::{Timestamp, Token};
use brigade_domain::{SecurityEntry, SecurityKind};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, types::Json};

use super::rows::to_rows;

/// A row of `brigade.security_log`.
#[derive(Serialize)]
struct SecurityRow<'a> {
    at: Timestamp,
    tenant: &'a Token,
    kind: &'static str,
    actor: Option<&'a Token>,
    via: &'static str,
    source: Option<IpAddr>,
    subject: String,
    command_id: String,
    detail: &'a Value,
}

/// Adds what a batch has decided. What a command has left before is not added again: one that is
/// decided anew each time leaves one row.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, entries: &[SecurityEntry]) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.security_log
             (at, tenant, kind, actor, via, source, subject, command_id, detail)
         select at, tenant, kind, actor, via, source, subject, command_id, detail
         from jsonb_populate_recordset(null::brigade.security_log, $1) with ordinality
         order by ordinality
         on conflict (tenant, command_id, kind, subject) do nothing",
        to_rows::<SecurityRow<'_>, _>(entries) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds that an operator has changed a tenant. `detail` says how, without a secret.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn add_tenant_change(
    executor: impl PgExecutor<'_>,
    tenant: &Token,
    actor: &str,
    detail: &Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into brigade.security_log (at, tenant, kind, actor, via, subject, detail)
         values (clock_timestamp(), $1, $2, $3, 'fleet', $4, $5)",
        tenant.as_str(),
        SecurityKind::TenantChanged.as_str(),
        actor,
        format!("tenant.{tenant}"),
        Json(detail) as _,
    )
    .execute(executor)
    .await?;
    Ok(())
}

impl<'a> From<&'a SecurityEntry> for SecurityRow<'a> {
    fn from(entry: &'a SecurityEntry) -> Self {
        let subject = &entry.subject;
        Self {
            at: entry.at,
            tenant: &subject.tenant,
            kind: entry.kind.as_str(),
            actor: entry.actor.as_ref(),
            via: entry.via.as_str(),
            source: entry.source,
            subject: format!("{}.{}", subject.aggregate, subject.id),
            command_id: entry.command.to_string(),
            detail: &entry.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Address, Aggregate, CommandKey, Via};
    use serde_json::json;

    use super::*;
    use crate::testing::TestDatabase;

    #[tokio::test]
    async fn a_command_leaves_one_row_of_a_kind_and_an_operator_each_time() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let mut connection = database.sql.acquire().await?;
        let entry = SecurityEntry {
            at: Timestamp::parse("2026-01-02T03:04:05.678Z")?,
            kind: SecurityKind::LoginFailed,
            subject: Address::new("t1", Aggregate::User, "ada")?,
            command: CommandKey::parse("ada..k1").expect("a key"),
            actor: None,
            via: Via::Http,
            source: Some("192.0.2.7".parse()?),
            detail: json!({"email": "ada@example.org"}),
        };
        let throttled = SecurityEntry { kind: SecurityKind::LoginThrottled, ..entry.clone() };
        let other =
            SecurityEntry { subject: Address::new("t2", Aggregate::User, "ada")?, ..entry.clone() };
        save(&mut connection, &[]).await?;
        save(&mut connection, &[entry.clone(), throttled]).await?;
        save(&mut connection, &[entry, other]).await?;
        let tenant = Token::new("t3")?;
        for action in ["added", "removed"] {
            let detail = json!({ "action": action });
            add_tenant_change(&mut *connection, &tenant, "operator", &detail).await?;
        }
        let rows: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
            "select tenant, kind, subject, coalesce(source, actor)
             from brigade.security_log order by seq",
        )
        .fetch_all(&mut *connection)
        .await?;
        let row = |tenant: &str, kind: &str, subject: &str, who: &str| {
            (tenant.to_owned(), kind.to_owned(), subject.to_owned(), Some(who.to_owned()))
        };
        let expected = [
            row("t1", "login_failed", "user.ada", "192.0.2.7"),
            row("t1", "login_throttled", "user.ada", "192.0.2.7"),
            row("t2", "login_failed", "user.ada", "192.0.2.7"),
            row("t3", "tenant_changed", "tenant.t3", "operator"),
            row("t3", "tenant_changed", "tenant.t3", "operator"),
        ];
        assert_eq!(rows, expected);
        Ok(())
    }
}
