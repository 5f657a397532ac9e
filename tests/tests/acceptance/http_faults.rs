//! HTTP while a server is unavailable, or a worker stops or dies.

use std::sync::Arc;

use brigade::{
    infra::Health,
    runtime::http::{ProcessStatus, serve_admin},
};
use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, TestFleet,
    http_client::{PASSWORD, credentials},
    process::Process,
    producer::item,
    until,
};
use serde_json::json;

use super::http::{open_fleet, team_cart};

#[tokio::test]
async fn a_process_says_how_its_workers_are_where_nobody_else_asks() {
    let any = ([127, 0, 0, 1], 0).into();
    for (workers, ready) in [(vec![], "no workers\n"), (vec![WorkerName::OutboxRelay], "starting")]
    {
        let workers = workers.into_iter().map(Health::new).collect();
        let status = ProcessStatus { metrics: Arc::default(), workers };
        let admin = serve_admin(any, status).await.unwrap();
        let admin = HttpClient::new(format!("http://{}", admin.address), "t1");
        assert!(admin.text("/readyz").await.contains(ready));
        assert_eq!(admin.get("cart/c1", &[]).await.status, 404, "no API");
    }
}

#[tokio::test]
async fn nothing_of_the_inner_state_is_told_at_the_address_of_the_api() {
    let (mut fleet, http) = open_fleet().await;
    let admin = http.at(fleet.admin_url().await);
    let paths = ["/livez", "/readyz", "/metrics"];
    for path in paths {
        assert!(http.text(path).await.contains("not_found"), "{path}");
        assert!(!admin.text(path).await.contains("not_found"), "{path}");
    }
    // Nor while edge does not serve.
    fleet.take(WorkerName::Edge).stop().await;
    for path in paths {
        assert!(http.text(path).await.contains("not_found"), "{path}");
    }
    let response = http.get("cart/c1", &[]).await;
    assert_eq!((response.status, response.code().as_str()), (503, "not_ready"));
    assert_eq!(response.header("retry-after"), "1");
    assert!(admin.text("/readyz").await.contains("edge: "));
    fleet.finish().await;
}

