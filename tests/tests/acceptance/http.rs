//! The HTTP face: what S0 and S2 promise, over real HTTP.

use brigade_tests::{Producer, Town, Web, producer::item};
use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};

/// A town whose HTTP trusts whoever asks.
pub async fn open_town() -> (Town, Web) {
    let mut town = Town::empty().await;
    town.settings.http.open = true;
    town.run_all().await;
    let web = town.web().await;
    (town, web)
}

/// A cart of ada's with bob in it, at version 2.
pub async fn team_cart(web: &Web, cart: &str) {
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    let opened = web.post(&format!("cart/{cart}/open"), &open).await;
    assert_eq!(opened.status, 201, "{:?}", opened.body());
    let joined = web.post(&format!("cart/{cart}/join"), &json!({"user": "bob"})).await;
    assert_eq!(joined.status, 200, "{:?}", joined.body());
}

#[tokio::test]
async fn s0_04_a_poll_right_after_the_answer_is_never_304_over_http() {
    let (town, web) = open_town().await;
    team_cart(&web, "c1").await;
    let before = web.get("cart/c1", &[]).await;
    assert_eq!((before.status, before.etag()), (200, "\"2\""));
    assert_eq!(before.header("cache-control"), "no-cache");
    assert_eq!(before.header("vary"), "Authorization");
    let same = web.get("cart/c1", &[("If-None-Match", before.etag())]).await;
    assert_eq!((same.status, same.etag(), same.bytes.len()), (304, "\"2\"", 0));
    // Whatever shows the payment to others stands still.
    let stopped = ["payment-projector.before_projection", "outbox-relay.before_publish"];
    let _armed = stopped.map(|at| town.fail.arm(at));
    let answer = web.post("cart/c1/commit_cod", &json!({"user": "bob"})).await;
    assert_eq!((answer.status, answer.etag()), (200, "\"3\""));
    assert_eq!(answer.header("cache-control"), "no-store");
    let poll = web.get("cart/c1", &[("If-None-Match", before.etag())]).await;
    assert_eq!((poll.status, poll.etag()), (200, answer.etag()), "never 304");
    let bob = poll.body()["payments"]["members"][1].clone();
    assert_eq!((&bob["user"], &bob["committed"]), (&json!("bob"), &json!("cod")));
    assert_eq!(poll.body()["version"], answer.body()["version"]);
    stopped.iter().for_each(|at| town.fail.disarm(at));
    assert_eq!(town.metrics.stale_304.get(), 0);
    town.finish().await;
}

#[tokio::test]
async fn s0_05_a_version_is_waited_for_over_http() {
    let (town, web) = open_town().await;
    team_cart(&web, "c1").await;
    let early = web.get("cart/c1", &[("Min-Version", "3")]).await;
    assert_eq!((early.status, early.code().as_str()), (504, "version_not_reached"));
    assert_eq!(early.body()["version"], 2);
    assert_eq!(early.header("content-type"), "application/problem+json");
    let wait = |version: u64| {
        let web = web.clone();
        async move {
            let version = version.to_string();
            let headers = [("Min-Version", version.as_str()), ("Prefer", "wait=30")];
            web.get("cart/c1", &headers).await
        }
    };
    // Two members commit at once: each waits for what its own answer said.
    let commit = async |user: &str| {
        let answer = web.post("cart/c1/commit_cod", &json!({"user": user})).await;
        let version = answer.body()["version"].as_u64().expect("a version");
        let view = wait(version).await;
        assert_eq!(view.status, 200);
        assert!(view.body()["version"].as_u64() >= Some(version));
        let members = view.body()["payments"]["members"].clone();
        let own = members.as_array().expect("members").iter().find(|m| m["user"] == user).cloned();
        assert_eq!(own.expect("a member")["committed"], "cod");
    };
    let waiting = tokio::spawn(wait(4));
    tokio::join!(commit("ada"), commit("bob"));
    let waited = waiting.await.expect("no panic");
    assert_eq!((waited.status, waited.etag()), (200, "\"4\""));
    assert_eq!(waited.header("preference-applied"), "wait=30");
    town.finish().await;
}

#[tokio::test]
async fn s0_06_a_fetch_over_http_on_a_push_is_fresh() {
    let (town, web) = open_town().await;
    let watcher = Producer::new(town.connect("t1-watcher").await, "t1");
    let mut pushes = watcher.client.subscribe("live.views.t1.>").await.unwrap();
    watcher.client.flush().await.unwrap();
    team_cart(&web, "c1").await;
    web.post("cart/c1/commit_cod", &json!({"user": "bob"})).await;
    loop {
        let push = pushes.next().await.expect("open");
        let part = push.subject.rsplit('.').next().expect("a part").to_owned();
        let pushed: Value = serde_json::from_slice(&push.payload).expect("JSON");
        let version = pushed["version"].as_u64().expect("a version");
        let view = web.get("cart/c1", &[]).await.body();
        assert!(view[&part]["version"].as_u64() >= Some(version), "{part} {version}: {view}");
        if (part.as_str(), version) == ("payments", 3) {
            break;
        }
    }
    town.finish().await;
}

