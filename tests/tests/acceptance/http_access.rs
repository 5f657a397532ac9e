//! Authorisation over HTTP: tokens, roles and owners.

use brigade_tests::{HttpClient, HttpResponse, TestFleet, http_client::credentials};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    guests::opened_and_told,
    http::team_cart,
    prices::{product, wanted, with_roles},
};

async fn fleet() -> (TestFleet, HttpClient) {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    (fleet, http)
}

fn is(response: &HttpResponse, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{}", response.body());
}

#[tokio::test]
async fn a_request_shows_the_token_of_a_session_that_goes_on() {
    let (fleet, http) = fleet().await;
    let ada = http.register_and_log_in("ada").await;
    assert_eq!(ada.get("user/ada", &[]).await.body()["auth"]["user"], "ada");
    let right = ada.token.clone().expect("a token");
    let shown = [
        None,
        Some(String::new()),
        Some(right.clone()),
        Some("Bearer".to_owned()),
        Some(format!("Basic {right}")),
        Some("Bearer nonsense".to_owned()),
        Some(format!("Bearer ada.{}", "A".repeat(43))),
        Some(format!("Bearer nobody.{}", "A".repeat(43))),
        Some(format!("Bearer {}", right.replace("ada.", "bob."))),
        Some(format!("Bearer {right}x")),
        Some(format!("Bearer {}", "x".repeat(2000))),
    ];
    for authorization in shown {
        refused_everywhere(&http, authorization.as_deref()).await;
    }
    // Another restaurant knows no such user, and no such session.
    refused_everywhere(&http.of("t2"), Some(&format!("Bearer {right}"))).await;

    // A token that was rotated away, one that has expired, one of a session that has ended.
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    refused_everywhere(&http, Some(&format!("Bearer {right}"))).await;
    let login = http.post("user/ada/login", &credentials("ada")).await.body();
    let token = |name: &str| login["data"][name].as_str().expect("a token").to_owned();
    let ada = http.with_token(&token("access_token"));
    let refresh = json!({"refresh_token": token("refresh_token")});
    // An old token that a program shows by habit keeps it from nothing.
    let rotated = http.with_token("nonsense").post("user/ada/refresh", &refresh).await;
    assert_eq!((rotated.status, rotated.header("cache-control")), (200, "no-store"));
    refused_everywhere(&http, Some(&format!("Bearer {}", token("access_token")))).await;
    let ada = ada.with_token(rotated.body()["data"]["access_token"].as_str().expect("a token"));
    assert_eq!(ada.get("user/ada", &[]).await.status, 200);
    let move_expiry = async |by: &str| {
        let moved = format!(
            "update brigade.users set access_expires_at = access_expires_at + interval '{by}'"
        );
        sqlx::query(sqlx::AssertSqlSafe(moved)).execute(&fleet.sql).await.expect("moved");
    };
    move_expiry("-30 days").await;
    let expired = format!("Bearer {}", ada.token.clone().expect("a token"));
    refused_everywhere(&http, Some(&expired)).await;
    move_expiry("30 days").await;
    assert_eq!(ada.get("user/ada", &[]).await.status, 200);
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    refused_everywhere(&http, Some(&expired)).await;
    fleet.finish().await;
}

async fn refused_everywhere(http: &HttpClient, authorization: Option<&str>) {
    let requests = [
        (Method::GET, "cart/c1"),
        (Method::GET, "user/ada"),
        (Method::GET, "active-orders"),
        (Method::GET, "outcomes/k1"),
        (Method::POST, "cart/c9/open"),
        (Method::POST, "user/ada/logout"),
        (Method::POST, "cart/c9/expire_lock"),
    ];
    for (method, path) in requests {
        let request = http.request(method, path).header("Command-Id", "k1").body("{}");
        let request = match authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        };
        let response = http.send(request).await;
        assert_eq!(response.status, 401, "{path} {authorization:?}: {}", response.body());
        assert!(response.header("www-authenticate").starts_with("Bearer"), "{path}");
        assert_eq!(response.header("cache-control"), "no-store", "{path}");
    }
}

