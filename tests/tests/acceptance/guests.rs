//! What customers do over HTTP with carts, tables and payments that are not theirs.

mod names;
mod payments;
mod races;
mod tables;

use brigade_tests::{HttpClient, HttpResponse, Producer, TestFleet};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    prices::{product, wanted},
    users::{dump, is_in_files},
};

/// Starts a fleet with these users, who are customers, and soup at 5.00 EUR.
async fn fleet_with<const N: usize>(names: [&str; N]) -> (TestFleet, Producer, [HttpClient; N]) {
    let fleet = TestFleet::start().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    let users = join_all(names.map(|name| http.register_and_log_in(name))).await;
    producer.done("product.soup.set", product("Soup", 500)).await;
    let users = users.try_into().unwrap_or_else(|_| panic!("as many as there are names"));
    (fleet, producer, users)
}

fn is(response: &HttpResponse, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{}", response.body());
}

async fn done(who: &HttpClient, path: &str, payload: Value) -> Value {
    let response = who.post(path, &payload).await;
    assert!(response.status < 300, "{path}: {}", response.body());
    response.body()["data"].take()
}

async fn forbidden(who: &HttpClient, path: &str, payload: Value) {
    is(&who.post(path, &payload).await, 403, "not_allowed");
}

fn open(kind: &str, owner: &str) -> Value {
    json!({"kind": kind, "owner": owner, "currency": "EUR"})
}

/// Opens a team cart over HTTP, with a soup in it. Returns its secret.
async fn team_cart(owner: &HttpClient, name: &str, cart: &str) -> Value {
    let opened = done(owner, &format!("cart/{cart}/open"), open("team", name)).await;
    done(owner, &format!("cart/{cart}/add_item"), wanted("i0", "soup", 1)).await;
    opened["secret"].clone()
}

fn join(user: &str, secret: &Value) -> Value {
    json!({"user": user, "secret": secret})
}

