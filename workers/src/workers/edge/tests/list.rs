//! The list of active orders: Postgres away or started again, and what is committed meanwhile.

use anyhow::Result;
use brigade_contracts::WorkerName;
use serde_json::{Value, json};

use super::{
    error,
    servers::{EdgeFixture, Response, until},
};

const SUBJECT: &str = "q.t1.active_orders";

async fn list(servers: &EdgeFixture, headers: &[(&str, &str)]) -> Result<Response> {
    servers.request(SUBJECT.to_owned(), headers, b"").await
}

async fn place(servers: &EdgeFixture, order: &str) -> Result<()> {
    let items = json!([{"sku": "s", "name": "Pizza", "unit_price": 1250, "quantity": 2}]);
    let placed = json!({"currency": "EUR", "items": items});
    let placed = servers.command(&format!("order.{order}"), "place", placed).await?;
    assert_eq!(placed["status"], 201, "{placed}");
    Ok(())
}

#[cfg(feature = "fail-points")]
fn orders(rows: &Value) -> Vec<(&str, &str)> {
    let rows = rows.as_array().expect("rows");
    let text = |value| Value::as_str(value).expect("text");
    rows.iter().map(|row| (text(&row["order"]), text(&row["status"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_unconfirmed_without_postgres_and_reset_after_its_start() -> Result<()> {
    let mut servers = EdgeFixture::start_with_own_postgres().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    place(&servers, "o1").await?;
    let shown = list(&servers, &[]).await?;
    let etag = shown.etag.clone().expect("an ETag");
    let resume = shown.json()["resume"].as_str().expect("a position").to_owned();
    let known = [("Resume", resume.as_str())];
    assert_eq!(list(&servers, &known).await?.json()["reset"], Value::Null);
    for bad in [[("If-None-Match", "1")], [("Confirm", "sql")]] {
        assert_eq!(error(&list(&servers, &bad).await?), (400, "bad_header"));
    }
    let operator = servers.operator().await?;
    let odd = operator.request("q.tä.active_orders", "".into()).await?;
    assert!(odd.payload.windows(11).any(|text| text == b"bad_subject"));

    servers.stack.postgres_mut().kill().await;
    let by_kv = [("If-None-Match", etag.as_str()), ("Confirm", "kv")];
    for headers in [&[][..], &by_kv, &known] {
        assert_eq!(error(&list(&servers, headers).await?), (503, "unconfirmed"));
    }
    servers.stack.postgres_mut().restart().await?;
    let same = [("If-None-Match", etag.as_str())];
    until("edge answers again", async || {
        list(&servers, &same).await.is_ok_and(|answer| answer.status == 304)
    })
    .await;
    // Numbers of transactions may have been lost with the server.
    let reset = list(&servers, &known).await?;
    let body = reset.json();
    assert_eq!((&body["reset"], reset.etag), (&json!(true), Some(etag)));
    assert_eq!(body["rows"], shown.json()["rows"]);
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_list_is_answered_is_never_left_out() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    for order in ["o1", "o2", "o3"] {
        place(&servers, order).await?;
    }
    let armed = servers.fail.arm("edge.after_list_confirm");
    let (answer, changed) = tokio::join!(list(&servers, &[]), async {
        armed.reached().await;
        servers.command("order.o1", "accept", json!({})).await?;
        servers.command("order.o2", "cancel", json!({"reason": "r"})).await?;
        place(&servers, "o4").await?;
        servers.fail.disarm("edge.after_list_confirm");
        anyhow::Ok(())
    });
    changed?;
    let answer = answer?;
    let body = answer.json();
    assert_eq!(orders(&body["rows"]), [("o3", "placed"), ("o1", "accepted")]);
    let known = [("If-None-Match", answer.etag.as_deref().expect("an ETag"))];
    assert_eq!(list(&servers, &known).await?.status, 200);

    // The same for changes: what stood in the list has ended when they are answered.
    let resume = body["resume"].as_str().expect("a position").to_owned();
    let armed = servers.fail.arm("edge.after_list_confirm");
    let known = [("Resume", resume.as_str())];
    let (changes, changed) = tokio::join!(list(&servers, &known), async {
        armed.reached().await;
        servers.command("order.o3", "cancel", json!({"reason": "r"})).await?;
        servers.fail.disarm("edge.after_list_confirm");
        anyhow::Ok(())
    });
    changed?;
    let changes = changes?;
    let body = changes.json();
    let mut told = orders(&body["changes"]);
    told.sort_unstable();
    let cancelled = "cancelled";
    let expected = [("o1", "accepted"), ("o2", cancelled), ("o3", cancelled), ("o4", "placed")];
    assert_eq!(told, expected);
    let fresh = list(&servers, &[]).await?;
    assert_eq!(orders(&fresh.json()["rows"]), [("o4", "placed"), ("o1", "accepted")]);
    assert_eq!(changes.etag, fresh.etag);
    edge.stop().await;
    handler.stop().await;
    Ok(())
}
