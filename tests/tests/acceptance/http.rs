//! The HTTP face: what S0 and S2 promise, over real HTTP.

use brigade_tests::{Town, Web};
use serde_json::json;

/// Carts of two members, asked for by whoever is trusted.
async fn town() -> (Town, Web) {
    let mut town = Town::empty().await;
    town.api.open = true;
    town.run_all().await;
    let web = town.web().await;
    (town, web)
}

async fn team_cart(web: &Web, cart: &str) {
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    assert_eq!(web.post(&format!("cart/{cart}/open"), &open).await.status, 201);
    let join = web.post(&format!("cart/{cart}/join"), &json!({"user": "bob"})).await;
    assert_eq!(join.status, 200, "{:?}", join.body());
}

#[tokio::test]
async fn s0_04_a_poll_right_after_the_answer_is_never_304_over_http() {
    let (town, web) = town().await;
    team_cart(&web, "c1").await;
    let before = web.get("cart/c1", &[]).await;
    assert_eq!((before.status, before.etag()), (200, "\"2\""));
    assert_eq!(before.header("cache-control"), "no-cache");
    let same = web.get("cart/c1", &[("If-None-Match", before.etag())]).await;
    assert_eq!((same.status, same.etag(), same.bytes.len()), (304, "\"2\"", 0));
    // Whatever shows the payment to others stands still.
    let _stopped = ["payment-projector.before_show", "outbox-relay.before_publish"]
        .map(|at| town.fail.arm(at));
    let answer = web.post("cart/c1/commit_cod", &json!({"user": "bob"})).await;
    assert_eq!((answer.status, answer.etag()), (200, "\"3\""));
    assert_eq!(answer.header("cache-control"), "no-store");
    let poll = web.get("cart/c1", &[("If-None-Match", before.etag())]).await;
    assert_eq!((poll.status, poll.etag()), (200, answer.etag()), "never 304");
    let bob = poll.body()["payments"]["members"][1].clone();
    assert_eq!((&bob["user"], &bob["committed"]), (&json!("bob"), &json!("cod")));
    assert_eq!(poll.body()["version"], answer.body()["version"]);
    for at in ["payment-projector.before_show", "outbox-relay.before_publish"] {
        town.fail.disarm(at);
    }
    town.finish().await;
}
