//! S7: passwords that are changed and chosen anew, users who are suspended and erased.

use async_nats::jetstream;
use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, TestFleet,
    http_client::{PASSWORD, credentials},
    process::Process,
    until,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::users::dump;

const NEW: &str = "staple-battery-horse";

async fn status_of_me(http: &HttpClient) -> u16 {
    http.get("me", &[]).await.status
}

async fn log_in(http: &HttpClient, password: &str) -> u16 {
    let payload = json!({"email": "ada@example.org", "password": password});
    http.post("sessions", &payload).await.status
}

/// Registers a manager and logs in.
async fn manager(fleet: &TestFleet, http: &HttpClient) -> HttpClient {
    let mia = http.register_and_log_in("mia").await;
    let roles = json!({"roles": ["customer", "manager"]});
    assert_eq!(fleet.producer().await.send("user.mia.change_roles", roles).await.status, 200);
    mia
}

#[tokio::test]
async fn s7_06_a_changed_password_ends_the_other_sessions() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let phone = http.register_and_log_in("ada").await;
    let tablet = http.log_in("ada").await;
    let change = |old: &str, new: &str| json!({"password": old, "new_password": new});
    let short = phone.post("user/ada/change_password", &change(PASSWORD, "1234567")).await;
    assert_eq!((short.status, short.code().as_str()), (422, "password_too_short"));
    let wrong = phone.post("user/ada/change_password", &change("wrong", NEW)).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "wrong_credentials"));
    let changed = phone.post("user/ada/change_password", &change(PASSWORD, NEW)).await;
    assert_eq!(changed.status, 200, "{}", changed.body());
    assert_eq!((status_of_me(&phone).await, status_of_me(&tablet).await), (200, 401));
    assert_eq!((log_in(&http, PASSWORD).await, log_in(&http, NEW).await), (401, 201));
    // The email, over HTTP with the password alone.
    let email = json!({"email": "new@example.org"});
    assert_eq!(phone.post("user/ada/change_email", &email).await.code(), "password_required");
    let email = json!({"email": "new@example.org", "password": NEW});
    assert_eq!(phone.post("user/ada/change_email", &email).await.status, 200);
    assert_eq!(phone.get("me", &[]).await.body()["auth"]["email"], "new@example.org");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_06_a_reset_token_goes_to_the_restaurants_program_alone() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let ada = http.register_and_log_in("ada").await;
    let program = fleet.connect("t1-backend").await;
    let mut asked = program.subscribe("hooks.t1.password_reset").await.expect("subscribed");
    program.flush().await.expect("flushed");
    let ask = async |email: &str| {
        let answer = http.post("password-resets", &json!({ "email": email })).await;
        (answer.status, answer.body())
    };
    let accepted = ask("nobody@example.org").await;
    assert_eq!(accepted.0, 202);
    assert_eq!(ask("ADA@example.org").await, accepted, "the same whoever there is");
    let keyed = async |email: &str| {
        http.post_as("reset-1", "password-resets", &json!({ "email": email })).await
    };
    assert_eq!(keyed("nobody@example.org").await.status, 202);
    assert_eq!(keyed("someone@example.org").await.code(), "command_id_reused");
    let message = asked.next().await.expect("a message");
    let told: Value = serde_json::from_slice(&message.payload).expect("JSON");
    assert_eq!((&told["user"], &told["email"]), (&json!("ada"), &json!("ada@example.org")));
    program.publish(message.reply.expect("a reply"), "{}".into()).await.expect("answered");
    let token = told["reset_token"].as_str().expect("a token").to_owned();
    let choose = async |token: &str| {
        let payload = json!({"reset_token": token, "new_password": NEW});
        http.post("user/ada/reset_password", &payload).await
    };
    assert_eq!(choose(&format!("ada.{}", "A".repeat(43))).await.status, 401);
    assert_eq!(choose(&token).await.status, 200);
    assert_eq!(choose(&token).await.code(), "invalid_token", "once");
    assert_eq!(status_of_me(&ada).await, 401);
    assert_eq!((log_in(&http, PASSWORD).await, log_in(&http, NEW).await), (401, 201));
    let rows = dump(&fleet).await;
    assert!(!rows.contains(token.split_once('.').expect("a dot").1));
    fleet.finish().await;
}

#[tokio::test]
async fn s7_06_a_suspended_user_is_out_at_once_at_every_door() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let mia = manager(&fleet, &http).await;
    let ada = http.register_and_log_in("ada").await;
    let producer = fleet.producer().await;
    let token = json!({"access_token": ada.token}).to_string();
    let validated = async || {
        let answer = producer.request("q.t1.user.ada.validate", &[], token.as_bytes()).await;
        answer.expect("an answer").status
    };
    assert_eq!((status_of_me(&ada).await, validated().await), (200, 200));
    let why = json!({"reason": "left"});
    assert_eq!(ada.post("user/mia/suspend", &why).await.status, 403);
    assert_eq!(mia.post("user/ada/suspend", &why).await.status, 200);
    assert_eq!((status_of_me(&ada).await, validated().await), (401, 401));
    assert_eq!((log_in(&http, PASSWORD).await, log_in(&http, "wrong").await), (403, 401));
    let over_nats = producer.send("user.ada.login", credentials("ada")).await;
    assert_eq!((over_nats.status, over_nats.code().as_str()), (403, "user_suspended"));
    assert_eq!(mia.post("user/ada/resume", &json!({})).await.status, 200);
    assert_eq!(log_in(&http, PASSWORD).await, 201);
    fleet.finish().await;
}