/// Returns whether a customer, staff and a manager may do this to somebody else's aggregate.
const COMMANDS: &[(&str, &[&str], [bool; 3])] = &[
    // Of those it is found out where they are decided whether they are the customer's.
    ("cart/c9", &["open", "join", "leave", "claim"], [true, true, true]),
    (
        "cart/c9",
        &[
            "add_item",
            "set_item",
            "remove_item",
            "commit_cod",
            "invite",
            "lock",
            "bind_transaction",
            "extend",
            "unlock",
            "check_out",
            "abandon",
        ],
        [false, true, true],
    ),
    ("payment/p9", &["bind_transaction", "cancel"], [false, true, true]),
    ("payment/p9", &["confirm_cash"], [false, true, true]),
    ("payment/p9", &["record_result"], [false, false, false]),
    ("payment/p9", &["refund", "settle"], [false, false, true]),
    (
        "order/o9",
        &["place", "accept", "prepare", "ready", "serve", "complete", "cancel"],
        [false, true, true],
    ),
    ("table/tb9", &["register", "open_turn", "close_turn", "set_status"], [false, true, true]),
    ("product/soup", &["set", "withdraw"], [false, false, true]),
    ("user/zoe", &["register", "login", "refresh"], [true, true, true]),
    ("user/zoe", &["request_password_reset", "reset_password"], [true, true, true]),
    (
        "user/zoe",
        &[
            "change_password",
            "change_email",
            "update_profile",
            "register_subscription",
            "cancel_subscription",
        ],
        [false, false, false],
    ),
    ("user/zoe", &["suspend", "resume"], [false, false, true]),
    ("user/zoe", &["logout", "end_session", "erase"], [false, false, true]),
    ("user/zoe", &["change_roles", "activate_subscription"], [false, false, true]),
    ("cart/c9", &["expire_lock", "rebuild_cache"], [false, false, false]),
    ("payment/p9", &["rebuild_cache"], [false, false, false]),
    ("product/soup", &["rebuild_cache"], [false, false, false]),
    ("order/o9", &["rebuild_cache"], [false, false, false]),
    ("table/tb9", &["reconcile", "rebuild_cache"], [false, false, false]),
    ("user/zoe", &["rebuild_cache"], [false, false, false]),
];

/// The status for a customer, staff and a manager.
const READS: &[(&str, [u16; 3])] = &[
    ("cart/c9", [403, 200, 200]),
    ("order/o9", [403, 200, 200]),
    ("payment/p9", [403, 200, 200]),
    ("table/tb9", [403, 200, 200]),
    ("user/zoe", [403, 403, 200]),
    ("product/soup", [200, 200, 200]),
    ("product/none", [404, 404, 404]),
    ("products", [200, 200, 200]),
    ("user/zoe/sessions", [403, 403, 200]),
    ("active-orders", [403, 200, 200]),
    ("day-close", [403, 403, 200]),
    ("tables", [403, 200, 200]),
    ("ended-orders", [403, 200, 200]),
    ("refund-tasks", [403, 403, 200]),
    ("unknown-payments", [403, 403, 200]),
    ("me/carts", [200, 200, 200]),
    ("me/orders", [200, 200, 200]),
    ("locks/zoe", [403, 200, 200]),
    ("locks/zoe/history", [403, 200, 200]),
    // What is not there looks like what is another's.
    ("cart/none", [403, 404, 404]),
    ("order/none", [403, 404, 404]),
    ("payment/none", [403, 404, 404]),
    ("table/none", [403, 404, 404]),
    ("user/none", [403, 403, 404]),
    ("outcomes/of-zoe", [404, 404, 404]),
    ("outcomes/none", [404, 404, 404]),
];