#[tokio::test]
async fn s2_03_a_locked_cart_is_423_over_http() {
    let (town, web) = open_town().await;
    team_cart(&web, "c1").await;
    assert_eq!(web.post("cart/c1/add_item", &item("i1", 500, 2)).await.status, 200);
    let lock = json!({"transaction_id": "tx-of-ada", "method": "card"});
    assert_eq!(web.post("cart/c1/lock", &lock).await.status, 200);
    let before = web.get("cart/c1", &[]).await;
    let refused = web.post_as("k1", "cart/c1/add_item", &item("i2", 1, 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (423, "cart_locked"));
    let body = refused.body();
    let millis = body["retry_after_ms"].as_u64().expect("a time");
    assert_eq!(refused.header("retry-after"), millis.div_ceil(1000).to_string());
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let message = body["message"].as_str().expect("a message");
    assert!(message.contains("being paid"), "{message}");
    assert_eq!((&body["detail"], &body["status"]), (&json!(message), &json!(423)));
    assert_eq!((&body["command_id"], &body["id"]), (&json!("k1"), &json!("c1")));
    for member in ["type", "title", "instance", "version", "effects", "data", "etag"] {
        assert!(body.get(member).is_some(), "{member}");
    }
    assert!(!refused.body().to_string().contains("tx-of-ada"), "{body}");
    let after = web.get("cart/c1", &[]).await;
    assert_eq!(after.bytes, before.bytes, "nothing changed");
    town.finish().await;
}

#[tokio::test]
async fn a_command_under_one_key_has_one_effect_and_one_answer() {
    let (town, web) = open_town().await;
    team_cart(&web, "c1").await;
    let add = item("i1", 100, 1);
    let all = (0..20).map(|_| web.post_as("k1", "cart/c1/add_item", &add));
    let answers = join_all(all).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.bytes == answers[0].bytes));
    assert_eq!(answers[0].etag(), "\"3\"");
    assert_eq!(web.get("cart/c1", &[]).await.etag(), "\"3\"");
    // The other name of the key, and one with the quotation marks of a structured header.
    for (name, key) in [("Command-Id", "k1"), ("Idempotency-Key", "\"k1\"")] {
        let request = web.request(reqwest::Method::POST, "cart/c1/add_item").header(name, key);
        assert_eq!(web.send(request.json(&add)).await.bytes, answers[0].bytes, "{name}: {key}");
    }
    let outcome = web.get("outcomes/k1", &[]).await;
    assert_eq!((outcome.status, &outcome.bytes), (200, &answers[0].bytes));
    assert_eq!(outcome.header("cache-control"), "no-store");
    let other = web.post_as("k1", "cart/c1/add_item", &item("i2", 1, 1)).await;
    assert_eq!((other.status, other.code().as_str()), (409, "command_id_reused"));
    // What is refused once is refused again, though it would be possible by now.
    let set = json!({"item_id": "i3", "quantity": 2});
    let early = web.post_as("k2", "cart/c1/set_item", &set).await;
    assert_eq!(early.status, 404);
    assert_eq!(web.post("cart/c1/add_item", &item("i3", 1, 1)).await.status, 200);
    let again = web.post_as("k2", "cart/c1/set_item", &set).await;
    let (mut again, mut early) = (again.body(), early.body());
    assert_ne!(again["instance"], early["instance"], "each is a request of its own");
    (again["instance"], early["instance"]) = (Value::Null, Value::Null);
    assert_eq!(again, early);
    town.finish().await;
}

#[tokio::test]
async fn lists_are_revalidated_and_resumed_over_http() {
    let (town, web) = open_town().await;
    let place = |id: &str| {
        let (web, path) = (web.clone(), format!("order/{id}/place"));
        async move { web.post(&path, &brigade_tests::producer::placed(&[("Soup", 500, 1)])).await }
    };
    assert_eq!(place("o1").await.status, 201);
    let first = web.get("active-orders", &[]).await;
    assert_eq!((first.status, first.header("cache-control")), (200, "no-cache"));
    assert_eq!(first.body()["rows"][0]["order"], "o1");
    let same = web.get("active-orders", &[("If-None-Match", first.etag())]).await;
    assert_eq!((same.status, same.etag()), (304, first.etag()));
    assert_eq!(place("o2").await.status, 201);
    let position = first.body()["resume"].as_str().expect("a position").to_owned();
    let since = web.get("active-orders", &[("Resume", &position)]).await;
    let changed: Vec<_> = since.body()["changes"].as_array().expect("changes").clone();
    let changed: Vec<_> = changed.iter().map(|row| row["order"].as_str().unwrap()).collect();
    // The first one is told again where a transaction of another database is as old as it.
    assert!(changed == ["o2"] || changed == ["o2", "o1"] || changed == ["o1", "o2"], "{changed:?}");
    let reset = web.get("active-orders", &[("Resume", "of nobody")]).await.body();
    assert_eq!((&reset["reset"], reset["rows"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    town.finish().await;
}