#[tokio::test]
async fn s7_06_of_managers_who_go_at_once_one_stays() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let producer = fleet.producer().await;
    let mia = manager(&fleet, &http).await;
    let last = (409, "last_manager".to_owned());
    let reason = json!({"reason": "r"});
    let ways = [
        ("suspend", reason.clone()),
        ("change_roles", json!({"roles": ["staff"]})),
        ("erase", json!({"password": PASSWORD})),
    ];
    let send = async |who: &HttpClient, path: &str, payload: &Value| {
        let answer = who.post(path, payload).await;
        (answer.status, answer.code())
    };
    for (verb, payload) in &ways {
        assert_eq!(send(&mia, &format!("user/mia/{verb}"), payload).await, last, "{verb}");
    }
    http.register_and_log_in("max").await;
    let managers = json!({"roles": ["customer", "manager"]});
    for round in 0..8 {
        for user in ["mia", "max"] {
            // Whoever was suspended in the round before is back.
            producer.send(&format!("user.{user}.resume"), json!({})).await;
            producer.done(&format!("user.{user}.change_roles"), managers.clone()).await;
        }
        let (mia, max) = (http.log_in("mia").await, http.log_in("max").await);
        let (verb, payload) = &ways[round % 2];
        // Each of himself, or each of the other one.
        let (one, other) = if round < 4 { ("mia", "max") } else { ("max", "mia") };
        let (one, other) = (format!("user/{one}/{verb}"), format!("user/{other}/{verb}"));
        let answers = tokio::join!(send(&mia, &one, payload), send(&max, &other, payload));
        let done = [&answers.0, &answers.1].iter().filter(|answer| answer.0 == 200).count();
        assert_eq!(done, 1, "{verb} {answers:?}");
        let left: i64 = sqlx::query_scalar(
            "select count(*) from brigade.users
             where roles ? 'manager' and account_status = 'active'",
        )
        .fetch_one(&fleet.sql)
        .await
        .expect("sql");
        assert_eq!(left, 1, "{verb} {answers:?}");
    }
    // A program may do it: it makes another one.
    for user in ["mia", "max"] {
        producer.done(&format!("user.{user}.change_roles"), json!({"roles": []})).await;
    }
    fleet.finish().await;
}

/// Returns every message of every stream, subjects and headers as well.
async fn all_messages(fleet: &TestFleet) -> String {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut all = String::new();
    let mut names = js.stream_names();
    while let Some(name) = names.next().await {
        let mut stream = js.get_stream(name.expect("a name")).await.expect("a stream");
        let state = stream.info().await.expect("info").state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            all += &format!("{} {:?} ", message.subject, message.headers);
            all += &String::from_utf8_lossy(&message.payload);
            all.push('\n');
        }
    }
    all
}

#[tokio::test]
async fn s7_06_an_erased_user_is_nowhere() {
    let mut fleet = TestFleet::empty().await;
    for worker in WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CommandHandler) {
        fleet.run(worker).await;
    }
    let process = Process::start(&fleet, &[WorkerName::CommandHandler], None).await;
    let http = fleet.http_client().await;
    let mia = manager(&fleet, &http).await;
    let ada = http.register_and_log_in("ada").await;
    // Whatever leaves something behind.
    assert_eq!(log_in(&http, "wrong").await, 401);
    let from = http.from(std::net::IpAddr::from([127, 8, 7, 6]));
    let mistaken = json!({"email": "ada@example.org", "password": PASSWORD});
    assert_eq!(from.post("user/eve/login", &mistaken).await.status, 401);
    let email = json!({"email": "ada@example.com", "password": PASSWORD});
    assert_eq!(ada.post("user/ada/change_email", &email).await.status, 200);
    let email = json!({"email": "ada@example.org", "password": PASSWORD});
    assert_eq!(ada.post("user/ada/change_email", &email).await.status, 200);
    let reset = json!({"email": "ada@example.org"});
    assert_eq!(http.post("password-resets", &reset).await.status, 202);
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    let ada = http.log_in("ada").await;
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    assert_eq!(ada.post("cart/c1/open", &open).await.status, 201);
    fleet.until_idle().await;
    let found = |text: &str| text.to_lowercase().contains("ada@example");
    assert!(found(&dump(&fleet).await) && found(&all_messages(&fleet).await), "it is there before");

    assert_eq!(ada.post("user/ada/erase", &json!({})).await.code(), "password_required");
    assert_eq!(mia.post("user/ada/erase", &json!({})).await.status, 200);
    assert_eq!(status_of_me(&ada).await, 401);
    fleet.until_idle().await;
    let rows = dump(&fleet).await;
    assert!(!found(&rows), "SQL");
    until("KV to be overwritten", || async { (!found(&all_messages(&fleet).await)).then_some(()) })
        .await;
    assert!(!found(&process.log()), "the log");
    assert!(!found(&fleet.metrics.render()), "the metrics");
    // The account is there, ended, and so is what was done.
    let state = mia.get("user/ada", &[]).await.body();
    assert_eq!(state["auth"]["status"], "erased");
    assert_eq!(mia.get("cart/c1", &[]).await.body()["core"]["owner"], "ada");
    assert!(rows.contains("user_erased"));
    assert_eq!(log_in(&http, PASSWORD).await, 401);
    let again = json!({"email": "ada@example.org", "profile_id": "p", "password": PASSWORD});
    assert_eq!(http.post("user/ada/register", &again).await.code(), "already_exists");
}