#[tokio::test]
async fn each_role_may_do_what_it_is_for_with_what_is_anothers() {
    let (fleet, http) = fleet().await;
    let producer = fleet.producer().await;
    let zoe = http.register_and_log_in("zoe").await;
    let open = json!({"kind": "menu", "owner": "zoe", "currency": "EUR"});
    assert_eq!(zoe.post_as("of-zoe", "cart/c9/open", &open).await.status, 201);
    assert_eq!(producer.send("product.soup.set", product("Soup", 500)).await.status, 201);
    assert_eq!(zoe.post("cart/c9/add_item", &wanted("i1", "soup", 1)).await.status, 200);
    let pay = json!({"target": {"cart": "c9"}, "method": "card"});
    assert_eq!(zoe.post("payment/p9/initiate", &pay).await.status, 201);
    let order = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    assert_eq!(producer.send("order.o9.place", order).await.status, 201);
    let table = json!({"label": "9", "seats": 4});
    assert_eq!(producer.send("table.tb9.register", table).await.status, 201);
    let roles = [
        with_roles(&fleet, &http, "cus", &["customer"]).await,
        with_roles(&fleet, &http, "sta", &["customer", "staff", "sommelier"]).await,
        with_roles(&fleet, &http, "man", &["manager"]).await,
    ];
    // Nobody takes this payload, so nothing changes: the answer tells how far the command came.
    let nonsense = json!({"nonsense": true});
    for (path, verbs, allowed) in COMMANDS {
        for verb in *verbs {
            for (http, allowed) in roles.iter().zip(allowed) {
                let response = http.post(&format!("{path}/{verb}"), &nonsense).await;
                let expected = if *allowed { 400 } else { 403 };
                assert_eq!(response.status, expected, "{path}/{verb}: {}", response.body());
            }
        }
    }
    let forced = json!({"force": true, "nonsense": true});
    for (http, expected) in roles.iter().zip([403, 403, 400]) {
        assert_eq!(http.post("table/tb9/set_status", &forced).await.status, expected);
    }
    for (http, expected) in roles.iter().zip([403, 409, 409]) {
        // What is due is open already.
        let pay = json!({"target": {"cart": "c9"}, "method": "cash"});
        assert_eq!(http.post("payment/p10/initiate", &pay).await.status, expected);
    }
    // Nothing is hidden where a role is all that lacks.
    let (message, [customer, staff, _]) =
        (|response: HttpResponse| response.body()["message"].clone(), &roles);
    let needs = |role: &str| json!(format!("this needs the role {role}"));
    assert_eq!(message(customer.get("active-orders", &[]).await), needs("staff"));
    assert_eq!(message(customer.get("table/tb9", &[]).await), needs("staff"));
    assert_eq!(message(customer.post("order/o9/accept", &nonsense).await), needs("staff"));
    assert_eq!(message(staff.post("payment/p9/refund", &nonsense).await), needs("manager"));
    assert_eq!(message(staff.post("payment/p9/record_result", &nonsense).await), needs("gateway"));
    assert_eq!(message(staff.post("table/tb9/set_status", &forced).await), needs("manager"));
    for cart in ["c9", "none"] {
        let hidden = "this is not there, or not for the user of this token";
        assert_eq!(message(customer.get(&format!("cart/{cart}"), &[]).await), hidden);
    }
    for (path, expected) in READS {
        for (http, expected) in roles.iter().zip(expected) {
            let response = http.get(path, &[]).await;
            assert_eq!(response.status, *expected, "{path}: {}", response.body());
        }
    }
    assert_eq!(zoe.get("outcomes/of-zoe", &[]).await.body()["command_id"], "of-zoe");
    fleet.finish().await;
}

