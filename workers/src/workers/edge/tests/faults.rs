//! Load, drains, and Postgres away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use brigade_contracts::WorkerName;
use futures::future::try_join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    error,
    servers::{EdgeFixture, until},
    waiting,
};

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_wait_share_statements() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;
    let before = servers.edge_metrics().confirm_statements.get();
    let known = [("If-None-Match", "\"2\"")];
    let answers = try_join_all((0..100).map(|_| servers.view("c1", &known))).await?;
    assert!(answers.iter().all(|answer| answer.status == 304));
    // The exact number is for the tests of `batch_loader`.
    let statements = servers.edge_metrics().confirm_statements.get() - before;
    assert!(statements < 50, "{statements} statements");
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_nothing_is_guessed() -> Result<()> {
    let mut servers = EdgeFixture::start_with_own_postgres().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;
    let view = servers.view("c1", &[]).await?;
    let known = [("If-None-Match", "\"2\"")];
    let by_kv = [("If-None-Match", "\"2\""), ("Confirm", "kv")];
    let not_by_kv = servers.view("c1", &by_kv).await?;
    assert_eq!((not_by_kv.status, not_by_kv.by_kv), (304, false));

    servers.stack.postgres_mut().kill().await;
    let started = Instant::now();
    assert_eq!(error(&servers.view("c1", &known).await?), (503, "unconfirmed"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(error(&servers.view("c1", &[]).await?), (503, "unconfirmed"));
    assert_eq!(error(&servers.outcome("k1", &[("Wait-Ms", "9000")]).await?), (503, "unconfirmed"));
    // Together they take less than one that finds it out for itself.
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    assert!(edge.health.ready().is_err());

    let same = servers.view("c1", &by_kv).await?;
    assert_eq!((same.status, same.by_kv), (304, true));
    let whole = servers.view("c1", &[("Confirm", "kv")]).await?;
    assert_eq!((whole.status, whole.by_kv, &whole.body), (200, true, &view.body));
    let later = servers.view("c1", &[("Confirm", "kv"), ("Min-Version", "3")]).await?;
    assert_eq!((error(&later), later.by_kv), ((504, "version_not_reached"), true));
    let absent = servers.view("nobody", &[("Confirm", "kv")]).await?;
    assert_eq!(error(&absent), (503, "unconfirmed"));

    servers.stack.postgres_mut().restart().await?;
    until("edge answers again", async || {
        servers.view("c1", &known).await.is_ok_and(|answer| answer.status == 304)
    })
    .await;
    assert!(edge.health.ready().is_ok());

    // Connections that a restart broke are no reason to refuse.
    for _ in 0..3 {
        servers.stack.postgres_mut().restart().await?;
        let answers = try_join_all((0..20).map(|_| servers.view("c1", &known))).await?;
        assert!(answers.iter().all(|answer| answer.status == 304), "{answers:?}");
    }
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_loses_no_answer() -> Result<()> {
    let servers = Arc::new(EdgeFixture::start().await?);
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    servers.cart("c1").await?;
    let mut edge = servers.edge().await?;
    let over = CancellationToken::new();
    let mut askers = JoinSet::new();
    for _ in 0..64 {
        let (servers, over) = (servers.clone(), over.clone());
        askers.spawn(async move {
            let mut answered = 0;
            while !over.is_cancelled() {
                let answer = servers.view("c1", &[]).await?;
                anyhow::ensure!(answer.status == 200, "{answer:?}");
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    for _ in 0..20 {
        let next = servers.edge().await?;
        edge.stop().await;
        edge = next;
    }
    over.cancel();
    let mut answered = 0;
    while let Some(done) = askers.join_next().await {
        answered += done??;
    }
    assert!(answered > 64, "{answered}");
    // One that waits is answered too, long before its time.
    let ninth = [("Min-Version", "9"), ("Wait-Ms", "30000")];
    let started = Instant::now();
    let (early, ()) = tokio::join!(servers.view("c1", &ninth), async {
        waiting(&servers, 1).await;
        edge.stop().await;
    });
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(error(&early?), (504, "version_not_reached"));
    handler.stop().await;
    Ok(())
}
