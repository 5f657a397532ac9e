//! The workers' roles: whether they are there, with their settings and their rights.

use anyhow::Result;
use brigade_contracts::{WorkerName, permissions::grants};
use sqlx::{PgConnection, Row};

use super::{Finding, Severity, fine};
use crate::{infra::postgres::role_settings, operations::migrate::role};

const MEND: &str = "`brigade migrate`, with BRIGADE_DATABASE_URL_<WORKER> of each worker";

pub(super) async fn examine(connection: &mut PgConnection, prefix: &str) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for worker in WorkerName::ALL {
        let role = role(prefix, worker);
        let subject = format!("role {role}");
        let wrong = of_role(connection, &role, worker).await?;
        if wrong.is_empty() {
            findings.push(fine(&subject, "it has its settings and its rights"));
        }
        for what in wrong {
            findings.push(Finding::new(Severity::Error, &*subject, what, MEND));
        }
    }
    Ok(findings)
}

/// Returns what is wrong with a role.
async fn of_role(
    connection: &mut PgConnection,
    role: &str,
    worker: WorkerName,
) -> Result<Vec<String>> {
    let found = sqlx::query(
        "select rolcanlogin, coalesce(rolconfig, '{}') from pg_roles where rolname = $1",
    )
    .bind(role)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = found else { return Ok(vec!["there is no such role".to_owned()]) };
    let (may_log_in, has): (bool, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    let mut wrong = Vec::new();
    if !may_log_in {
        wrong.push("it may not log in: it has no password".to_owned());
    }
    let differing: Vec<_> = role_settings(worker)
        .into_iter()
        .map(|(setting, value)| format!("{setting}={value}"))
        .filter(|wanted| !has.contains(wanted))
        .collect();
    if !differing.is_empty() {
        wrong.push(format!("it lacks the settings {}", differing.join(", ")));
    }
    let missing = missing_rights(connection, role, worker).await?;
    if !missing.is_empty() {
        wrong.push(format!("it lacks {}", missing.join(", ")));
    }
    Ok(wrong)
}

/// Returns the rights that a role lacks. Rights on single columns are not looked at.
async fn missing_rights(
    connection: &mut PgConnection,
    role: &str,
    worker: WorkerName,
) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (object, privileges) in grants(worker).iter().filter(|(_, rights)| !rights.contains('(')) {
        let Some((kind, name)) = object.split_once(' ') else { continue };
        let kind = kind.to_ascii_lowercase();
        let there = match &*kind {
            "function" => "select to_regprocedure($1) is not null",
            _ => "select to_regclass($1) is not null",
        };
        let full = format!("brigade.{name}");
        let is_there: bool =
            sqlx::query_scalar(there).bind(&full).fetch_one(&mut *connection).await?;
        if !is_there {
            missing.push(format!("the {kind} {name}"));
            continue;
        }
        let has = match &*kind {
            "function" => "select has_function_privilege($1, $2, $3)",
            "sequence" => "select has_sequence_privilege($1, $2, $3)",
            _ => "select has_table_privilege($1, $2, $3)",
        };
        for privilege in privileges.split(", ") {
            let has: bool = sqlx::query_scalar(has)
                .bind(role)
                .bind(&full)
                .bind(privilege)
                .fetch_one(&mut *connection)
                .await?;
            if !has {
                missing.push(format!("{privilege} on {name}"));
            }
        }
    }
    Ok(missing)
}
