//! What is noted to be shown, of which some cannot be.

use async_nats::jetstream;
use brigade::operations::provision;
use brigade_contracts::WorkerName;
use brigade_tests::{Town, check, locks::Lock, until};

/// Waits until the notes were looked at so many times more.
async fn until_looked(town: &Town, times: usize) {
    let mut seen = None;
    for _ in 0..=times {
        seen = until("another look at the notes", async || {
            let renewed: Option<time::OffsetDateTime> = sqlx::query_scalar(
                "select until from brigade.leases where name = 'command-handler.projection-backlog'",
            )
            .fetch_optional(&town.sql)
            .await
            .ok()?;
            (renewed.is_some() && renewed != seen).then_some(renewed)
        })
        .await;
    }
}

/// Takes a cart's view away, notes the cart, and waits until it is shown and noted no more.
async fn until_shown_again(town: &Town, cart: &str) {
    let js = jetstream::new(town.connect("operator").await);
    let views = js.get_stream("KV_views").await.unwrap();
    views.purge().filter(format!("$KV.views.t1.cart.{cart}.core")).await.unwrap();
    sqlx::query(
        "insert into brigade.unshown (tenant, aggregate, id, version, at)
         select tenant, 'cart', id, version, clock_timestamp() - interval '2 seconds'
         from brigade.carts where id = $1",
    )
    .bind(cart)
    .execute(&town.sql)
    .await
    .unwrap();
    until("the cart to be shown", async || {
        check::kv(town, "views", &format!("t1.cart.{cart}.core")).await?;
        (!noted(town).await.contains(&cart.to_owned())).then_some(())
    })
    .await;
}

async fn noted(town: &Town) -> Vec<String> {
    let noted = sqlx::query_scalar("select id from brigade.unshown order by at");
    noted.fetch_all(&town.sql).await.unwrap()
}

#[tokio::test]
async fn a_note_that_can_never_be_shown_keeps_no_later_one() {
    let town = Town::start_without(WorkerName::CacheVerifier).await;
    let producer = town.producer().await;
    for cart in ["spoiled", "good"] {
        producer.team_cart(cart, "ada", &[]).await;
    }
    town.until_idle().await;
    sqlx::raw_sql(
        "update brigade.carts set items = '\"none\"' where id = 'spoiled';
         insert into brigade.unshown (tenant, aggregate, id, version, at) values
             ('no.tenant', 'cart', 'nobody', 1, clock_timestamp() - interval '2 hours'),
             ('t1', 'cart', 'spoiled', 1, clock_timestamp() - interval '1 hour')",
    )
    .execute(&town.sql)
    .await
    .unwrap();
    until_looked(&town, 6).await;
    until_shown_again(&town, "good").await;
    assert_eq!(noted(&town).await, ["nobody", "spoiled"]);
}

#[tokio::test]
async fn many_notes_that_cannot_be_shown_now_keep_no_later_one() {
    const LOCKS: usize = 1_100;
    let town = Town::start_without(WorkerName::CacheVerifier).await;
    let producer = town.producer().await;
    producer.team_cart("c", "ada", &[]).await;
    town.until_idle().await;
    Lock::hold(&town, "owner", "of-another-cart", 600.0).await;
    let js = jetstream::new(town.connect("operator").await);
    js.delete_stream("TIMERS").await.unwrap();
    let locks = format!(
        "insert into brigade.cart_locks
         select (jsonb_populate_record(l, jsonb_build_object('owner', 'owner' || n))).*
         from brigade.cart_locks l, generate_series(2, {LOCKS}) n;
         insert into brigade.unshown (tenant, aggregate, id, version, at)
         select tenant, 'lock', owner, version, clock_timestamp() - interval '1 hour'
         from brigade.cart_locks"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(locks)).execute(&town.sql).await.unwrap();
    until_shown_again(&town, "c").await;
    assert_eq!(noted(&town).await.len(), LOCKS, "there are no timers");
    provision::run(&town.nats_url("operator"), 1).await.unwrap();
    until("the locks to be shown", async || noted(&town).await.is_empty().then_some(())).await;
}
