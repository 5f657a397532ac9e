//! S8-04: a dead letter of each worker is found, understood, mended and sent again by the command
//! line alone.

use std::io::Write as _;

use async_nats::{HeaderMap, jetstream};
use brigade_tests::{SUPERUSER, TestFleet, check, process, producer::placed, until};
use serde_json::{Value, json};

use crate::dead_letters::held;

/// Returns the letters that `brigade dlq ls` prints, when there are so many.
async fn listed(fleet: &TestFleet, filter: &str, count: usize) -> Vec<Value> {
    until("the dead letters", || async {
        let printed = process::printed(fleet, &format!("dlq ls {filter} --json")).await;
        let letters: Vec<Value> =
            printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (letters.len() == count).then_some(letters)
    })
    .await
}

fn number(letter: &Value) -> &str {
    letter["number"].as_str().expect("a number")
}

/// Returns the path of a file with this text.
fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let path = file.path().display().to_string();
    (file, path)
}

/// Publishes a message whose bytes no consumer can read.
async fn publish_garbled(fleet: &TestFleet, subject: &str, headers: &[(&str, &str)]) {
    let js = jetstream::new(fleet.connect(SUPERUSER).await);
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.insert(*name, *value);
    }
    let sent = js.publish_with_headers(subject.to_owned(), all, "\u{fffd} not JSON".into()).await;
    sent.unwrap().await.unwrap();
}

/// A command that nobody could decide, since its sender has left out its id, and one that the
/// schema refuses as it is.
#[tokio::test]
async fn s8_04_commands_are_mended_and_sent_under_new_ids() {
    let fleet = TestFleet::start().await;
    let js = jetstream::new(fleet.connect("t1-producer").await);
    let open = r#"{"kind":"team","owner":"ada","currency":"EUR"}"#;
    js.publish("cmd.t1.cart.c1.open", open.into()).await.unwrap().await.unwrap();
    let letter = listed(&fleet, "--reason missing_command_id", 1).await.remove(0);
    let number = number(&letter);
    let shown = process::printed(&fleet, &format!("dlq show {number}")).await;
    assert!(shown.contains("replay: not possible: a command needs one header"), "{shown}");
    let edit = format!("dlq edit {number} --command-id repaired-1 --because=without-id --by ada");
    let dry = process::printed(&fleet, &format!("{edit} --dry-run")).await;
    assert!(dry.contains("would be sent: cmd.t1.cart.c1.open"), "{dry}");
    assert_eq!(held(&fleet, "DLQ").await.0, 1);
    let edited = process::printed(&fleet, &edit).await;
    assert!(edited.contains("cmd.t1.cart.c1.open as repaired-1"), "{edited}");
    let producer = fleet.producer().await;
    let outcome = async |id: &str| -> Value {
        let query = format!("q.t1.outcome.{id}");
        producer.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap().body()
    };
    assert_eq!(outcome("repaired-1").await["status"], 201);

    // Its total is too large for what somebody has added to the schema.
    let fault = "alter table brigade.orders add constraint fault check (total < 1000) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let wrong = placed(&[("Soup", 5000, 1)]);
    producer.store("k1", "order.o1.place", &wrong.to_string()).await;
    let letter = listed(&fleet, "--contains 5000", 1).await.remove(0);
    let number = self::number(&letter);
    assert!(letter["reason"].as_str().unwrap().contains("fault"), "{letter}");
    let payload = process::printed(&fleet, &format!("dlq show {number} --payload")).await;
    let right = payload.lines().find(|line| line.starts_with('{')).expect("the payload");
    let (_wrong, path) = file("{\"items\":[]");
    let refused =
        process::refused(&fleet, &format!("dlq edit {number} --payload {path} --because=typo"))
            .await;
    assert!(refused.contains("malformed"), "{refused}");
    let (_right, path) = file(&right.replace("5000", "500"));
    let edit = format!("dlq edit {number} --payload {path} --because=typo --by bob");
    let edited = process::printed(&fleet, &edit).await;
    let id = edited.lines().find_map(|line| line.rsplit_once(" as ")).expect("an id").1.to_owned();
    assert!(id.starts_with("k1-e"), "{edited}");
    assert_eq!(outcome(&id).await["status"], 201);
    // Its sender learns of it, and does it no second time.
    let again = producer.send_as("k1", "order.o1.place", wrong).await;
    assert_eq!((again.status, again.code()), (500, "dropped".to_owned()));
    assert!(again.body()["message"].as_str().unwrap().contains(&id), "{}", again.body());
    let audited: Vec<(String, String, String)> = sqlx::query_as(
        "select actor, reason, convert_from(edited_payload, 'UTF8')
         from brigade.dead_letter_actions where done_at is not null order by dlq_seq",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!((audited[0].0.as_str(), audited[0].1.as_str()), ("ada", "without-id"));
    assert_eq!((audited[1].0.as_str(), audited[1].1.as_str()), ("bob", "typo"));
    assert!(audited[1].2.contains("500") && !audited[1].2.contains("5000"), "{audited:?}");
    let again = process::refused(&fleet, &edit).await;
    assert!(again.contains("was replayed by bob at "), "{again}");
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
    fleet.finish().await;
}

/// Changes the size that the stream of events takes, and returns the former one.
async fn resize_events(fleet: &TestFleet, max_msg_size: &Value) -> Value {
    let js = jetstream::new(fleet.connect("operator").await);
    let found: Value = js.request("STREAM.INFO.EVENTS", &json!({})).await.unwrap();
    let mut config = found["config"].clone();
    let former = std::mem::replace(&mut config["max_msg_size"], max_msg_size.clone());
    let answer: Value = js.request("STREAM.UPDATE.EVENTS", &config).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    former
}

/// Events that the stream refuses, and such that arrive garbled, are published again as SQL has
/// them.
#[tokio::test]
async fn s8_04_events_of_the_relay_and_the_projector_are_published_as_sql_has_them() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let former = resize_events(&fleet, &json!(64)).await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    let letters = listed(&fleet, "--worker outbox-relay", 2).await;
    assert!(letters[0]["reason"].as_str().unwrap().contains("size"), "{letters:?}");
    resize_events(&fleet, &former).await;
    let said = process::printed(&fleet, "dlq replay --matching --worker outbox-relay").await;
    assert_eq!(said.lines().filter(|line| line.starts_with("replayed ")).count(), 2, "{said}");
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;

    let event =
        "select event_id::text from brigade.events where id = 'c1' order by version limit 1";
    let event: String = sqlx::query_scalar(event).fetch_one(&fleet.sql).await.unwrap();
    let headers = [("ce-subject", "c1"), ("ce-id", event.as_str())];
    publish_garbled(&fleet, "evt.t1.cart.opened.00", &headers).await;
    let letter = listed(&fleet, "--worker payment-projector", 1).await.remove(0);
    let before = held(&fleet, "EVENTS").await.0;
    process::printed(&fleet, &format!("dlq replay {}", number(&letter))).await;
    until("the event", || async { (held(&fleet, "EVENTS").await.0 == before + 1).then_some(()) })
        .await;
    assert_eq!(held(&fleet, "DLQ").await.0, 0);
    // What nobody can read stays in the stream.
    fleet.until_idle().await;
}