#[tokio::test]
async fn s7_02_a_team_cart_is_joined_by_a_secret_that_its_owner_was_given() {
    let (fleet, producer, [ada, bob, eve]) = fleet_with(["ada", "bob", "eve"]).await;
    let opened = ada.post_as("k1", "cart/c1/open", &open("team", "ada")).await;
    let secret = opened.body()["data"]["secret"].clone();
    assert_eq!((opened.status, secret.as_str().map(str::len)), (201, Some(43)));
    // A request that is repeated, since its answer was lost, gets the same answer.
    let again = ada.post_as("k1", "cart/c1/open", &open("team", "ada")).await;
    assert_eq!((&again.bytes, again.header("idempotency-replayed")), (&opened.bytes, "true"));
    let of_eve = done(&eve, "cart/c2/open", open("team", "eve")).await["secret"].clone();
    assert_eq!(done(&eve, "cart/c3/open", open("menu", "eve")).await["secret"], Value::Null);

    // The id of a cart is no invitation, and tells nothing about it.
    for wrong in [json!(null), json!("guess"), of_eve.clone()] {
        for cart in ["c1", "c3", "none"] {
            let answer = bob.post(&format!("cart/{cart}/join"), &join("bob", &wrong)).await;
            is(&answer, 403, "wrong_secret");
            assert_eq!(answer.body()["version"], Value::Null);
        }
    }
    is(&bob.post("cart/c1/join", &json!({"user": "bob"})).await, 403, "wrong_secret");
    forbidden(&bob, "cart/c1/join", join("eve", &secret)).await;
    for nobody in ["c1", "none"] {
        forbidden(&bob, &format!("cart/{nobody}/leave"), json!({"user": "bob"})).await;
        forbidden(&bob, &format!("cart/{nobody}/add_item"), wanted("i1", "soup", 1)).await;
    }
    assert_eq!(bob.get("cart/c1", &[]).await.status, 403);

    let joined = bob.post_as("k2", "cart/c1/join", &join("bob", &secret)).await;
    is(&joined, 200, "ok");
    assert_eq!(bob.post_as("k2", "cart/c1/join", &join("bob", &secret)).await.bytes, joined.bytes);
    is(&bob.post("cart/c1/join", &join("bob", &secret)).await, 409, "already_member");
    done(&bob, "cart/c1/add_item", wanted("i1", "soup", 1)).await;

    // A new secret ends the one before.
    forbidden(&bob, "cart/c1/invite", json!({})).await;
    forbidden(&eve, "cart/c1/invite", json!({})).await;
    let invited = ada.post_as("k3", "cart/c1/invite", &json!({})).await;
    let new = invited.body()["data"]["secret"].clone();
    assert!(new.is_string() && new != secret, "{new}");
    is(&eve.post("cart/c1/join", &join("eve", &secret)).await, 403, "wrong_secret");
    done(&eve, "cart/c1/join", join("eve", &new)).await;
    done(&eve, "cart/c1/leave", json!({"user": "eve"})).await;
    // What was answered once is answered so again, whatever came after.
    assert_eq!(ada.post_as("k1", "cart/c1/open", &open("team", "ada")).await.bytes, opened.bytes);
    assert_eq!(ada.post_as("k3", "cart/c1/invite", &json!({})).await.bytes, invited.bytes);
    is(&eve.post("cart/c3/invite", &json!({})).await, 409, "not_a_team_cart");

    // A program is trusted as before; what it opens for a user he invites to.
    assert_eq!(producer.send("cart.c1.join", json!({"user": "cid"})).await.status, 200);
    producer.done("cart.c4.open", open("team", "ada")).await;
    let of_program = done(&ada, "cart/c4/invite", json!({})).await["secret"].clone();
    done(&bob, "cart/c4/join", join("bob", &of_program)).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_a_cart_without_a_secret_is_joined_by_nobody_until_its_owner_invites() {
    let (fleet, _, [ada, bob]) = fleet_with(["ada", "bob"]).await;
    let secret = team_cart(&ada, "ada", "c1").await;
    // As a release before has left it.
    let forget = "update brigade.carts set secret_hash = null";
    sqlx::query(forget).execute(&fleet.sql).await.expect("forgotten");
    is(&bob.post("cart/c1/join", &join("bob", &secret)).await, 403, "wrong_secret");
    is(&bob.post("cart/c1/join", &join("bob", &Value::Null)).await, 403, "wrong_secret");
    let new = done(&ada, "cart/c1/invite", json!({})).await["secret"].clone();
    done(&bob, "cart/c1/join", join("bob", &new)).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_only_the_owner_of_a_cart_ends_it_and_cancels_its_order() {
    let (fleet, _, [ada, bob, eve]) = fleet_with(["ada", "bob", "eve"]).await;
    let secret = team_cart(&ada, "ada", "c1").await;
    done(&bob, "cart/c1/join", join("bob", &secret)).await;
    let lock = json!({"transaction_id": "g", "method": "card"});
    let ends = [
        ("cart/c1/lock", lock.clone()),
        ("cart/c1/abandon", json!({"reason": "r"})),
        ("cart/c1/check_out", json!({"order_id": "o1"})),
    ];
    for (path, payload) in &ends {
        forbidden(&bob, path, payload.clone()).await;
        forbidden(&eve, path, payload.clone()).await;
    }
    let token = done(&ada, "cart/c1/lock", lock).await["token"].clone();
    for who in [&bob, &eve] {
        forbidden(who, "cart/c1/unlock", json!({"token": token, "reason": "r"})).await;
        forbidden(who, "cart/c1/extend", json!({"token": token, "seconds": 60})).await;
        let bind = json!({"token": token, "transaction_id": "g2"});
        forbidden(who, "cart/c1/bind_transaction", bind).await;
    }
    done(&ada, "cart/c1/unlock", json!({"token": token, "reason": "r"})).await;
    done(&bob, "cart/c1/commit_cod", json!({"user": "bob"})).await;
    done(&ada, "cart/c1/check_out", json!({"order_id": "o1"})).await;
    assert_eq!(bob.get("order/o1", &[]).await.status, 200, "he is told what became of it");
    for who in [&bob, &eve] {
        forbidden(who, "order/o1/cancel", json!({"reason": "r"})).await;
    }
    done(&ada, "order/o1/cancel", json!({"reason": "r"})).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_a_session_is_claimed_by_its_secret() {
    let (fleet, producer, [ada, eve]) = fleet_with(["ada", "eve"]).await;
    let of_session = |kind: &str, session: &str| json!({"kind": kind, "owner": session, "session": session, "currency": "EUR"});
    let secret = opened_and_told(&producer, "cart.c1.open", of_session("menu", "s1")).await;
    let secret = secret["session_secret"].clone();
    assert_eq!(secret.as_str().map(str::len), Some(43));
    let team = opened_and_told(&producer, "cart.c2.open", of_session("team", "s1")).await;
    assert_eq!(team["session_secret"], secret, "a session has one");
    let other = opened_and_told(&producer, "cart.c3.open", of_session("menu", "s2")).await;
    let claim = |user: &str, secret: &Value| json!({"user": user, "session_secret": secret});
    let wrong =
        [json!(null), json!("guess"), other["session_secret"].clone(), team["secret"].clone()];
    for wrong in &wrong {
        for cart in ["c1", "c2", "none"] {
            let answer = eve.post(&format!("cart/{cart}/claim"), &claim("eve", wrong)).await;
            is(&answer, 403, "wrong_secret");
        }
    }
    is(&eve.post("cart/c1/claim", &json!({"user": "eve"})).await, 403, "wrong_secret");
    forbidden(&eve, "cart/c1/claim", claim("ada", &secret)).await;
    let claimed = ada.post_as("k1", "cart/c2/claim", &claim("ada", &secret)).await;
    is(&claimed, 200, "ok");
    let again = ada.post_as("k1", "cart/c2/claim", &claim("ada", &secret)).await;
    assert_eq!(again.bytes, claimed.bytes);
    for cart in ["cart/c1", "cart/c2"] {
        assert_eq!(ada.get(cart, &[]).await.body()["core"]["owner"], "ada");
    }
    is(&eve.post("cart/c1/claim", &claim("eve", &secret)).await, 409, "already_claimed");
    is(&ada.post("cart/c1/claim", &json!({"user": "ada"})).await, 200, "ok");
    // A program is trusted as before.
    assert_eq!(producer.send("cart.c3.claim", json!({"user": "eve"})).await.status, 200);
    fleet.finish().await;
}

/// Sends what opens a cart, and asks for its secrets.
pub async fn opened_and_told(producer: &Producer, what: &str, payload: Value) -> Value {
    let (id, payload) = (what.replace('.', "-"), payload.to_string());
    let headers = [("Command-Id", id.as_str()), ("Tell-Secrets", "true")];
    let told = producer.request(&format!("req.t1.{what}"), &headers, payload.as_bytes()).await;
    told.expect("a reply").body()["data"].clone()
}

/// The secrets stand in answers alone.
#[tokio::test]
async fn s7_02_no_secret_of_a_cart_is_stored() {
    let (fleet, producer, [ada, bob]) = fleet_with(["ada", "bob"]).await;
    let first = team_cart(&ada, "ada", "c1").await;
    let second = done(&ada, "cart/c1/invite", json!({})).await["secret"].clone();
    done(&bob, "cart/c1/join", join("bob", &second)).await;
    is(&bob.post("cart/c2/join", &join("bob", &first)).await, 403, "wrong_secret");
    for malformed in [json!({"secret": first, "else": 1}), json!({"secret": [first]})] {
        assert_eq!(bob.post("cart/c1/join", &malformed).await.status, 400);
    }
    let session = json!({"kind": "team", "owner": "s1", "session": "s1", "currency": "EUR"});
    // A program that does not ask is told none, by neither door.
    let quiet = producer.publish("k1", "cart.c3.open", session.clone()).await;
    assert_eq!(producer.send_as("k1", "cart.c3.open", session.clone()).await.body(), quiet);
    let asked = producer.request("q.t1.outcome.k1", &[], b"").await.expect("a reply").body();
    assert_eq!(asked, quiet);
    let headers = [("Command-Id", "k1"), ("Tell-Secrets", "true")];
    let payload = session.to_string();
    let told = producer.request("req.t1.cart.c3.open", &headers, payload.as_bytes()).await;
    let opened = told.expect("a reply").body()["data"].clone();
    let claim = json!({"user": "ada", "session_secret": opened["session_secret"]});
    done(&ada, "cart/c3/claim", claim).await;
    let secrets = [&first, &second, &opened["secret"], &opened["session_secret"]];
    let secrets = secrets.map(|secret| secret.as_str().expect("a secret").to_owned());
    // Nor is one told by what reads the cart, or its outcomes.
    let asked = producer.request("q.t1.outcome.k1", &[], b"").await.expect("a reply").body();
    assert_eq!((&asked["id"], &asked["data"]["secret"]), (&json!("c3"), &Value::Null));
    let view = producer.view("cart.c1", None).await.body().to_string();
    // By the durable door none is sent: what comes there is stored.
    for (what, payload) in [
        ("cart.c1.join", json!({"user": "cid", "secret": "not-one"})),
        ("cart.c1.claim", json!({"user": "cid", "session_secret": "not-one"})),
    ] {
        let refused = producer.publish(&format!("d-{what}").replace('.', "-"), what, payload).await;
        assert_eq!(refused["code"], "secret_on_durable_door", "{refused}");
    }
    fleet.until_idle().await;
    let rows = dump(&fleet).await;
    assert!(rows.contains("member_joined") && view.contains("bob"));
    for secret in secrets {
        assert!(!rows.contains(&secret), "{secret} is in SQL");
        assert!(!view.contains(&secret), "{secret} is in a view");
        assert!(!is_in_files(&fleet.nats_dir(), secret.as_bytes()), "{secret} is in a stream");
    }
    fleet.finish().await;
}
