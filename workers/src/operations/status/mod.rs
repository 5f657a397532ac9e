//! What is wrong, worst first: `brigade status`.
//!
//! It looks by itself, at SQL and JetStream, and asks no worker: so it tells of any that is dead.
//! A worker is missed by its signs of life (`brigade.instances`), whether others do its work or not.

mod judge;

use std::time::Duration;

use anyhow::{Context as _, Result};
use brigade_contracts::topology::Topology;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::timeout;
use uuid::Uuid;

use self::judge::judge;
pub use self::judge::{AUDIT_SECONDS, LAGS_SECONDS, OWED_SECONDS, UNKNOWN_SECONDS};
use super::{
    OperatorServers,
    finding::{Finding, Severity, sort, unreachable},
};
use crate::{
    infra::{nats::OperatorConnection, postgres::operator_pool},
    workers::cache_verifier::fleet_watch::{LettersInStream, Rows, Streams},
};

/// The time that NATS has to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// What is wrong, worst first, and what was seen.
#[derive(Debug, Serialize)]
pub struct Status {
    pub worst: Severity,
    pub findings: Vec<Finding>,
    /// None: Postgres could not be asked.
    pub rows: Option<Rows>,
    /// None: NATS could not be asked.
    pub streams: Option<Streams>,
}

/// Looks at a fleet again and again, by the same connections while they hold.
pub struct StatusWatch {
    servers: OperatorServers,
    nats: Option<OperatorConnection>,
    postgres: Option<PgPool>,
    letters: LettersInStream,
}

impl StatusWatch {
    #[must_use]
    pub fn new(servers: OperatorServers) -> Self {
        let name = format!("brigade-status-{}", Uuid::now_v7().simple());
        Self { servers, nats: None, postgres: None, letters: LettersInStream::new(&name) }
    }

    /// Looks once. What cannot be reached is a finding.
    pub async fn look(&mut self) -> Status {
        let Self { servers, nats, postgres, letters } = self;
        let (rows, streams) =
            tokio::join!(rows(servers, postgres), streams(servers, nats, letters));
        let mut findings = Vec::new();
        let rows = rows.map_err(|error| {
            *postgres = None;
            findings.push(unreachable("postgres", &error));
        });
        let streams = streams.map_err(|error| {
            *nats = None;
            findings.push(unreachable("nats", &error));
        });
        let (rows, streams) = (rows.ok(), streams.ok());
        findings.extend(judge(rows.as_ref(), streams.as_ref()));
        sort(&mut findings);
        let worst = Severity::worst(&findings);
        Status { worst, findings, rows, streams }
    }
}

async fn rows(servers: &OperatorServers, postgres: &mut Option<PgPool>) -> Result<Rows> {
    let pool = match postgres {
        Some(pool) => pool,
        None => postgres.insert(operator_pool(&servers.database_url).await?),
    };
    Rows::load(pool).await.context("Postgres does not answer as it should")
}

async fn streams(
    servers: &OperatorServers,
    nats: &mut Option<OperatorConnection>,
    letters: &mut LettersInStream,
) -> Result<Streams> {
    let loaded = async {
        let connection = match nats {
            Some(connection) => connection,
            None => nats.insert(
                OperatorConnection::open(&servers.nats_url, &servers.nats, "status").await?,
            ),
        };
        let topology = Topology::with_replicas(servers.replicas);
        let streams = Streams::load(&connection.jetstream, &topology, letters).await;
        connection.explain(streams)
    };
    timeout(LIMIT, loaded).await.context("no answer from NATS within 5 s")?
}
