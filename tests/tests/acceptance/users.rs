//! S1: the owner of each cached field. A session is valid on the very next request, each part of a
//! user has one writer, and no secret is stored anywhere.

use brigade::workers::cache_verifier::VerifierMetrics;
use std::{fs, path::Path, time::Instant};

use async_nats::jetstream;
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Reply, SUPERUSER, TestFleet, check, process::Process, until};
use serde_json::{Value, json};

use crate::healing::until_healed;

const PASSWORD: &str = "correct-horse-battery-staple";

/// The tokens of a login or a refresh.
#[derive(Clone)]
struct Session {
    access: String,
    refresh: String,
}

impl Session {
    fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.code());
        let data = &reply.body()["data"];
        let token = |name: &str| data[name].as_str().expect("a token").to_owned();
        Self { access: token("access_token"), refresh: token("refresh_token") }
    }
}

fn email(user: &str) -> String {
    format!("{user}@example.org")
}

async fn register(producer: &Producer, user: &str) -> Reply {
    let said = json!({"email": email(user), "profile_id": "p1", "password": PASSWORD});
    let reply = producer.send(&format!("user.{user}.register"), said).await;
    assert_eq!(reply.status, 201, "{:?}", reply.body());
    reply
}

async fn login(producer: &Producer, user: &str) -> Session {
    Session::of(&try_login(producer, user, PASSWORD).await)
}

async fn try_login(producer: &Producer, user: &str, password: &str) -> Reply {
    let said = json!({"email": email(user), "password": password});
    producer.send(&format!("user.{user}.login"), said).await
}

async fn refresh(producer: &Producer, user: &str, token: &str) -> Reply {
    producer.send(&format!("user.{user}.refresh"), json!({"refresh_token": token})).await
}

async fn validate(producer: &Producer, user: &str, token: &str) -> Reply {
    let subject = format!("q.t1.user.{user}.validate");
    let payload = json!({"access_token": token}).to_string();
    producer.request(&subject, &[], payload.as_bytes()).await.expect("an answer")
}

async fn state(producer: &Producer, user: &str) -> Reply {
    producer.request(&format!("q.t1.user.{user}.state"), &[], b"").await.expect("an answer")
}

async fn done(producer: &Producer, what: &str, payload: Value) -> Value {
    let reply = producer.send(what, payload).await;
    assert_eq!(reply.status, 200, "{what}: {:?}", reply.body());
    reply.body()
}

/// Returns a part from KV.
async fn cached(fleet: &TestFleet, user: &str, part: &str) -> Value {
    check::kv(fleet, "user_state", &format!("t1.{user}.{part}")).await.unwrap_or_default()
}

async fn all_cached(fleet: &TestFleet, user: &str) -> [Value; 3] {
    let mut all = [const { Value::Null }; 3];
    for (value, part) in all.iter_mut().zip(["auth", "subscription", "roles"]) {
        *value = cached(fleet, user, part).await;
    }
    all
}

fn plan(id: &str) -> Value {
    json!({"subscription_id": id, "plan": "gold", "until": "2099-01-01T00:00:00.000Z"})
}

#[tokio::test]
async fn s1_01_a_command_has_written_the_fields_it_owns_before_it_answers() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    assert_eq!(cached(&fleet, "ada", "auth").await["version"], 1);
    let session = login(&producer, "ada").await;
    assert_eq!(cached(&fleet, "ada", "auth").await["version"], 2);
    let session = Session::of(&refresh(&producer, "ada", &session.refresh).await);
    let auth = cached(&fleet, "ada", "auth").await;
    assert_eq!((&auth["version"], auth["access_hash"].is_string()), (&json!(3), true));
    done(&producer, "user.ada.change_email", json!({"email": "a@b.org"})).await;
    assert_eq!(cached(&fleet, "ada", "auth").await["email"], "a@b.org");
    done(&producer, "user.ada.change_email", json!({"email": email("ada")})).await;
    assert_eq!(validate(&producer, "ada", &session.access).await.status, 200);
    done(&producer, "user.ada.logout", json!({})).await;
    assert_eq!(cached(&fleet, "ada", "auth").await["access_hash"], Value::Null);
    assert_eq!(validate(&producer, "ada", &session.access).await.status, 401);

    // A part of the projector's is told at once, though nobody projects.
    let session = login(&producer, "ada").await;
    fleet.until_idle().await;
    fleet.stop_one(WorkerName::UserStateProjector).await;
    done(&producer, "user.ada.register_subscription", plan("s1")).await;
    let valid = validate(&producer, "ada", &session.access).await.body();
    assert_eq!(valid["subscription"]["subscription_id"], "s1");
    let told = state(&producer, "ada").await.body();
    assert_eq!(told["subscription"]["subscription_id"], "s1");
    assert_eq!(cached(&fleet, "ada", "subscription").await["subscription_id"], Value::Null);
    fleet.run(WorkerName::UserStateProjector).await;
    fleet.finish().await;
}