/// What is no event or command of the fleet is understood as such, and given up.
#[tokio::test]
async fn s8_04_what_cannot_be_sent_again_says_why_and_is_dropped() {
    let fleet = TestFleet::start().await;
    let unknown = [("ce-subject", "u1"), ("ce-id", "018f2c5a-0000-7000-8000-000000000000")];
    publish_garbled(&fleet, "evt.t1.user.roles_changed.00", &unknown).await;
    publish_garbled(&fleet, "evt.t1.user.logged_out.00", &unknown).await;
    publish_garbled(&fleet, "due.lock.t1.c1.7", &[]).await;
    for (worker, why) in [
        ("user-state-projector", "is not an event that was ever committed"),
        ("cache-verifier", "is not an event that was ever committed"),
        ("cart-lock-expiry", "is a timer, whose lock is found by its deadline in SQL"),
    ] {
        let letter = listed(&fleet, &format!("--tenant t1 --worker {worker}"), 1).await.remove(0);
        let number = number(&letter);
        assert_eq!(letter["worker"], worker);
        let refused = process::refused(&fleet, &format!("dlq replay {number}")).await;
        assert!(refused.contains(why), "{worker}: {refused}");
        process::printed(&fleet, &format!("dlq drop {number} --because=garbled")).await;
    }
    assert_eq!(held(&fleet, "DLQ").await.0, 0);
    // What nobody can read stays in the stream.
    fleet.until_idle().await;
}