#[tokio::test]
async fn a_customer_does_everything_with_what_is_his_own_and_for_himself() {
    let (fleet, http) = fleet().await;
    let [ada, bob, eve] = [
        http.register_and_log_in("ada").await,
        http.register_and_log_in("bob").await,
        http.register_and_log_in("eve").await,
    ];
    let forbidden = async |who: &HttpClient, path: &str, payload: Value| {
        is(&who.post(path, &payload).await, 403, "not_allowed");
    };
    let done = async |who: &HttpClient, path: &str, payload: Value| {
        let response = who.post(path, &payload).await;
        assert!(response.status == 200 || response.status == 201, "{path}: {}", response.body());
        response.body()
    };
    let open = |owner: &str| json!({"kind": "team", "owner": owner, "currency": "EUR"});
    forbidden(&ada, "cart/c1/open", open("bob")).await;
    let secret = done(&ada, "cart/c1/open", open("ada")).await["data"]["secret"].clone();
    forbidden(&eve, "cart/c1/join", json!({"user": "bob"})).await;
    let producer = fleet.producer().await;
    for (sku, price) in [("soup", 500), ("stew", 700)] {
        let set = producer.send(&format!("product.{sku}.set"), product(sku, price)).await;
        assert_eq!(set.status, 201);
    }
    forbidden(&bob, "cart/c1/add_item", wanted("i1", "soup", 1)).await;
    done(&bob, "cart/c1/join", json!({"user": "bob", "secret": secret})).await;
    done(&bob, "cart/c1/add_item", wanted("i1", "soup", 1)).await;
    let mut for_whom = wanted("i2", "stew", 1);
    for_whom["user"] = "ada".into();
    forbidden(&bob, "cart/c1/add_item", for_whom.clone()).await;
    done(&ada, "cart/c1/add_item", for_whom).await;
    forbidden(&bob, "cart/c1/commit_cod", json!({"user": "ada"})).await;
    for (who, status) in [(&ada, 200), (&bob, 200), (&eve, 403)] {
        assert_eq!(who.get("cart/c1", &[]).await.status, status);
    }
    // Whoever sends is who the token says, whatever the sender says.
    let lock = json!({"transaction_id": "tx1", "method": "card"});
    let request = ada.request(Method::POST, "cart/c1/lock").header("Command-Id", "k1");
    let locked = ada.send(request.header("Actor", "eve").json(&lock)).await;
    assert_eq!(locked.status, 200);
    let actor = "select actor from brigade.cart_lock_history where action = 'acquired'";
    let actor: String = sqlx::query_scalar(actor).fetch_one(&fleet.sql).await.expect("a row");
    assert_eq!(actor, "ada");
    assert_eq!(ada.get("outcomes/k1", &[]).await.body()["command_id"], "k1");
    is(&eve.get("outcomes/k1", &[]).await, 404, "not_decided");
    let token = locked.body()["data"]["token"].clone();
    done(&ada, "cart/c1/unlock", json!({"token": token, "reason": "later"})).await;

    let pay = |user: &str| json!({"target": {"cart": "c1"}, "method": "cash", "user": user});
    forbidden(&eve, "payment/p1/initiate", pay("eve")).await;
    forbidden(&eve, "payment/p1/initiate", json!({"target": {"cart": "none"}, "method": "card"}))
        .await;
    forbidden(&bob, "payment/p1/initiate", pay("ada")).await;
    done(&bob, "payment/p1/initiate", pay("bob")).await;
    for (who, status) in [(&ada, 200), (&bob, 200), (&eve, 403)] {
        assert_eq!(who.get("payment/p1", &[]).await.status, status);
    }
    // Nobody says of himself that he has paid.
    let cash = json!({"amount": 1200, "currency": "EUR"});
    let captured = json!({"result": "captured", "transaction_id": "tx1", "amount": 1200,
                          "currency": "EUR", "occurred_at": "2026-01-02T03:04:05Z"});
    forbidden(&bob, "payment/p1/confirm_cash", cash.clone()).await;
    forbidden(&bob, "payment/p1/record_result", captured).await;
    let staff = with_roles(&fleet, &http, "sta", &["staff"]).await;
    done(&staff, "payment/p1/confirm_cash", cash).await;
    forbidden(&staff, "payment/p1/refund", json!({"reason": "cold"})).await;
    forbidden(&eve, "cart/c1/check_out", json!({"order_id": "o1"})).await;
    done(&ada, "cart/c1/check_out", json!({"order_id": "o1"})).await;
    for (who, status) in [(&ada, 200), (&bob, 200), (&eve, 403), (&staff, 200)] {
        assert_eq!(who.get("order/o1", &[]).await.status, status);
    }
    forbidden(&ada, "order/o1/accept", json!({})).await;
    forbidden(&eve, "order/o1/cancel", json!({"reason": "mean"})).await;
    forbidden(&bob, "order/o1/cancel", json!({"reason": "changed"})).await;
    is(&ada.post("order/o1/cancel", &json!({"reason": "changed"})).await, 409, "order_paid");

    // What is a user's own is his own alone.
    done(&ada, "user/ada/update_profile", json!({"profile_id": "p2"})).await;
    forbidden(&eve, "user/ada/update_profile", json!({"profile_id": "p3"})).await;
    forbidden(&ada, "user/ada/change_roles", json!({"roles": ["manager"]})).await;
    let until = json!({"subscription_id": "s1"});
    done(&ada, "user/ada/register_subscription", until.clone()).await;
    forbidden(&ada, "user/ada/activate_subscription", until).await;
    fleet.finish().await;
}