/// The reported fault: a refresh that is cached by a consumer makes a new token fail.
#[tokio::test]
async fn s1_02_a_refreshed_token_is_valid_at_once_and_the_old_one_is_not() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    let mut session = login(&producer, "ada").await;
    // No consumer helps: what is told has to be right without.
    for consumer in [WorkerName::OutboxRelay, WorkerName::UserStateProjector] {
        fleet.stop_one(consumer).await;
    }
    for _ in 0..50 {
        let next = Session::of(&refresh(&producer, "ada", &session.refresh).await);
        assert_eq!(validate(&producer, "ada", &next.access).await.status, 200);
        assert_eq!(validate(&producer, "ada", &session.access).await.status, 401);
        session = next;
    }
}

/// The reported fault: the consumer of a login event writes the whole record, and wipes what
/// another service wrote.
#[tokio::test]
async fn s1_04_a_login_keeps_the_subscription_and_the_roles_that_are_cached() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    done(&producer, "user.ada.register_subscription", plan("s1")).await;
    done(&producer, "user.ada.activate_subscription", plan("s1")).await;
    done(&producer, "user.ada.change_roles", json!({"roles": ["staff", "customer"]})).await;
    fleet.until_idle().await;
    let [auth, subscription, roles] = all_cached(&fleet, "ada").await;
    assert_eq!((&subscription["status"], &roles["version"]), (&json!("active"), &json!(4)));
    login(&producer, "ada").await;
    fleet.until_idle().await;
    let after = all_cached(&fleet, "ada").await;
    assert_ne!(after[0], auth);
    assert_eq!([&after[1], &after[2]], [&subscription, &roles]);
    fleet.finish().await;
}

#[tokio::test]
async fn s1_05_subscription_and_roles_events_change_only_their_own_field() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    login(&producer, "ada").await;
    fleet.until_idle().await;
    let before = all_cached(&fleet, "ada").await;
    done(&producer, "user.ada.register_subscription", plan("s1")).await;
    done(&producer, "user.ada.activate_subscription", plan("s1")).await;
    fleet.until_idle().await;
    let subscribed = all_cached(&fleet, "ada").await;
    assert_eq!((&subscribed[0], &subscribed[2]), (&before[0], &before[2]));
    assert_eq!(subscribed[1]["status"], "active");
    done(&producer, "user.ada.change_roles", json!({"roles": ["manager"]})).await;
    fleet.until_idle().await;
    let after = all_cached(&fleet, "ada").await;
    assert_eq!((&after[0], &after[1]), (&subscribed[0], &subscribed[1]));
    assert_eq!(after[2]["roles"], json!(["manager"]));
    fleet.finish().await;
}

fn checks(fleet: &TestFleet, finding: &str) -> u64 {
    fleet.metrics.group::<VerifierMetrics>().session_checks.with_label_values(&[finding]).get()
}

/// Counts the messages that were ever written into the bucket, but for its canary.
async fn writes(fleet: &TestFleet) -> u64 {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut stream = js.get_stream("KV_user_state").await.expect("the bucket");
    until("the canary", || async {
        stream.get_last_raw_message_by_subject("$KV.user_state.canary").await.ok()
    })
    .await;
    stream.info().await.expect("info").state.last_sequence - 1
}

