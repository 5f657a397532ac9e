//! The server's version, settings and schema.

use anyhow::Result;
use sqlx::{PgConnection, Row};

use super::{Finding, Severity, fine};
use crate::operations::migrate::schema_drift;

const POSTGRES: &str = "postgres";
/// The oldest version that is supported.
const OLDEST: i32 = 150_000;
/// Sessions of the server that a worker uses, and those that operators need besides.
const SESSIONS_OF_WORKER: i64 = 4;
const SESSIONS_OF_OPERATORS: i64 = 10;
/// Half of the transactions that there may be between two freezes.
const OLD_TRANSACTIONS: i64 = 1_000_000_000;
/// The share of the sessions that is used, in percent, from which on there may soon be none.
const SESSIONS_FILL: i64 = 80;

/// A setting that has to have one of some values, and what happens otherwise.
struct Wanted {
    setting: &'static str,
    values: &'static [&'static str],
    severity: Severity,
    otherwise: &'static str,
}

const WANTED: [Wanted; 6] = [
    Wanted {
        setting: "fsync",
        values: &["on"],
        severity: Severity::Error,
        otherwise: "a power cut may destroy the database",
    },
    Wanted {
        setting: "full_page_writes",
        values: &["on"],
        severity: Severity::Error,
        otherwise: "a power cut may destroy the database",
    },
    Wanted {
        setting: "synchronous_commit",
        values: &["on", "remote_apply", "remote_write", "local"],
        severity: Severity::Error,
        otherwise: "a crash takes commands that were answered",
    },
    Wanted {
        setting: "autovacuum",
        values: &["on"],
        severity: Severity::Error,
        otherwise: "the outbox and the backlogs grow slow with what was deleted from them",
    },
    Wanted {
        setting: "track_counts",
        values: &["on"],
        severity: Severity::Error,
        otherwise: "autovacuum does not know what to do",
    },
    Wanted {
        setting: "password_encryption",
        values: &["scram-sha-256"],
        severity: Severity::Warning,
        otherwise: "passwords that are set by hand are stored as MD5",
    },
];

pub(super) async fn examine(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let mut findings = vec![version(connection).await?];
    findings.extend(settings(connection).await?);
    findings.extend(sessions(connection).await?);
    findings.push(standbys(connection).await?);
    findings.push(transactions(connection).await?);
    let drift = schema_drift(connection).await?;
    if drift.is_empty() {
        findings.push(fine("schema", "all migrations are done"));
    }
    for what in drift {
        let mend = "`brigade migrate`, of the version that the fleet runs or is to run";
        findings.push(Finding::new(Severity::Error, "schema", what, mend));
    }
    Ok(findings)
}

async fn number(connection: &mut PgConnection, select: &'static str) -> sqlx::Result<i64> {
    sqlx::query_scalar(select).fetch_one(connection).await
}

async fn version(connection: &mut PgConnection) -> Result<Finding> {
    let row = sqlx::query(
        "select current_setting('server_version'), current_setting('server_version_num')::int,
                pg_is_in_recovery()",
    )
    .fetch_one(connection)
    .await?;
    let (version, number, standby): (String, i32, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(if standby {
        let mend = "name the primary in the URLs, or promote this server";
        Finding::new(Severity::Error, POSTGRES, "the server is in recovery: a standby", mend)
    } else if number < OLDEST {
        let what = format!("version {version} is too old");
        Finding::new(Severity::Error, POSTGRES, what, "upgrade to Postgres 15 or newer")
    } else {
        fine(POSTGRES, format!("version {version}"))
    })
}

async fn settings(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for Wanted { setting, values, severity, otherwise } in WANTED {
        // What the server gives to every session, not what this one was given.
        let found: String = sqlx::query_scalar(
            "select coalesce(reset_val, setting) from pg_settings where name = $1",
        )
        .bind(setting)
        .fetch_one(&mut *connection)
        .await?;
        if values.contains(&&*found) {
            findings.push(fine(POSTGRES, format!("{setting} is {found}")));
            continue;
        }
        let what = format!("{setting} is {found}: {otherwise}");
        let mend = format!(
            "`alter system set {setting} = '{}'`, then `select pg_reload_conf()`",
            values[0]
        );
        findings.push(Finding::new(severity, POSTGRES, what, mend));
    }
    Ok(findings)
}

async fn sessions(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let most = number(connection, "select current_setting('max_connections')::bigint").await?;
    let used = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    let used = number(connection, used).await?;
    let known: bool = sqlx::query_scalar("select to_regclass('brigade.instances') is not null")
        .fetch_one(&mut *connection)
        .await?;
    let alive = "select count(*) from brigade.instances
                 where seen_at > clock_timestamp() - interval '6 s'";
    let alive = if known { number(connection, alive).await? } else { 0 };
    let needed = alive * SESSIONS_OF_WORKER + SESSIONS_OF_OPERATORS;
    let mend = format!(
        "`alter system set max_connections = {}` and a restart, or a pooler in between",
        (needed * 2).max(200)
    );
    let mut findings = Vec::new();
    if most < needed {
        let what = format!("max_connections is {most}; {alive} workers and operators use {needed}");
        findings.push(Finding::new(Severity::Warning, POSTGRES, what, mend.clone()));
    } else {
        findings.push(fine(POSTGRES, format!("max_connections is {most}, {needed} are of use")));
    }
    if used * 100 > most * SESSIONS_FILL {
        let what = format!("{used} of {most} sessions are in use");
        findings.push(Finding::new(Severity::Warning, POSTGRES, what, mend));
    }
    Ok(findings)
}

/// A commit is on two machines only where a standby is waited for.
async fn standbys(connection: &mut PgConnection) -> Result<Finding> {
    let row = sqlx::query(
        "select current_setting('synchronous_standby_names'),
                (select count(*) from pg_stat_replication where state = 'streaming'),
                (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum'))",
    )
    .fetch_one(connection)
    .await?;
    let (names, streaming, synchronous): (String, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(if !names.is_empty() && synchronous == 0 {
        let what = format!("no standby of {names:?} is there: every commit waits for one");
        let mend = "start the standby, or `alter system set synchronous_standby_names = ''`";
        Finding::new(Severity::Error, POSTGRES, what, mend)
    } else if names.is_empty() && streaming > 0 {
        let what = "no standby is waited for: a failover may lose what was answered";
        let mend = "set synchronous_standby_names, see docs/production.md";
        Finding::new(Severity::Warning, POSTGRES, what, mend)
    } else {
        let what = format!("{streaming} standbys, of which {synchronous} are waited for");
        fine(POSTGRES, what)
    })
}

async fn transactions(connection: &mut PgConnection) -> Result<Finding> {
    let age = "select max(age(datfrozenxid))::bigint from pg_database";
    let age = number(connection, age).await?;
    let open = "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::bigint
                from pg_stat_activity where backend_type = 'client backend'";
    let open = number(connection, open).await?;
    Ok(if age > OLD_TRANSACTIONS {
        let what = format!("{age} transactions were not frozen: at 2,100,000,000 it stops");
        let mend = "see what keeps autovacuum: an open transaction, a replication slot";
        Finding::new(Severity::Error, POSTGRES, what, mend)
    } else if open > 60 {
        let what = format!("a transaction has been open for {open} s; it may hold up commands");
        let mend = "end it: `select pid, usename, query from pg_stat_activity order by xact_start`";
        Finding::new(Severity::Warning, POSTGRES, what, mend)
    } else {
        fine(POSTGRES, "no transaction is old")
    })
}
