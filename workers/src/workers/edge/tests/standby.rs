//! Each statement by which edge confirms something, in a session that must not be used: on a server
//! in recovery.

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::Result;
use brigade_contracts::{
    Address, Aggregate, CommandKey, Era, Token,
    query::{HistoryHeaders, ProductsPage},
};
use brigade_domain::LockPolicy;
use brigade_servers::{Binaries, Postgres, config::StackConfig};
use sqlx::{Connection, Error, PgConnection};

use crate::{
    infra::{
        Metrics,
        postgres::{CONNECT_LIMIT, connection, superuser_pool},
    },
    operations::migrate,
    workers::edge::{
        EdgeMetrics,
        query::{
            content::ViewBodyLoader,
            list::{
                loaders::{EndedOrderLoader, OrderListLoader},
                page::ListKey,
                position::ListPosition,
                snapshot::ListMoment,
            },
            loader::Loader,
            locks::{LiveLockLoader, LockHistoryLoader},
            outcomes::OutcomeLoader,
            owners::OwnerLoader,
            pages::{PageKey, PageLoader, PagedList},
            products::{self, DigestLoader},
            users::UserLoader,
            versions::VersionLoader,
        },
    },
};

/// Runs a statement; returns the code of its error, `None` if it succeeds.
async fn error_of<L: Loader>(
    loader: L,
    key: L::Key,
    (sql, era): &mut (PgConnection, Era),
) -> Option<String> {
    match loader.load(sql, *era, &[key]).await {
        Err(Error::Database(error)) => error.code().map(Into::into),
        _ => None,
    }
}

/// Runs each statement; returns the codes of their errors.
async fn all(sql: &mut (PgConnection, Era)) -> Result<Vec<Option<String>>> {
    let (t1, metrics) = (Token::new("t1")?, Metrics::new().group::<EdgeMetrics>());
    let of = |aggregate| Address::new("t1", aggregate, "x");
    let moment = ListMoment { start: 1, xid: 1, at: 1 };
    let position = ListPosition { tenant: t1.clone(), moment, whole: true };
    let (lock, user, cart) = (of(Aggregate::Lock)?, of(Aggregate::User)?, of(Aggregate::Cart)?);
    let versions = VersionLoader { metrics: metrics.clone() };
    let products = (t1.clone(), ProductsPage { limit: 1, after: None });
    let page = |list| PageKey { tenant: t1.clone(), list, after: None, limit: 1 };
    let mut of_lists = Vec::new();
    for list in [
        PagedList::Tables,
        PagedList::Carts(t1.clone()),
        PagedList::Orders(t1.clone()),
        PagedList::EndedOrders(None),
        PagedList::RefundTasks(None),
        PagedList::UnknownPayments,
    ] {
        of_lists.push(error_of(PageLoader, page(list), sql).await);
    }
    let others = vec![
        error_of(versions, cart.clone(), sql).await,
        error_of(ViewBodyLoader, cart.clone(), sql).await,
        error_of(OrderListLoader { metrics }, ListKey::whole(t1.clone()), sql).await,
        error_of(EndedOrderLoader, position, sql).await,
        error_of(OutcomeLoader, (t1.clone(), CommandKey::parse("ada.k").expect("a key")), sql)
            .await,
        error_of(LiveLockLoader { policy: LockPolicy::default() }, lock.clone(), sql).await,
        error_of(LockHistoryLoader, (lock, HistoryHeaders { limit: 1, before: None }), sql).await,
        error_of(UserLoader, (user, None), sql).await,
        error_of(OwnerLoader, cart, sql).await,
        error_of(DigestLoader, products.clone(), sql).await,
        error_of(products::ProductPageLoader, products, sql).await,
    ];
    Ok([others, of_lists].concat())
}

#[tokio::test]
async fn s6_01_each_statement_that_confirms_fails_in_recovery_and_in_another_era() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let binaries = Binaries::find(&StackConfig::from_env()).await?;
    let mut postgres = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
    let url = postgres.superuser_url("postgres");
    migrate::run(&url, "", |_| None).await?;
    let mut primary = (PgConnection::connect(&url).await?, Era::FIRST);
    assert_eq!(all(&mut primary).await?, vec![None; 17]);

    postgres.stop().await;
    let data = dir.path().join("data");
    fs::copy(data.join("PG_VERSION"), data.join("standby.signal"))?;
    let owner = fs::metadata(data.join("PG_VERSION"))?;
    let (user, group) = (owner.uid(), owner.gid());
    std::os::unix::fs::chown(data.join("standby.signal"), Some(user), Some(group))?;
    postgres.restart().await?;
    let mut standby = (PgConnection::connect(&url).await?, Era::FIRST);
    assert_eq!(all(&mut standby).await?, vec![Some("55000".to_owned()); 17]);
    // And such a session is not had from a pool of a worker.
    let pool = superuser_pool(&url, 1)?;
    let until = tokio::time::Instant::now() + CONNECT_LIMIT;
    assert!(matches!(connection(&pool, until).await, Err(Error::PoolTimedOut)));

    // Nor do they confirm what a worker of another era asks, before or after somebody begins one.
    sqlx::query("select pg_promote()").execute(&mut standby.0).await?;
    assert_eq!(all(&mut standby).await?, vec![Some("55000".to_owned()); 17]);
    let begin = "select brigade.current_era()";
    let era: i64 = sqlx::query_scalar(begin).fetch_one(&mut standby.0).await?;
    assert_eq!(all(&mut standby).await?, vec![Some("55000".to_owned()); 17]);
    standby.1 = Era::new(era.cast_unsigned());
    assert_eq!(all(&mut standby).await?, vec![None; 17]);
    Ok(())
}
