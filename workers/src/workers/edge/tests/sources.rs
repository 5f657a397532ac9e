//! One ETag names one body, wherever it came from.

use anyhow::Result;
use brigade_contracts::{Part, WorkerName};
use serde_json::json;

use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn memory_kv_and_sql_give_the_same_bytes() -> Result<()> {
    let world = World::start().await?;
    let handler = world.worker(WorkerName::CommandHandler).await?;
    world.cart("c1").await?;
    let joined = world.command("c1", "join", json!({"user": "bob"})).await?;
    assert_eq!(joined["version"], 3);
    handler.stop().await;

    // The projector has not come yet: no payments in KV.
    let edge = world.edge().await?;
    let sql = world.view("c1", &[]).await?;
    assert_eq!((sql.status, world.content_from("sql")), (200, 1));
    let memory = world.view("c1", &[]).await?;
    assert_eq!(world.content_from("memory"), 1);
    edge.stop().await;

    let payments = world.projected("c1").await?;
    world.put("c1", Part::Payments, payments.clone()).await?;
    let edge = world.edge().await?;
    let kv = world.view("c1", &[]).await?;
    assert_eq!(world.content_from("kv"), 1);
    edge.stop().await;
    assert_eq!((&memory, &kv), (&sql, &sql));

    let core = serde_json::to_string(&kv.json()["core"])?;
    let of_version = |version| payments.replacen("\"version\":3", version, 1);
    let cases = [
        (Part::Payments, of_version("\"version\":2"), "behind"),
        (Part::Payments, of_version("\"version\":4"), "ahead"),
        (Part::Payments, of_version("\"version\": 3"), "other bytes"),
        (Part::Payments, of_version("\"version\":3,\"new\":0"), "of another build"),
        (Part::Payments, core, "another part"),
        (Part::Payments, "{\"version\":3}".to_owned(), "a bare version"),
        (Part::Payments, String::new(), "empty"),
        (Part::Payments, "garbage".to_owned(), "garbage"),
        (Part::Core, "[3]".to_owned(), "garbage"),
    ];
    for (part, value, what) in cases {
        world.put("c1", part, value).await?;
        let edge = world.edge().await?;
        let before = world.content_from("sql");
        assert_eq!(world.view("c1", &[]).await?, sql, "{what}");
        assert_eq!(world.content_from("sql"), before + 1, "{what}");
        assert_eq!(world.view("c1", &[("If-None-Match", "\"2\"")]).await?, sql, "{what}");
        edge.stop().await;
        world.put("c1", Part::Payments, payments.clone()).await?;
    }

    let operator = world.operator().await?;
    for bucket in ["KV_views", "KV_versions"] {
        let deleted =
            operator.request(format!("$JS.API.STREAM.DELETE.{bucket}"), "".into()).await?;
        assert!(deleted.payload.windows(14).any(|text| text == b"\"success\":true"));
    }
    let edge = world.edge().await?;
    assert_eq!(world.view("c1", &[]).await?, sql);
    edge.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shown_as_a_cart_is() -> Result<()> {
    let world = World::start().await?;
    let handler = world.worker(WorkerName::CommandHandler).await?;
    let items = json!([{"sku": "s", "name": "Pizza", "unit_price": 1250, "quantity": 2}]);
    let placed = json!({"currency": "EUR", "items": items});
    assert_eq!(world.command("order.o1", "place", placed).await?["status"], 201);
    assert_eq!(world.command("order.o1", "accept", json!({})).await?["version"], 2);
    let edge = world.edge().await?;
    let sql = world.view("order.o1", &[]).await?;
    assert_eq!((sql.status, sql.etag.as_deref()), (200, Some("\"2\"")));
    assert_eq!((&sql.json()["due"], world.content_from("sql")), (&json!(2500), 1));
    let same = world.view("order.o1", &[("If-None-Match", "\"2\"")]).await?;
    assert_eq!(same.status, 304);
    edge.stop().await;

    let payments = world.projected("order.o1").await?;
    world.put("order.o1", Part::Payments, payments).await?;
    let edge = world.edge().await?;
    assert_eq!(world.view("order.o1", &[]).await?, sql);
    assert_eq!(world.content_from("kv"), 1);
    // The same id may be a cart as well.
    world.cart("o1").await?;
    let cart = world.view("o1", &[]).await?;
    assert_eq!((cart.status, &cart.json()["core"]["kind"]), (200, &json!("team")));
    assert_eq!(world.view("order.o1", &[]).await?, sql);
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_lost_is_never_a_304() -> Result<()> {
    let world = World::start().await?;
    let handler = world.worker(WorkerName::CommandHandler).await?;
    let edge = world.edge().await?;
    world.cart("c1").await?;
    assert_eq!(world.view("c1", &[]).await?.status, 200);
    handler.stop().await;
    // As a failover to a standby that lacks the last commit would.
    let lose = "update brigade.carts set version = 1, parts = '{\"core\":1,\"payments\":1}'";
    sqlx::query(lose).execute(&mut world.sql().await?).await?;
    let answer = world.view("c1", &[("If-None-Match", "\"1\"")]).await?;
    assert_eq!((answer.status, answer.etag.as_deref()), (200, Some("\"1\"")));
    assert_eq!((world.metrics.stale_304.get(), world.content_from("sql")), (1, 2));
    edge.stop().await;
    Ok(())
}

#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_query_is_answered_is_answered() -> Result<()> {
    let world = World::start().await?;
    let handler = world.worker(WorkerName::CommandHandler).await?;
    let edge = world.edge().await?;
    world.cart("c1").await?;
    let armed = world.fail.arm("edge.after_confirm");
    let (view, changed) = tokio::join!(world.view("c1", &[("If-None-Match", "\"1\"")]), async {
        // Twice it finds that more was committed after it had confirmed; then SQL says all.
        for item in ["i2", "i3", "i4"] {
            armed.reached().await;
            world.add_item("c1", item).await?;
            let payments = world.projected("c1").await?;
            world.put("c1", Part::Payments, payments).await?;
            armed.release();
        }
        anyhow::Ok(())
    });
    changed?;
    assert_eq!((view?.etag.as_deref(), world.content_from("sql")), (Some("\"5\""), 1));
    assert_eq!(world.metrics.stale_304.get(), 0);
    world.fail.disarm("edge.after_confirm");
    edge.stop().await;
    handler.stop().await;
    Ok(())
}
