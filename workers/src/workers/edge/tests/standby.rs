//! Each statement by which edge confirms something, in a session that should never have been: on a
//! server in recovery.

use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

use anyhow::Result;
use brigade_contracts::{Address, Aggregate, Token, query::HistoryHeaders};
use brigade_domain::LockPolicy;
use brigade_servers::{Binaries, Postgres, config::StackConfig};
use sqlx::{Connection, Error, PgConnection};

use crate::{
    infra::{
        Metrics,
        postgres::{CONNECT_LIMIT, connection, pool},
    },
    operations::migrate,
    workers::edge::{
        confirm::Confirm,
        content::Read,
        list,
        locks::{LiveLocks, LockHistory},
        outcome::Inbox,
        owners::Owners,
        together::Question,
        users::Users,
    },
};

/// The code of what a statement fails with; none where it gives an answer.
async fn fails<Q: Question>(question: Q, key: Q::Key, sql: &mut PgConnection) -> Option<String> {
    match question.ask(sql, &[key]).await {
        Err(Error::Database(error)) => error.code().map(Into::into),
        _ => None,
    }
}

/// Of each statement the code that it fails with.
async fn all(sql: &mut PgConnection) -> Result<Vec<Option<String>>> {
    let (t1, metrics) = (Token::new("t1")?, Arc::new(Metrics::new()));
    let of = |aggregate| Address::new("t1", aggregate, "x");
    let moment = list::position::Moment { start: 1, xid: 1, at: 1 };
    let position = list::position::Position { tenant: t1.clone(), moment, whole: true };
    let (lock, user, cart) = (of(Aggregate::Lock)?, of(Aggregate::User)?, of(Aggregate::Cart)?);
    let versions = Confirm { metrics: metrics.clone() };
    Ok(vec![
        fails(versions, cart.clone(), sql).await,
        fails(Read, cart.clone(), sql).await,
        fails(list::confirm::Confirm { metrics }, t1.clone(), sql).await,
        fails(list::confirm::Ended, position, sql).await,
        fails(Inbox, (t1.clone(), t1), sql).await,
        fails(LiveLocks { policy: LockPolicy::default() }, lock.clone(), sql).await,
        fails(LockHistory, (lock, HistoryHeaders { limit: 1, before: None }), sql).await,
        fails(Users, user, sql).await,
        fails(Owners, cart, sql).await,
    ])
}

#[tokio::test]
async fn s6_01_each_statement_that_confirms_fails_in_recovery() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let binaries = Binaries::find(&StackConfig::from_env()).await?;
    let mut postgres = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
    let url = postgres.superuser_url("postgres");
    migrate::run(&url, |_| None).await?;
    let mut primary = PgConnection::connect(&url).await?;
    assert_eq!(all(&mut primary).await?, vec![None; 9]);

    postgres.stop().await;
    let data = dir.path().join("data");
    fs::copy(data.join("PG_VERSION"), data.join("standby.signal"))?;
    let owner = fs::metadata(data.join("PG_VERSION"))?;
    let (user, group) = (owner.uid(), owner.gid());
    std::os::unix::fs::chown(data.join("standby.signal"), Some(user), Some(group))?;
    postgres.restart().await?;
    let mut standby = PgConnection::connect(&url).await?;
    assert_eq!(all(&mut standby).await?, vec![Some("55000".to_owned()); 9]);
    // And such a session is not had from a pool of a worker.
    let pool = pool(&url, "test", 1)?;
    let until = tokio::time::Instant::now() + CONNECT_LIMIT;
    assert!(matches!(connection(&pool, until).await, Err(Error::PoolTimedOut)));

    sqlx::query("select pg_promote()").execute(&mut standby).await?;
    assert_eq!(all(&mut standby).await?, vec![None; 9]);
    Ok(())
}
