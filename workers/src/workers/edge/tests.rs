//! edge with real servers, and with the real command-handler beside it.

mod faults;
mod list;
mod locks;
mod servers;
mod sources;
mod standby;

use std::time::{Duration, Instant};

use anyhow::Result;
use brigade_contracts::{WorkerName, query::QueryError};
use futures::StreamExt;
use serde_json::{Value, json};

use self::servers::{EdgeFixture, Response, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_answered_by_the_contract() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;

    let view = servers.view("c1", &[]).await?;
    assert_eq!((view.status, view.etag.as_deref()), (200, Some("\"2\"")));
    let body = view.json();
    assert_eq!((&body["version"], &body["due"]), (&json!(2), &json!(1300)));
    assert_eq!((&body["core"]["version"], &body["payments"]["version"]), (&json!(2), &json!(1)));
    assert!(view.body.starts_with(br#"{"version":2,"core":{"version":2,"at":"#));

    for known in ["\"2\"", "W/\"2\"", "\"1\", \"2\"", "*"] {
        let same = servers.view("c1", &[("If-None-Match", known)]).await?;
        assert_eq!((same.status, same.etag.as_deref()), (304, Some("\"2\"")), "{known}");
        assert!(same.body.is_empty() && same.error.is_none());
    }
    let other = servers.view("c1", &[("If-None-Match", "\"1\"")]).await?;
    assert_eq!((other.status, other.body), (200, view.body));

    let bad: &[&[(&str, &str)]] = &[
        &[("If-None-Match", "2")],
        &[("If-None-Match", "\"1\""), ("If-None-Match", "\"2\"")],
        &[("Min-Version", "x")],
        &[("Wait-Ms", "30001")],
        &[("Confirm", "sql")],
    ];
    for headers in bad {
        let refused = servers.view("c1", headers).await?;
        assert_eq!(error(&refused), (400, "bad_header"), "{headers:?}");
    }
    let queries = [
        ("q.t1.view.cart.nobody", (404, "not_found")),
        ("q.t1.view.order.c1", (404, "not_found")),
        ("q.t1.view.user.ada", (400, "bad_subject")),
        ("q.t1.view.basket.c1", (400, "bad_subject")),
        ("q.t1.view.cart.cä", (400, "bad_subject")),
        ("q.t1.outcome.ä", (400, "bad_subject")),
    ];
    for (subject, expected) in queries {
        let refused = servers.request(subject.to_owned(), &[], b"").await?;
        assert_eq!(error(&refused), expected, "{subject}");
    }
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_may_be_waited_for() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;

    let reached = servers.view("c1", &[("Min-Version", "2")]).await?;
    assert_eq!(reached.status, 200);
    let same = servers.view("c1", &[("Min-Version", "2"), ("If-None-Match", "\"2\"")]).await?;
    assert_eq!(same.status, 304);
    for wait in ["0", "50"] {
        let started = Instant::now();
        let early = servers.view("c1", &[("Min-Version", "3"), ("Wait-Ms", wait)]).await?;
        assert_eq!(error(&early), (504, "version_not_reached"));
        assert_eq!(early.json()["version"], 2);
        assert!(started.elapsed() >= Duration::from_millis(wait.parse()?));
    }
    let absent = [("Min-Version", "1"), ("Wait-Ms", "10")];
    assert_eq!(error(&servers.view("c9", &absent).await?), (404, "not_found"));

    // Each waits for the version that its own answer named.
    let fourth = [("Min-Version", "4"), ("Wait-Ms", "30000")];
    let unborn = [("Min-Version", "1"), ("Wait-Ms", "30000")];
    let (change, birth, waited, born) = tokio::join!(
        async {
            waiting(&servers, 2).await;
            servers.add_item("c1", "i2").await?;
            servers.add_item("c1", "i3").await
        },
        async {
            waiting(&servers, 2).await;
            servers.cart("c2").await
        },
        servers.view("c1", &fourth),
        servers.view("c2", &unborn),
    );
    assert_eq!(change?["version"], 4);
    birth?;
    let (waited, born) = (waited?, born?);
    assert_eq!((waited.status, waited.json()["version"].as_u64()), (200, Some(4)));
    assert_eq!(born.status, 200);
    assert_eq!(edge.health.violations(), Vec::<String>::new());

    // A lost push only costs time.
    let operator = servers.operator().await?;
    operator.request("$JS.API.STREAM.DELETE.KV_versions", "".into()).await?;
    let fifth = [("Min-Version", "5"), ("Wait-Ms", "30000")];
    let (changed, waited) = tokio::join!(
        async {
            waiting(&servers, 1).await;
            servers.add_item("c1", "i4").await
        },
        servers.view("c1", &fifth),
    );
    assert_eq!((changed?["version"].as_u64(), waited?.status), (Some(5), 200));
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_answered_byte_for_byte() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let handler = servers.worker(WorkerName::CommandHandler).await?;
    let edge = servers.edge().await?;
    servers.cart("c1").await?;
    assert_eq!(error(&servers.outcome("k1", &[]).await?), (404, "not_decided"));
    let early = servers.outcome("k1", &[("Wait-Ms", "20")]).await?;
    assert_eq!(error(&early), (404, "not_decided"));
    assert_eq!(error(&servers.outcome("k1", &[("Wait-Ms", "")]).await?), (400, "bad_header"));

    let (decided, waited) = tokio::join!(
        async {
            waiting(&servers, 1).await;
            servers.command_as("k1", "c1", "join", json!({"user": "bob"})).await
        },
        servers.outcome("k1", &[("Wait-Ms", "30000")]),
    );
    let (decided, waited) = (decided?, waited?);
    assert_eq!((waited.status, waited.json()), (200, decided));
    let query = "select outcome::text from brigade.command_inbox where command_id = 'k1'";
    let stored: String = sqlx::query_scalar(query).fetch_one(&mut servers.sql().await?).await?;
    assert_eq!(waited.body, stored.as_bytes());
    assert_eq!(servers.outcome("k1", &[]).await?, waited);
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    handler.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_shows_itself_with_its_statistics() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let edges = [servers.edge().await?, servers.edge().await?];
    for _ in 0..20 {
        assert_eq!(servers.view("nobody", &[]).await?.status, 404);
    }
    let operator = servers.operator().await?;
    let ask = async |subject: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&operator.request(subject.to_owned(), "".into()).await?.payload)?)
    };
    let ping: async_nats::service::PingResponse =
        serde_json::from_value(ask("$SRV.PING.edge").await?)?;
    assert_eq!(ping.kind, "io.nats.micro.v1.ping_response");
    let mut counted = [0, 0];
    let mut replies = operator.subscribe("_INBOX.operator.all").await?;
    operator.publish_with_reply("$SRV.STATS", "_INBOX.operator.all", "".into()).await?;
    for _ in &edges {
        let stats = replies.next().await.expect("open");
        let stats: async_nats::service::Stats = serde_json::from_slice(&stats.payload)?;
        assert_eq!(stats.name, "edge");
        let view = stats.endpoints.iter().find(|e| e.name == "view").expect("there");
        assert_eq!((view.subject.as_str(), view.queue_group.as_str()), ("q.*.view.*.*", "edge"));
        counted[0] += view.requests;
        counted[1] += view.errors;
    }
    assert_eq!(counted, [20, 20]);
    let info: async_nats::service::Info = serde_json::from_value(ask("$SRV.INFO.edge").await?)?;
    let names: Vec<_> = info.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let of_users = ["user_validate", "user_state", "user_sessions"];
    let lists = ["active_orders", "products", "tables", "carts", "orders", "ended_orders"];
    let of_money = ["refund_tasks", "unknown_payments", "day_close"];
    let of_locks = ["lock", "lock_history"];
    let all = [&["view", "outcome"][..], &lists, &of_money, &of_locks, &of_users].concat();
    assert_eq!(names, all);
    for edge in edges {
        assert_eq!(edge.health.violations(), Vec::<String>::new());
        edge.stop().await;
    }
    Ok(())
}

/// Returns status and code, which are the same in body and headers.
fn error(answer: &Response) -> (u16, &'static str) {
    let body: QueryError = serde_json::from_slice(&answer.body).expect("an error has a body");
    let headers = (answer.status.to_string(), body.code.to_string());
    assert_eq!(answer.error, Some(headers));
    assert_eq!(body.status, answer.status);
    assert!(!body.message.is_empty());
    (answer.status, body.code.into_owned().leak())
}

async fn waiting(servers: &EdgeFixture, count: i64) {
    until("queries wait", async || servers.edge_metrics().queries_waiting.get() == count).await;
}
