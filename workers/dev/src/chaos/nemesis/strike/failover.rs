//! A standby of Postgres takes over: a synchronous one, which has everything that was answered, or
//! an asynchronous one, which lacks the last commits.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use brigade_servers::Postgres;
use rand::{Rng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::{Failover, Strike};
use crate::{
    DATABASE, TcpProxy,
    chaos::{
        disk::SmallDisk,
        fleet::ChaosFleet,
        history::{Micros, OperationHistory},
    },
};

/// A standby that does not follow by then does not.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Has a standby follow for a while, kills the primary, and promotes the standby. With `loses` the
/// standby is cut off before.
///
/// # Errors
/// If the standby does not follow, or cannot be promoted.
pub async fn strike(
    loses: bool,
    fleet: &mut ChaosFleet,
    history: &OperationHistory,
    random: &mut StdRng,
) -> Result<Strike> {
    let dir = fleet.next_postgres_dir();
    let disk = match fleet.plan.has_small_disks {
        true => Some(SmallDisk::mount(&dir)?),
        false => None,
    };
    let link = TcpProxy::to(fleet.stack.postgres.port()).await?;
    let standby = fleet.stack.postgres.standby(&dir, link.port()).await?;
    if !loses {
        for statement in
            ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"]
        {
            sqlx::query(statement).execute(&fleet.sql).await?;
        }
    }
    let state = if loses { "streaming" } else { "sync" };
    until(fleet, "$1 in (state, sync_state)", state).await?;
    sleep(Duration::from_millis(random.random_range(1000..3000))).await;
    let mut kept = None;
    let mut behind = Duration::ZERO;
    if loses {
        kept = Some(cut_off(fleet, &link, history).await?);
        behind = Duration::from_millis(random.random_range(200..2000));
        sleep(behind).await;
    }
    fleet.stack.postgres.kill().await;
    let killed = history.now();
    promote(&standby).await?;
    let promoted = history.now();
    let former_dir = fleet.stack.postgres.log().parent().context("a folder")?.to_owned();
    drop(fleet.use_postgres(standby));
    if let (Some(disks), Some(disk)) = (&mut fleet.disks, disk) {
        disks[1] = disk;
    }
    // What is on it is nobody's any more.
    let _removed = fs::remove_dir_all(former_dir);
    let detail = match loses {
        true => format!("the last {:.1} s are lost", behind.as_secs_f64()),
        false => "nothing is lost".to_owned(),
    };
    let failover = Failover { kept: kept.unwrap_or(killed), killed, promoted };
    Ok(Strike { failover: Some(failover), ..Strike::over(detail) })
}

/// Cuts the standby off, and returns a moment before which it has everything.
async fn cut_off(
    fleet: &ChaosFleet,
    link: &TcpProxy,
    history: &OperationHistory,
) -> Result<Micros> {
    let kept = history.now();
    let end: String =
        sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(&fleet.sql).await?;
    until(fleet, "flush_lsn >= $1::pg_lsn", &end).await?;
    link.silence();
    Ok(kept)
}

/// Waits until something is true of the standby.
async fn until(fleet: &ChaosFleet, what: &str, value: &str) -> Result<()> {
    let until = Instant::now() + LIMIT;
    let statement = format!("select exists (select from pg_stat_replication where {what})");
    loop {
        let is_true = sqlx::query_scalar(sqlx::AssertSqlSafe(statement.as_str())).bind(value);
        if is_true.fetch_one(&fleet.sql).await? {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the standby does not follow: {what} ({value})");
        sleep(PAUSE).await;
    }
}

async fn promote(standby: &Postgres) -> Result<()> {
    let mut connection = PgConnection::connect(&standby.superuser_url(DATABASE)).await?;
    let promoted = sqlx::query_scalar("select pg_promote(true, 60)");
    let promoted: bool = promoted.fetch_one(&mut connection).await?;
    ensure!(promoted, "the standby was not promoted");
    Ok(connection.close().await?)
}
