//! S7: people with several devices.

use brigade_tests::{
    HttpClient, HttpResponse, TestFleet,
    http_client::{PASSWORD, credentials},
};
use reqwest::Method;
use serde_json::{Value, json};

/// Logs a user in under a name of the session; returns the client and the refresh token.
async fn log_in(http: &HttpClient, user: &str, name: &str) -> (HttpClient, String) {
    let mut payload = credentials(user);
    payload["session_name"] = name.into();
    let begun = http.post(&format!("user/{user}/login"), &payload).await.body();
    let token = |name: &str| begun["data"][name].as_str().expect("a token").to_owned();
    (http.with_token(&token("access_token")), token("refresh_token"))
}

async fn sessions(http: &HttpClient, user: &str) -> Vec<Value> {
    let listed = http.get(&format!("user/{user}/sessions"), &[]).await;
    assert_eq!(listed.status, 200, "{}", listed.body());
    listed.body()["sessions"].as_array().expect("a list").clone()
}

async fn is_in(http: &HttpClient, user: &str) -> bool {
    match http.get(&format!("user/{user}"), &[]).await.status {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn s7_03_several_sessions_have_names_and_are_listed_and_ended_one_by_one() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    http.register_and_log_in("ada").await;
    let (phone, _) = log_in(&http, "ada", "phone").await;
    let (tablet, refresh) = log_in(&http, "ada", "tablet").await;
    assert!(is_in(&phone, "ada").await && is_in(&tablet, "ada").await);
    let listed = sessions(&phone, "ada").await;
    let names: Vec<_> = listed.iter().map(|session| session["name"].clone()).collect();
    assert_eq!(names, [json!("tablet"), json!("phone"), Value::Null]);
    // The same over NATS, and nothing in it that could be used.
    let producer = fleet.producer().await;
    let asked = producer.request("q.t1.user.ada.sessions", &[], b"").await.expect("an answer");
    assert_eq!(asked.body()["sessions"], Value::from(listed.clone()));
    let none = producer.request("q.t1.user.bob.sessions", &[], b"").await.expect("an answer");
    assert_eq!((none.status, none.code().as_str()), (404, "not_found"));
    let hashes: Value = sqlx::query_scalar("select sessions from brigade.users")
        .fetch_one(&fleet.sql)
        .await
        .expect("sessions");
    for session in hashes.as_array().expect("a list") {
        for hash in ["hash", "access_hash", "refresh_hash"] {
            let hash = session[hash].as_str().expect("a hash");
            assert!(!Value::from(listed.clone()).to_string().contains(hash));
        }
    }
    // A lost device is thrown out by the other one; the rest goes on.
    let lost = json!({"session": listed[0]["session"]});
    assert_eq!(phone.post("user/ada/end_session", &lost).await.status, 200);
    assert!(is_in(&phone, "ada").await && !is_in(&tablet, "ada").await);
    let dead = http.post("user/ada/refresh", &json!({"refresh_token": refresh})).await;
    assert_eq!((dead.status, dead.code().as_str()), (401, "invalid_token"));
    assert_eq!(phone.post("user/ada/end_session", &lost).await.code(), "session_not_found");
    // Logging out ends the session that it is sent in, or all.
    let (tablet, _) = log_in(&http, "ada", "tablet").await;
    assert_eq!(phone.post("user/ada/logout", &json!({})).await.status, 200);
    assert!(!is_in(&phone, "ada").await && is_in(&tablet, "ada").await);
    assert_eq!(sessions(&tablet, "ada").await.len(), 2);
    assert_eq!(tablet.post("user/ada/logout", &json!({"all": true})).await.status, 200);
    assert!(!is_in(&tablet, "ada").await);
    fleet.finish().await;
}

#[tokio::test]
async fn s7_04_two_tabs_that_refresh_at_once_both_stay_in_and_a_thief_ends_the_session() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    http.register_and_log_in("ada").await;
    let (_, first) = log_in(&http, "ada", "browser").await;
    let refresh =
        async |token: &str| http.post("user/ada/refresh", &json!({ "refresh_token": token })).await;
    let tabs = tokio::join!(refresh(&first), refresh(&first));
    for tab in [&tabs.0, &tabs.1] {
        assert_eq!(tab.status, 200, "{}", tab.body());
        let access = tab.body()["data"]["access_token"].as_str().expect("a token").to_owned();
        assert!(is_in(&http.with_token(&access), "ada").await);
    }
    // Ten seconds later the same token is a stolen one.
    let later = "update brigade.users set sessions = jsonb_set(
                     sessions, array[(jsonb_array_length(sessions) - 1)::text, 'rotated', 'at'],
                     to_jsonb('2026-01-01T00:00:00.000Z'::text))";
    sqlx::query(later).execute(&fleet.sql).await.expect("an hour later");
    let stolen = refresh(&first).await;
    assert_eq!((stolen.status, stolen.code().as_str()), (401, "token_reused"));
    for tab in [tabs.0, tabs.1] {
        let access = tab.body()["data"]["access_token"].as_str().expect("a token").to_owned();
        assert!(!is_in(&http.with_token(&access), "ada").await);
    }
    let request = http.request(Method::GET, "user/ada/sessions");
    assert_eq!(http.send(request).await.status, 401, "nobody is told without a token");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_03_a_login_needs_the_email_alone_and_tells_nobody_who_exists() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    http.register_and_log_in("ada").await;
    let login = |email: &str, password: &str| json!({"email": email, "password": password, "session_name": "web"});
    let begun = http.post("sessions", &login("ADA@example.org", PASSWORD)).await;
    assert_eq!((begun.status, begun.header("cache-control")), (201, "no-store"));
    assert_eq!(begun.body()["user"], "ada");
    let ada = http.with_token(begun.body()["access_token"].as_str().expect("a token"));
    let me = ada.get("me", &[]).await;
    assert_eq!((me.status, &me.body()["auth"]["email"]), (200, &json!("ada@example.org")));
    assert_eq!(sessions(&ada, "ada").await[0]["name"], "web");
    // The same over NATS.
    let producer = fleet.producer().await;
    let answer = producer.send("user.-.login", login("ada@example.org", PASSWORD)).await;
    assert_eq!((answer.status, &answer.body()["id"]), (200, &json!("ada")));
    // An unknown email and a wrong password look the same.
    let refused = async |email: &str, password: &str| {
        let refused = http.post_as("same", "sessions", &login(email, password)).await;
        let mut body = refused.body();
        body["instance"] = Value::Null;
        (refused.status, body)
    };
    let wrong = refused("ada@example.org", "wrong").await;
    assert_eq!((wrong.0, &wrong.1["code"]), (401, &json!("wrong_credentials")));
    assert_eq!(refused("nobody@example.org", PASSWORD).await, wrong);
    // Nobody is called as the subject of that login is.
    let named = json!({"email": "x@example.org", "profile_id": "p", "password": PASSWORD});
    assert_eq!(http.post("user/-/register", &named).await.status, 422);
    fleet.finish().await;
}

