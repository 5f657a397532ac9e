//! The projection backlog while some of its entries cannot be projected.

use async_nats::jetstream;
use brigade::operations::provision;
use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, check, locks::Lock, until};

/// Waits until the backlog was read this many times more.
async fn until_read(fleet: &TestFleet, times: usize) {
    let mut seen = None;
    for _ in 0..=times {
        seen = until("another read of the backlog", async || {
            let renewed: Option<time::OffsetDateTime> = sqlx::query_scalar(
                "select until from brigade.leases where name = 'command-handler.projection-backlog'",
            )
            .fetch_optional(&fleet.sql)
            .await
            .ok()?;
            (renewed.is_some() && renewed != seen).then_some(renewed)
        })
        .await;
    }
}

/// Deletes a cart's view, adds the cart to the backlog, and waits until it is projected and no
/// entry is left.
pub async fn until_projected_again(fleet: &TestFleet, cart: &str) {
    let js = jetstream::new(fleet.connect("operator").await);
    let views = js.get_stream("KV_views").await.unwrap();
    views.purge().filter(format!("$KV.views.t1.cart.{cart}.core")).await.unwrap();
    sqlx::query(
        "insert into brigade.projection_backlog (tenant, aggregate, id, version, at)
         select tenant, 'cart', id, version, clock_timestamp() - interval '2 seconds'
         from brigade.carts where id = $1",
    )
    .bind(cart)
    .execute(&fleet.sql)
    .await
    .unwrap();
    until("the cart to be projected", async || {
        check::kv(fleet, "views", &format!("t1.cart.{cart}.core")).await?;
        (!in_backlog(fleet).await.contains(&cart.to_owned())).then_some(())
    })
    .await;
}

/// Returns the ids of the entries of the backlog, the oldest first.
async fn in_backlog(fleet: &TestFleet) -> Vec<String> {
    let entries = sqlx::query_scalar("select id from brigade.projection_backlog order by at");
    entries.fetch_all(&fleet.sql).await.unwrap()
}

/// What is read of an aggregate that somebody is changing may be older than what was pushed of it
/// when its key was lost: written then, a version would be pushed after a newer one.
#[tokio::test]
async fn s6_03_what_somebody_is_changing_is_not_restored_at_an_older_version() {
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    for cart in ["changed", "free"] {
        producer.team_cart(cart, &format!("owner-of-{cart}"), &[]).await;
    }
    fleet.until_idle().await;
    let mut change = fleet.sql.begin().await.unwrap();
    sqlx::query("update brigade.carts set version = version where id = 'changed'")
        .execute(&mut *change)
        .await
        .unwrap();
    let js = jetstream::new(fleet.connect("operator").await);
    let versions = js.get_stream("KV_versions").await.unwrap();
    versions.purge().await.unwrap();
    sqlx::raw_sql(
        "insert into brigade.heal_backlog
         select tenant, 'cart', id, clock_timestamp() from brigade.carts",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    let healed = async |cart: &str| {
        until("the cart to be healed", async || {
            let left = "select count(*) from brigade.heal_backlog where id = $1";
            let left = sqlx::query_scalar(left).bind(cart).fetch_one(&fleet.sql).await;
            (left.ok() == Some(0_i64)).then_some(())
        })
        .await;
    };
    // It comes later in the same page.
    healed("free").await;
    assert!(check::kv(&fleet, "versions", "t1.cart.free").await.is_some());
    assert_eq!(check::kv(&fleet, "versions", "t1.cart.changed").await, None);
    change.rollback().await.unwrap();
    healed("changed").await;
    assert!(check::kv(&fleet, "versions", "t1.cart.changed").await.is_some());
    fleet.finish().await;
}

#[tokio::test]
async fn an_entry_that_can_never_be_projected_holds_up_no_later_one() {
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    for cart in ["spoiled", "good"] {
        producer.team_cart(cart, "ada", &[]).await;
    }
    fleet.until_idle().await;
    sqlx::raw_sql(
        "update brigade.carts set items = '\"none\"' where id = 'spoiled';
         insert into brigade.projection_backlog (tenant, aggregate, id, version, at) values
             ('no.tenant', 'cart', 'nobody', 1, clock_timestamp() - interval '2 hours'),
             ('t1', 'cart', 'spoiled', 1, clock_timestamp() - interval '1 hour')",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    until_read(&fleet, 6).await;
    until_projected_again(&fleet, "good").await;
    assert_eq!(in_backlog(&fleet).await, ["nobody", "spoiled"]);
}

#[tokio::test]
async fn many_entries_that_cannot_be_projected_now_hold_up_no_later_one() {
    const LOCKS: usize = 1_100;
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    producer.team_cart("c", "ada", &[]).await;
    fleet.until_idle().await;
    Lock::hold(&fleet, "owner", "of-another-cart", 600.0).await;
    let js = jetstream::new(fleet.connect("operator").await);
    js.delete_stream("TIMERS").await.unwrap();
    let locks = format!(
        "insert into brigade.cart_locks
         select (jsonb_populate_record(l, jsonb_build_object('owner', 'owner' || n))).*
         from brigade.cart_locks l, generate_series(2, {LOCKS}) n;
         insert into brigade.projection_backlog (tenant, aggregate, id, version, at)
         select tenant, 'lock', owner, version, clock_timestamp() - interval '1 hour'
         from brigade.cart_locks"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(locks)).execute(&fleet.sql).await.unwrap();
    until_projected_again(&fleet, "c").await;
    assert_eq!(in_backlog(&fleet).await.len(), LOCKS, "there are no timers");
    provision::run(&fleet.nats_url("operator"), 1).await.unwrap();
    until("the locks to be projected", async || in_backlog(&fleet).await.is_empty().then_some(()))
        .await;
}