#[tokio::test]
async fn an_edge_that_drains_answers_what_it_has_and_takes_no_more() {
    let (mut fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let armed = fleet.fail.arm("edge.after_confirm");
    let asking = tokio::spawn({
        let http = http.clone();
        async move { http.get("cart/c1", &[]).await }
    });
    armed.reached().await;
    let edge = fleet.take(WorkerName::Edge);
    edge.drain();
    let stopping = tokio::spawn(edge.stop());
    until("nobody to serve", || async {
        let response = http.get("cart/c1", &[("Confirm", "guess")]).await;
        (response.code() == "not_ready").then_some(())
    })
    .await;
    let refused = http.post("cart/c1/join", &json!({"user": "eve"})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert!(!stopping.is_finished(), "it has a request in hand");
    fleet.fail.disarm("edge.after_confirm");
    let answered = asking.await.expect("no panic");
    assert_eq!((answered.status, answered.etag()), (200, "\"2\""));
    assert_eq!(answered.header("connection"), "close");
    stopping.await.expect("no panic");
    fleet.run(WorkerName::Edge).await;
    assert_eq!(http.get("cart/c1", &[]).await.status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn a_wait_ends_with_the_drain() {
    let (mut fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { http.get("cart/c1", &[("Min-Version", "9"), ("Prefer", "wait=30")]).await }
    });
    until("a query to wait", || async {
        (fleet.edge_metrics().queries_waiting.get() == 1).then_some(())
    })
    .await;
    fleet.take(WorkerName::Edge).stop().await;
    let waited = waiting.await.expect("no panic");
    assert_eq!((waited.status, waited.body()["version"].as_u64()), (504, Some(2)));
    fleet.finish().await;
}

#[tokio::test]
async fn a_command_that_nobody_decides_is_503_and_decided_once_later() {
    let mut fleet = TestFleet::start_without(WorkerName::CommandHandler).await;
    fleet.stop_one(WorkerName::Edge).await;
    fleet.settings.http.open = true;
    fleet.run(WorkerName::Edge).await;
    let http = fleet.http_client().await;
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    let away = http.post_as("k1", "cart/c1/open", &open).await;
    assert_eq!((away.status, away.code().as_str()), (503, "undecided"), "{}", away.body());
    assert_eq!(away.header("retry-after"), "1");
    // One that is under way when somebody comes back is decided without its sender's help.
    let asking = tokio::spawn({
        let http = http.clone();
        async move { http.post_as("k2", "cart/c1/add_item", &item("i1", 1, 1)).await }
    });
    fleet.run(WorkerName::CommandHandler).await;
    let _either = asking.await.expect("no panic");
    let opened = until("it to be decided", || async {
        let response = http.post_as("k1", "cart/c1/open", &open).await;
        (response.status != 503).then_some(response)
    })
    .await;
    assert_eq!(opened.status, 201);
    assert_eq!(http.post_as("k1", "cart/c1/open", &open).await.bytes, opened.bytes);
    let events = "select count(*) from brigade.events where command_id = 'k1'";
    let events: i64 = sqlx::query_scalar(events).fetch_one(&fleet.sql).await.expect("a number");
    assert_eq!(events, 1);
    fleet.finish().await;
}

#[tokio::test]
async fn a_handler_that_dies_after_its_commit_costs_nothing_but_time() {
    let (mut fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let armed = fleet.fail.arm("command-handler.after_commit");
    let asking = tokio::spawn({
        let http = http.clone();
        async move { http.post_as("k1", "cart/c1/add_item", &item("i1", 1, 1)).await }
    });
    armed.reached().await;
    fleet.take(WorkerName::CommandHandler).kill().await;
    fleet.fail.disarm("command-handler.after_commit");
    fleet.run(WorkerName::CommandHandler).await;
    let first = asking.await.expect("no panic");
    assert!(matches!(first.status, 200 | 503), "{}", first.body());
    let again = http.post_as("k1", "cart/c1/add_item", &item("i1", 1, 1)).await;
    assert_eq!((again.status, again.etag()), (200, "\"3\""));
    assert!(first.status == 503 || first.bytes == again.bytes);
    assert_eq!(http.get("cart/c1", &[]).await.etag(), "\"3\"");
    fleet.finish().await;
}

#[tokio::test]
async fn nothing_is_certain_while_postgres_is_away() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let http = fleet.http_client().await;
    team_cart(&http, "c1").await;
    let ada = http.register_and_log_in("ada").await;
    fleet.until_idle().await;
    fleet.postgres_mut().kill().await;
    let reads = ["cart/c1", "active-orders", "outcomes/k1"];
    for path in reads {
        for http in [&http, &ada] {
            let away = http.get(path, &[]).await;
            assert_eq!((away.status, away.code().as_str()), (503, "unconfirmed"), "{path}");
            assert_eq!(away.header("retry-after"), "1");
        }
    }
    // Nobody is let in by a token that nobody can confirm.
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    let away = ada.post_as("k1", "cart/c2/open", &open).await;
    assert_eq!((away.status, away.code().as_str()), (503, "unconfirmed"));
    let by_kv = http.get("cart/c1", &[("Confirm", "kv")]).await;
    assert_eq!((by_kv.status, by_kv.header("brigade-confirmed-by")), (200, "kv"));
    assert_eq!(ada.get("cart/c1", &[("Confirm", "kv")]).await.code(), "unconfirmed");
    let undecided = http.post_as("k2", "cart/c1/add_item", &item("i1", 1, 1)).await;
    assert_eq!((undecided.status, undecided.code().as_str()), (503, "not_decided"));
    fleet.postgres_mut().restart().await.expect("it starts");
    for (http, key, path, payload) in
        [(&http, "k2", "cart/c1/add_item", item("i1", 1, 1)), (&ada, "k1", "cart/c2/open", open)]
    {
        let decided = until("it to be decided", || async {
            let response = http.post_as(key, path, &payload).await;
            (response.status != 503).then_some(response)
        })
        .await;
        assert!(matches!(decided.status, 200 | 201), "{}", decided.body());
    }
    assert_eq!(http.get("cart/c1", &[]).await.etag(), "\"3\"");
    fleet.finish().await;
}

#[tokio::test]
async fn i18_no_secret_of_http_is_in_a_log_or_a_metric() {
    let mut fleet = TestFleet::empty().await;
    for worker in WorkerName::ALL.into_iter().filter(|worker| *worker != WorkerName::Edge) {
        fleet.run(worker).await;
    }
    let process = Process::start(&fleet, &[WorkerName::Edge], None).await;
    let http = HttpClient::new(process.http(), "t1");
    let ada = http.register_and_log_in("ada").await;
    let wrong = "Tr0ub4dor-and-3";
    let login = json!({"email": "ada@example.org", "password": wrong});
    assert_eq!(http.post("user/ada/login", &login).await.status, 401);
    let malformed = json!({"email": "ada@example.org", "password": {"password": PASSWORD}});
    assert_eq!(http.post("user/ada/login", &malformed).await.status, 400);
    assert_eq!(ada.get("user/ada", &[]).await.status, 200);
    assert_eq!(ada.get("user/bob", &[]).await.status, 403);
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    let again = http.post("user/ada/login", &credentials("ada")).await;
    assert_eq!(ada.get("user/ada", &[("X-Request-Id", "r-of-ada")]).await.status, 401);
    fleet.until_idle().await;
    let (log, metrics) = (process.log(), http.at(process.admin()).text("/metrics").await);
    assert!(log.contains("r-of-ada") && metrics.contains("brigade_http_requests_total"));
    let data = &again.body()["data"];
    let tokens = [data["access_token"].as_str(), data["refresh_token"].as_str()];
    let tokens = tokens.map(|token| token.expect("a token").to_owned());
    let tokens = tokens.into_iter().chain(ada.token);
    let secrets = tokens.map(|token| token.split_once('.').expect("a dot").1.to_owned());
    for secret in secrets.chain([PASSWORD.to_owned(), wrong.to_owned()]) {
        assert!(!log.contains(&secret), "{secret} is in the log");
        assert!(!metrics.contains(&secret), "{secret} is in the metrics");
    }
    fleet.finish().await;
}