/// The answer to a login may be lost, and its tokens are kept by nobody.
#[tokio::test]
async fn a_login_that_is_repeated_under_its_key_begins_its_session_anew() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let first = http.register_and_log_in("ada").await;
    let log_in = async |key: &str| {
        let begun = http.post_as(key, "sessions", &credentials("ada")).await;
        assert_eq!((begun.status, begun.header("idempotency-replayed")), (201, ""));
        http.with_token(begun.body()["access_token"].as_str().expect("a token"))
    };
    let (lost, again) = (log_in("k1").await, log_in("k1").await);
    assert!(!is_in(&lost, "ada").await && is_in(&again, "ada").await);
    let other = log_in("k2").await;
    assert!(is_in(&again, "ada").await && is_in(&other, "ada").await);
    assert_eq!(sessions(&first, "ada").await.len(), 3);
    fleet.finish().await;
}

#[tokio::test]
async fn staff_learn_whose_a_token_is() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let (ada, mia) = (http.register_and_log_in("ada").await, http.register_and_log_in("mia").await);
    let roles = json!({"roles": ["customer", "staff"]});
    assert_eq!(fleet.producer().await.send("user.mia.change_roles", roles).await.status, 200);
    let token = ada.token.clone().expect("a token");
    let ask = async |who: &HttpClient, token: &str| {
        let request = who.request(Method::POST, "introspect");
        let form = format!("token={token}&token_type_hint=access_token");
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        who.send(request.body(form)).await
    };
    assert_eq!(ask(&ada, &token).await.status, 403);
    assert_eq!(ask(&http, &token).await.status, 401);
    let told = ask(&mia, &token).await;
    assert_eq!(told.status, 200);
    let body = told.body();
    assert_eq!((&body["active"], &body["sub"]), (&json!(true), &json!("ada")));
    assert_eq!((&body["scope"], &body["token_type"]), (&json!("customer"), &json!("Bearer")));
    assert!(body["exp"].is_u64() && body["sid"].is_string());
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    for dead in [token.as_str(), "nonsense", ""] {
        assert_eq!(ask(&mia, dead).await.body(), json!({"active": false}), "{dead}");
    }
    let json = mia.request(Method::POST, "introspect").json(&json!({ "token": token }));
    assert_eq!(mia.send(json).await.status, 415);
    fleet.finish().await;
}