#[tokio::test]
async fn s1_06_session_events_are_verified_and_counted_and_nothing_is_written() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    login(&producer, "ada").await;
    done(&producer, "user.ada.logout", json!({})).await;
    fleet.until_idle().await;
    assert_eq!(checks(&fleet, "ok"), 3);
    for finding in ["missing", "stale", "ahead"] {
        assert_eq!(checks(&fleet, finding), 0, "{finding}");
    }
    // Three of auth, one each of subscription and roles; each event once more adds none.
    assert_eq!(writes(&fleet).await, 5);
    forget_what_was_consumed(&fleet).await;
    until("the events to be verified again", || async {
        (checks(&fleet, "ok") == 6).then_some(())
    })
    .await;
    assert_eq!(writes(&fleet).await, 5);
    fleet.finish().await;
}

/// Makes cache-verifier receive every event once more.
async fn forget_what_was_consumed(fleet: &TestFleet) {
    let js = jetstream::new(fleet.connect("operator").await);
    let events = js.get_stream("EVENTS").await.expect("the stream");
    events.delete_consumer("cache-verifier").await.expect("deleted");
}

#[tokio::test]
async fn s1_07_what_is_found_wrong_is_repaired_by_its_owner_on_a_command() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for user in ["ada", "bob", "cleo", "dora"] {
        register(&producer, user).await;
    }
    fleet.until_idle().await;
    assert_eq!(
        fleet.metrics.group::<VerifierMetrics>().rebuilds_requested.get(),
        0,
        "nothing is repaired without a fault"
    );
    // A bucket whose keys were all written since its last checkpoint looks like a purged one, and
    // would be healed as a whole: Dora's stay.
    until_healed(&fleet).await;
    fleet.stop_one(WorkerName::CacheVerifier).await;
    for user in ["ada", "bob", "cleo"] {
        login(&producer, user).await;
    }
    fleet.until_relayed().await;
    let js = jetstream::new(fleet.connect(SUPERUSER).await);
    let bucket = js.get_stream("KV_user_state").await.expect("the bucket");
    let purged = bucket.purge().filter("$KV.user_state.t1.ada.auth").await.expect("purged");
    assert_eq!(purged.purged, 1);
    for (user, version) in [("bob", 1), ("cleo", 99)] {
        let mut forged = cached(&fleet, user, "auth").await;
        forged["version"] = version.into();
        let subject = format!("$KV.user_state.t1.{user}.auth");
        let sent = js.publish(subject, forged.to_string().into()).await;
        sent.expect("sent").await.expect("stored");
    }
    fleet.run(WorkerName::CacheVerifier).await;
    for user in ["ada", "bob"] {
        until(&format!("the session of {user} to be cached again"), || async {
            (cached(&fleet, user, "auth").await["version"] == 2).then_some(())
        })
        .await;
    }
    until("all to be judged", || async { (checks(&fleet, "ahead") == 1).then_some(()) }).await;
    assert_eq!((checks(&fleet, "missing"), checks(&fleet, "stale")), (1, 1));
    assert_eq!(
        fleet.metrics.group::<VerifierMetrics>().rebuilds_requested.get(),
        2,
        "what is ahead is reported only"
    );
    let actors: i64 = sqlx::query_scalar(
        "select count(*) from brigade.command_inbox where subject like '%.rebuild_cache'",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(actors, 2);
    // Whatever stands there, nobody is let in by it.
    assert_eq!(validate(&producer, "cleo", "cleo.x").await.status, 401);
    bucket.purge().filter("$KV.user_state.t1.cleo.auth").await.expect("purged");
    until("the purged key to be healed", || async {
        (cached(&fleet, "cleo", "auth").await["version"] == 2).then_some(())
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn s1_08_side_effects_of_a_login_happen_once_per_event() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    login(&producer, "ada").await;
    login(&producer, "ada").await;
    let noted = async || -> Vec<String> {
        let noted = "select type from brigade.user_activity where id = 'ada' order by version";
        sqlx::query_scalar(noted).fetch_all(&fleet.sql).await.unwrap()
    };
    let preloaded = || fleet.edge_metrics().queries.with_label_values(&["user_state", "200"]).get();
    fleet.until_idle().await;
    let once = ["registered", "logged_in", "logged_in"];
    assert_eq!((noted().await, preloaded()), (once.map(str::to_owned).to_vec(), 2));
    forget_what_was_consumed(&fleet).await;
    until("the events to be consumed again", || async {
        (checks(&fleet, "ok") == 6).then_some(())
    })
    .await;
    assert_eq!((noted().await, preloaded()), (once.map(str::to_owned).to_vec(), 2));
    fleet.finish().await;
}

#[tokio::test]
async fn s1_09_the_cache_holds_no_usable_token() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    let session = login(&producer, "ada").await;
    let auth = cached(&fleet, "ada", "auth").await;
    let text = auth.to_string();
    assert!(!text.contains(&session.access) && !text.contains(&session.refresh));
    for hash in ["access_hash", "refresh_hash"] {
        let hash = auth[hash].as_str().unwrap();
        assert_eq!(hash.len(), 64);
        for token in [hash.to_owned(), format!("ada.{hash}")] {
            assert_eq!(validate(&producer, "ada", &token).await.status, 401);
            assert_eq!(refresh(&producer, "ada", &token).await.code(), "invalid_token");
        }
    }
    assert_eq!(validate(&producer, "ada", &session.refresh).await.status, 401);
    assert_eq!(validate(&producer, "ada", &session.access).await.status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn s1_10_a_users_state_has_all_its_fields() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    assert_eq!(state(&producer, "ada").await.status, 404);
    register(&producer, "ada").await;
    login(&producer, "ada").await;
    done(&producer, "user.ada.register_subscription", plan("s1")).await;
    fleet.until_idle().await;
    let [auth, subscription, roles] = all_cached(&fleet, "ada").await;
    for (field, value) in
        [("user", "ada"), ("profile_id", "p1"), ("email", &email("ada")), ("status", "active")]
    {
        assert_eq!(auth[field], *value, "{field}");
    }
    for field in ["access_hash", "access_expires_at", "refresh_hash", "refresh_expires_at"] {
        assert!(auth[field].is_string(), "{field}");
    }
    assert_eq!(auth["last_login_at"], auth["at"]);
    assert_eq!(roles["roles"], json!(["customer"]));
    assert_eq!(
        (&subscription["plan"], &subscription["status"]),
        (&json!("gold"), &json!("registered"))
    );
    // The query tells the same without the hashes.
    let told = state(&producer, "ada").await.body();
    let mut shown = auth.clone();
    shown.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_hash"));
    assert_eq!(
        told,
        json!({"version": 3, "auth": shown, "subscription": subscription, "roles": roles})
    );
    fleet.finish().await;
}

#[tokio::test]
async fn a_repeated_login_gives_new_tokens_and_its_id_fits_no_other_command() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    register(&producer, "bob").await;
    let said = |user: &str| json!({"email": email(user), "password": PASSWORD});
    let first = Session::of(&producer.send_as("k1", "user.ada.login", said("ada")).await);
    let again = Session::of(&producer.send_as("k1", "user.ada.login", said("ada")).await);
    assert_ne!(first.access, again.access);
    assert_eq!(validate(&producer, "ada", &first.access).await.status, 401);
    assert_eq!(validate(&producer, "ada", &again.access).await.status, 200);
    let reused = producer.send_as("k1", "user.bob.login", said("bob")).await;
    assert_eq!((reused.status, reused.code().as_str()), (409, "command_id_reused"));
    // The lost answer of a refresh: the repetition of the very command is served, a thief is not.
    let used = json!({"refresh_token": again.refresh});
    let lost = Session::of(&producer.send_as("k2", "user.ada.refresh", used.clone()).await);
    let found = Session::of(&producer.send_as("k2", "user.ada.refresh", used).await);
    assert_eq!(validate(&producer, "ada", &lost.access).await.status, 401);
    assert_eq!(validate(&producer, "ada", &found.access).await.status, 200);
    // Within 10 s it could be another tab, so one more refresh has to come between.
    let found = Session::of(&refresh(&producer, "ada", &found.refresh).await);
    let stolen = refresh(&producer, "ada", &again.refresh).await;
    assert_eq!((stolen.status, stolen.code().as_str()), (401, "token_reused"));
    assert_eq!(validate(&producer, "ada", &found.access).await.status, 401);
    // The outcome that may be asked for later tells no token.
    let kept = producer.request("q.t1.outcome.k2", &[], b"").await.expect("an answer").body();
    assert_eq!((&kept["status"], &kept["data"]["access_token"]), (&json!(200), &Value::Null));
    fleet.finish().await;
}

#[tokio::test]
async fn twenty_five_wrong_passwords_stop_even_the_right_one_of_an_unknown_source() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    let wrong = (0..25).map(|_| try_login(&producer, "ada", "wrong"));
    for reply in futures::future::join_all(wrong).await {
        assert_eq!((reply.status, reply.code().as_str()), (401, "wrong_credentials"));
    }
    let stopped = try_login(&producer, "ada", PASSWORD).await;
    assert_eq!((stopped.status, stopped.code().as_str()), (429, "too_many_attempts"));
    assert!(stopped.body()["retry_after_ms"].as_u64().is_some());
    fleet.finish().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_of_a_user_has_a_clear_answer() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    let session = login(&producer, "ada").await;
    let ask = async |payload: &[u8], headers: &[(&str, &str)]| {
        let reply = producer.request("q.t1.user.ada.validate", headers, payload).await;
        reply.expect("an answer").status
    };
    let right = json!({"access_token": session.access}).to_string();
    assert_eq!(ask(right.as_bytes(), &[]).await, 200);
    for bad in ["", "not JSON", "[]", "{}", r#"{"access_token":7}"#] {
        assert_eq!(ask(bad.as_bytes(), &[]).await, 400, "{bad}");
    }
    assert_eq!(ask(br#"{"access_token":""}"#, &[]).await, 401);
    assert_eq!(validate(&producer, "bob", &session.access).await.status, 401);
    // The durable door takes no secret, and a view is none of a user's.
    let refused = producer.request("cmd.t1.user.ada.login", &[("Command-Id", "k")], b"{}").await;
    assert_eq!(refused.expect("an answer").code(), "secret_on_durable_door");
    assert_eq!(producer.view("user.ada", None).await.code(), "bad_subject");
    // Nobody is let in while Postgres is away, whatever KV knows.
    fleet.postgres_mut().stop().await;
    for headers in [&[][..], &[("Confirm", "kv")]] {
        assert_eq!(ask(right.as_bytes(), headers).await, 503);
    }
    fleet.postgres_mut().restart().await.unwrap();
    until("edge to see Postgres", || async {
        (ask(right.as_bytes(), &[]).await == 200).then_some(())
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_change_committed_by_a_handler_killed_before_its_projection_is_projected() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    register(&producer, "ada").await;
    fleet.until_idle().await;
    let armed = fleet.fail.arm("command-handler.after_commit");
    let asking = tokio::spawn({
        let producer = producer.clone();
        async move {
            let said = json!({"email": email("ada"), "password": PASSWORD}).to_string();
            let headers = [("Command-Id", "k1")];
            producer.request("req.t1.user.ada.login", &headers, said.as_bytes()).await
        }
    });
    armed.reached().await;
    fleet.take(WorkerName::CommandHandler).kill().await;
    asking.abort();
    fleet.fail.disarm("command-handler.after_commit");
    assert_eq!(cached(&fleet, "ada", "auth").await["version"], 1);
    fleet.run(WorkerName::CommandHandler).await;
    let started = Instant::now();
    until("the session to be shown", || async {
        (cached(&fleet, "ada", "auth").await["version"] == 2).then_some(())
    })
    .await;
    println!("shown {:.1} s after a handler was there", started.elapsed().as_secs_f64());
    fleet.finish().await;
}

/// Returns whether a file under the folder holds these bytes.
pub(crate) fn is_in_files(folder: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in_files(&path, wanted);
        }
        fs::read(&path).unwrap().windows(wanted.len()).any(|bytes| bytes == wanted)
    })
}

/// Returns every row of every table as text.
pub(crate) async fn dump(fleet: &TestFleet) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'brigade'",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let rows = format!("select coalesce(string_agg(t::text, ''), '') from brigade.{table} t");
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(rows));
        let rows: String = rows.fetch_one(&fleet.sql).await.unwrap();
        all.push_str(&rows);
    }
    all
}

