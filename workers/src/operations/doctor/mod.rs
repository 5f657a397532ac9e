//! Examines servers and settings: `brigade doctor`. It changes nothing. Each finding names what is
//! wrong and how to mend it; what is well is named too, so that it is known what was looked at.

mod certificates;
mod clocks;
mod nats;
mod postgres;
mod roles;
mod server_process;

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Result};
use brigade_contracts::WorkerName;
use serde::Serialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{
    OperatorServers,
    finding::{Finding, Severity, sort, unreachable},
};
use crate::infra::{NatsOptions, nats::OperatorConnection, postgres::operator_connection};

/// The time that each server has for all that it is asked.
const LIMIT: Duration = Duration::from_secs(20);

/// What is examined.
#[derive(Clone, Debug)]
pub struct Examined {
    pub servers: OperatorServers,
    /// What the names of the Postgres roles begin with.
    pub role_prefix: String,
    /// Workers whose users of NATS are tried, with their URLs.
    pub workers: Vec<(WorkerName, String, NatsOptions)>,
    /// Certificates of this machine.
    pub certificates: Vec<PathBuf>,
    /// `http://host:port` of nats-server's monitoring, if it has one.
    pub monitoring: Option<String>,
}

/// What was found, worst first.
#[derive(Debug, Serialize)]
pub struct Examination {
    pub worst: Severity,
    pub findings: Vec<Finding>,
}

/// Returns the finding that something is as it should be.
fn fine(subject: &str, what: impl Into<String>) -> Finding {
    Finding::new(Severity::Fine, subject, what, "")
}

/// Examines everything.
pub async fn examine(examined: &Examined) -> Examination {
    let (of_postgres, of_nats, of_process) = tokio::join!(
        of_postgres(examined),
        of_nats(examined),
        server_process::examine(examined.monitoring.as_deref()),
    );
    let mut findings = of_process;
    findings.extend(of_postgres.unwrap_or_else(|error| vec![unreachable("postgres", &error)]));
    findings.extend(of_nats.unwrap_or_else(|error| vec![unreachable("nats", &error)]));
    for (worker, url, options) in &examined.workers {
        findings.push(nats::try_worker(*worker, url, options).await);
    }
    findings.extend(certificates::examine(&examined.certificates));
    sort(&mut findings);
    Examination { worst: Severity::worst(&findings), findings }
}

async fn of_postgres(examined: &Examined) -> Result<Vec<Finding>> {
    let url = &examined.servers.database_url;
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    let examination = async {
        let mut connection: PgConnection = operator_connection(&options).await?;
        let mut findings = vec![clocks::of_postgres(&mut connection).await?];
        findings.extend(postgres::examine(&mut connection).await?);
        findings.extend(roles::examine(&mut connection, &examined.role_prefix).await?);
        connection.close().await?;
        Ok(findings)
    };
    timeout(LIMIT, examination).await.context("Postgres does not answer")?
}

async fn of_nats(examined: &Examined) -> Result<Vec<Finding>> {
    let OperatorServers { nats_url, nats, replicas, .. } = &examined.servers;
    let examination = async {
        let operator = OperatorConnection::open(nats_url, nats, "doctor").await?;
        operator.explain(nats::examine(&operator, *replicas).await)
    };
    timeout(LIMIT, examination).await.context("NATS does not answer")?
}
