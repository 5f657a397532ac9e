//! One ETag names one body, wherever it came from.

use anyhow::Result;
use brigade_contracts::{Part, WorkerName};
use serde_json::json;

use super::servers::EdgeFixture;

#[tokio::test(flavor = "multi_thread")]
async fn memory_kv_and_sql_give_the_same_bytes() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    servers.cart("c1").await?;
    let joined = servers.command("c1", "join", json!({"user": "bob"})).await?;
    assert_eq!(joined["version"], 3);
    handler.stop().await;

    // The projector has not come yet: no payments in KV.
    let edge = servers.edge().await?;
    let sql = servers.view("c1", &[]).await?;
    assert_eq!((sql.status, servers.content_from("sql")), (200, 1));
    let memory = servers.view("c1", &[]).await?;
    assert_eq!(servers.content_from("memory"), 1);
    edge.stop().await;

    let payments = servers.projected("c1").await?;
    servers.put("c1", Part::Payments, payments.clone()).await?;
    let edge = servers.edge().await?;
    let kv = servers.view("c1", &[]).await?;
    assert_eq!(servers.content_from("kv"), 1);
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
        servers.put("c1", part, value).await?;
        let edge = servers.edge().await?;
        let before = servers.content_from("sql");
        assert_eq!(servers.view("c1", &[]).await?, sql, "{what}");
        assert_eq!(servers.content_from("sql"), before + 1, "{what}");
        assert_eq!(servers.view("c1", &[("If-None-Match", "\"2\"")]).await?, sql, "{what}");
        edge.stop().await;
        servers.put("c1", Part::Payments, payments.clone()).await?;
    }

    let operator = servers.operator().await?;
    for bucket in ["KV_views", "KV_versions"] {
        let deleted =
            operator.request(format!("$JS.API.STREAM.DELETE.{bucket}"), "".into()).await?;
        assert!(deleted.payload.windows(14).any(|text| text == b"\"success\":true"));
    }
    let edge = servers.edge().await?;
    assert_eq!(servers.view("c1", &[]).await?, sql);
    edge.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shown_as_a_cart_is() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let items = json!([{"sku": "s", "name": "Pizza", "unit_price": 1250, "quantity": 2}]);
    let placed = json!({"currency": "EUR", "items": items});
    assert_eq!(servers.command("order.o1", "place", placed).await?["status"], 201);
    assert_eq!(servers.command("order.o1", "accept", json!({})).await?["version"], 2);
    let edge = servers.edge().await?;
    let sql = servers.view("order.o1", &[]).await?;
    assert_eq!((sql.status, sql.etag.as_deref()), (200, Some("\"2\"")));
    assert_eq!((&sql.json()["due"], servers.content_from("sql")), (&json!(2500), 1));
    let same = servers.view("order.o1", &[("If-None-Match", "\"2\"")]).await?;
    assert_eq!(same.status, 304);
    edge.stop().await;

    let payments = servers.projected("order.o1").await?;
    servers.put("order.o1", Part::Payments, payments).await?;
    let edge = servers.edge().await?;
    assert_eq!(servers.view("order.o1", &[]).await?, sql);
    assert_eq!(servers.content_from("kv"), 1);
    // The same id may be a cart as well.
    servers.cart("o1").await?;
    let cart = servers.view("o1", &[]).await?;
    assert_eq!((cart.status, &cart.json()["core"]["kind"]), (200, &json!("team")));
    assert_eq!(servers.view("order.o1", &[]).await?, sql);
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_lost_is_never_a_304() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;
    assert_eq!(servers.view("c1", &[]).await?.status, 200);
    handler.stop().await;
    // As a failover to a standby that lacks the last commit would.
    let lose = "update brigade.carts set version = 1, parts = '{\"core\":1,\"payments\":1}'";
    sqlx::query(lose).execute(&mut servers.sql().await?).await?;
    let answer = servers.view("c1", &[("If-None-Match", "\"1\"")]).await?;
    assert_eq!((answer.status, answer.etag.as_deref()), (200, Some("\"1\"")));
    assert_eq!((servers.edge_metrics().stale_304.get(), servers.content_from("sql")), (1, 2));
    edge.stop().await;
    Ok(())
}

#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_query_is_answered_is_answered() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;
    let armed = servers.fail.arm("edge.after_confirm");
    let (view, changed) = tokio::join!(servers.view("c1", &[("If-None-Match", "\"1\"")]), async {
        // Twice it finds that more was committed after it had confirmed; then SQL says all.
        for item in ["i2", "i3", "i4"] {
            armed.reached().await;
            servers.add_item("c1", item).await?;
            let payments = servers.projected("c1").await?;
            servers.put("c1", Part::Payments, payments).await?;
            armed.release();
        }
        anyhow::Ok(())
    });
    changed?;
    assert_eq!((view?.etag.as_deref(), servers.content_from("sql")), (Some("\"5\""), 1));
    assert_eq!(servers.edge_metrics().stale_304.get(), 0);
    servers.fail.disarm("edge.after_confirm");
    edge.stop().await;
    handler.stop().await;
    Ok(())
}