#[tokio::test]
async fn a_page_has_its_session_in_cookies_and_changes_nothing_without_a_header() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    http.register_and_log_in("ada").await;
    let begun = http.post("sessions?cookies=true", &credentials("ada")).await;
    assert_eq!(begun.status, 201, "{}", begun.body());
    assert!(begun.body()["access_token"].is_null() && begun.body()["refresh_token"].is_null());
    let cookies = set_cookies(&begun);
    let [access, refresh] = cookies.as_slice() else { panic!("{cookies:?}") };
    assert!(access.starts_with("__Host-brigade-t1=ada."), "{access}");
    assert!(refresh.starts_with("__Secure-brigade-refresh-t1=ada."), "{refresh}");
    for cookie in &cookies {
        assert!(cookie.ends_with("; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
    }
    let send = async |method: Method, path: &str, cookie: &str, csrf: bool| {
        let pair = cookie.split(';').next().expect("a pair").to_owned();
        let id = uuid::Uuid::now_v7().to_string();
        let request = http.request(method, path).header("Cookie", pair).header("Command-Id", id);
        let request = if csrf { request.header("Brigade-Csrf", "1") } else { request };
        http.send(request.json(&json!({"profile_id": "p2"}))).await
    };
    assert_eq!(send(Method::GET, "me", access, false).await.status, 200);
    let change = "user/ada/update_profile";
    assert_eq!(send(Method::POST, change, access, false).await.code(), "csrf_header_missing");
    assert_eq!(send(Method::POST, change, access, true).await.status, 200);
    let path = "sessions/refresh";
    assert_eq!(send(Method::POST, path, refresh, false).await.code(), "csrf_header_missing");
    let next = send(Method::POST, path, refresh, true).await;
    assert_eq!(next.status, 200, "{}", next.body());
    assert_eq!(send(Method::GET, "me", access, false).await.status, 401);
    let access = set_cookies(&next)[0].clone();
    assert_eq!(send(Method::GET, "me", &access, false).await.status, 200);
    // A cookie is for the restaurant that it names.
    let request = http.of("t2").request(Method::GET, "me");
    let pair = access.split(';').next().expect("a pair").to_owned();
    assert_eq!(http.send(request.header("Cookie", pair)).await.status, 401);
    let ended = send(Method::DELETE, "sessions/current", &access, true).await;
    assert_eq!(ended.status, 204, "{}", ended.body());
    assert!(set_cookies(&ended).iter().all(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(send(Method::GET, "me", &access, false).await.status, 401);
    // The session is over, and the cookies that a page still has go away all the same.
    let again = send(Method::DELETE, "sessions/current", &access, true).await;
    assert_eq!((again.status, set_cookies(&again)), (401, set_cookies(&ended)));
    fleet.finish().await;
}

fn set_cookies(response: &HttpResponse) -> Vec<String> {
    let values = response.headers.get_all("set-cookie").iter();
    values.map(|value| value.to_str().expect("text").to_owned()).collect()
}

/// Sends wrong logins from addresses of this machine, as a proxy would pass them on.
async fn wrong_logins(http: &HttpClient, addresses: u8, each: usize) {
    for n in 0..addresses {
        let from = http.from(std::net::IpAddr::from([127, 9, n, 1]));
        for k in 0..each {
            let payload = json!({"email": format!("guest{k}-{n}@example.org"), "password": "no"});
            let refused = from.post("sessions", &payload).await.status;
            assert!([401, 429].contains(&refused), "{refused}");
            let payload = json!({"email": "ada@example.org", "password": "no"});
            let refused = from.post("sessions", &payload).await.status;
            assert!([401, 429].contains(&refused), "{refused}");
        }
    }
}

async fn nobody_is_kept_out(addresses: u8, each: usize) {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    http.register_and_log_in("ada").await;
    let home = http.from(std::net::IpAddr::from([127, 8, 0, 1]));
    home.register_and_log_in("bob").await;
    wrong_logins(&http, addresses, each).await;
    // Another guest, where he was before and where he never was; and the one who is guessed at,
    // where she logged in before.
    home.log_in("bob").await;
    http.from(std::net::IpAddr::from([127, 8, 0, 2])).log_in("bob").await;
    // Where she never was, she waits: that bounds the guessing.
    let away = http.from(std::net::IpAddr::from([127, 8, 0, 3]));
    let refused = away.post("sessions", &credentials("ada")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_attempts"));
    http.log_in("ada").await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_05_wrong_passwords_from_many_addresses_keep_no_guest_out() {
    nobody_is_kept_out(30, 2).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn s7_05_ten_thousand_wrong_passwords_keep_no_guest_out() {
    nobody_is_kept_out(250, 20).await;
}