#[tokio::test]
async fn nobody_is_told_of_a_user_by_registering_it_again() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let payload = |email: &str, password: &str| json!({"email": email, "profile_id": "p1", "password": password});
    let register = async |email: &str, password: &str| {
        producer.send_as("k1", "user.ada.register", payload(email, password)).await
    };
    let first = register("ada@example.org", PASSWORD).await;
    assert_eq!(first.status, 201);
    assert_eq!(register("ada@example.org", PASSWORD).await.bytes, first.bytes);
    let other = register("eve@example.org", PASSWORD).await;
    assert_eq!((other.status, other.code().as_str()), (409, "command_id_reused"));
    assert!(!other.body().to_string().contains("ada@example.org"));
    login(&producer, "ada").await;
    let again = producer.send("user.ada.register", payload("eve@example.org", PASSWORD)).await;
    assert_eq!((again.status, &again.body()["version"]), (409, &json!(null)));
    fleet.finish().await;
}

#[tokio::test]
async fn i18_no_secret_is_in_any_file_table_log_or_metric() {
    let mut fleet = TestFleet::empty().await;
    for worker in WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CommandHandler) {
        fleet.run(worker).await;
    }
    let process = Process::start(&fleet, &[WorkerName::CommandHandler], None).await;
    let producer = fleet.producer().await;
    let wrong = "Tr0ub4dor-and-3";
    register(&producer, "ada").await;
    assert_eq!(try_login(&producer, "ada", wrong).await.status, 401);
    let first = login(&producer, "ada").await;
    let second = Session::of(&refresh(&producer, "ada", &first.refresh).await);
    assert_eq!(validate(&producer, "ada", &second.access).await.status, 200);
    let second = Session::of(&refresh(&producer, "ada", &second.refresh).await);
    assert_eq!(refresh(&producer, "ada", &first.refresh).await.code(), "token_reused");
    // Where a secret does not belong, and what is malformed around one.
    let unknown = json!({"email": email("ada"), "password": PASSWORD, "else": 1});
    assert_eq!(producer.send("user.ada.login", unknown).await.status, 400);
    let nested = json!({"email": email("ada"), "password": {"password": PASSWORD}});
    assert_eq!(producer.send("user.ada.login", nested).await.status, 400);
    let durable = json!({"email": email("ada"), "password": PASSWORD}).to_string();
    let headers = [("Command-Id", "k1")];
    let refused = producer.request("cmd.t1.user.ada.login", &headers, durable.as_bytes()).await;
    assert_eq!(refused.expect("an answer").status, 400);
    let third = login(&producer, "ada").await;
    let nobody = json!({"refresh_token": third.access}).to_string();
    producer.request("req.t1.user.bob.refresh", &headers, nobody.as_bytes()).await;
    fleet.until_idle().await;

    let (rows, log, metrics) = (dump(&fleet).await, process.log(), fleet.metrics.render());
    let stored = fleet.nats_dir();
    // The search finds what is there.
    assert!(rows.contains(&email("ada")) && is_in_files(&stored, email("ada").as_bytes()));
    assert!(log.contains("\"message\":\"ready\""), "{log}");
    assert!(metrics.contains("brigade_session_checks_total"));
    assert!(rows.contains("$argon2id$"), "of a password the hash is kept");
    let mut secrets = vec![PASSWORD.to_owned(), wrong.to_owned()];
    for session in [first, second, third] {
        // A token says whose it is; what follows is the secret.
        for token in [session.access, session.refresh] {
            secrets.push(token.split_once('.').expect("a dot").1.to_owned());
        }
    }
    for secret in &secrets {
        assert!(!rows.contains(secret), "{secret} is in SQL");
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
        assert!(!is_in_files(&stored, secret.as_bytes()), "{secret} is in a file");
    }
    let hashes = rows.matches("$argon2id$").count();
    assert_eq!(hashes, 1, "a password's hash stands in its user's row alone");
    assert!(!is_in_files(&stored, b"$argon2id$"), "a password's hash is in a file");
}