#[tokio::test]
async fn failed_logins_are_counted_by_the_address_that_they_come_from() {
    let (fleet, http) = fleet().await;
    http.register_and_log_in("ada").await;
    // Each names another source; only the connection is the same.
    let wrong = json!({"email": "ada@example.org", "password": "wrong"});
    for n in 0..5 {
        let request = http.request(Method::POST, "user/ada/login");
        let request = request.header("Command-Id", format!("k{n}"));
        let request = request.header("Source", format!("192.0.2.{n}"));
        let response = http.send(request.json(&wrong)).await;
        assert_eq!(response.status, 401, "{}", response.body());
    }
    let refused = http.post("user/ada/login", &wrong).await;
    assert_eq!(refused.status, 429, "{}", refused.body());
    let millis = refused.body()["retry_after_ms"].as_u64().expect("a time");
    assert_eq!(refused.header("retry-after"), millis.div_ceil(1000).to_string());
    fleet.finish().await;
}

#[tokio::test]
async fn a_cart_of_a_session_comes_to_http_by_a_claim() {
    let (fleet, http) = fleet().await;
    let [ada, eve] = [http.register_and_log_in("ada").await, http.register_and_log_in("eve").await];
    // A session that has the name of a user is not that user.
    let producer = fleet.producer().await;
    let mut secrets = Vec::new();
    for (cart, session) in [("c1", "s1"), ("c2", "eve")] {
        let open = json!({"kind": "menu", "owner": session, "session": session, "currency": "EUR"});
        let opened = opened_and_told(&producer, &format!("cart.{cart}.open"), open).await;
        secrets.push(opened["session_secret"].clone());
    }
    for (who, cart) in [(&ada, "c1"), (&eve, "c1"), (&eve, "c2")] {
        is(&who.get(&format!("cart/{cart}"), &[]).await, 403, "not_allowed");
    }
    is(&eve.post("cart/c1/claim", &json!({"user": "ada"})).await, 403, "not_allowed");
    is(&eve.post("cart/none/claim", &json!({"user": "eve"})).await, 403, "wrong_secret");
    is(&eve.post("cart/c2/claim", &json!({"user": "eve"})).await, 403, "wrong_secret");
    let claim = json!({"user": "ada", "session_secret": secrets[0]});
    let claimed = ada.post_as("k1", "cart/c1/claim", &claim).await;
    assert_eq!(claimed.status, 200);
    assert_eq!(ada.post_as("k1", "cart/c1/claim", &claim).await.bytes, claimed.bytes);
    assert_eq!(ada.get("cart/c1", &[]).await.body()["core"]["owner"], "ada");
    is(&eve.post("cart/c1/claim", &json!({"user": "eve"})).await, 403, "wrong_secret");
    fleet.finish().await;
}

#[tokio::test]
async fn open_http_trusts_requests_without_a_token_to_this_host() {
    let (fleet, http) = super::http::open_fleet().await;
    team_cart(&http, "c1").await;
    let actors: i64 = sqlx::query_scalar("select count(actor) from brigade.command_inbox")
        .fetch_one(&fleet.sql)
        .await
        .expect("a number");
    assert_eq!(actors, 0, "a producer's commands have no actor");
    is(&http.post("cart/c1/expire_lock", &json!({"token": 1})).await, 403, "not_allowed");
    // A token is honoured where it is shown.
    is(&http.with_token("nonsense").get("cart/c1", &[]).await, 401, "invalid_token");
    let eve = http.register_and_log_in("eve").await;
    is(&eve.get("cart/c1", &[]).await, 403, "not_allowed");
    // A page that has its own name resolved to this machine is not trusted.
    let foreign = http.request(Method::GET, "cart/c1").header("Host", "evil.example");
    is(&http.send(foreign).await, 401, "missing_token");
    fleet.finish().await;
}
