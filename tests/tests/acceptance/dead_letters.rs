//! Operators list, replay and drop dead letters.

use brigade::workers::cache_verifier::VerifierMetrics;
use std::collections::HashSet;

use async_nats::jetstream;
use brigade::{
    operations::dead_letters::{DeadLetters, Filter, Letter, Number},
    runtime::DeadLetterMetrics,
};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, check, producer::placed, until};
use futures::future::join_all;
use serde_json::{Value, json};

/// Returns the number of messages and bytes that a stream holds.
pub async fn held(fleet: &TestFleet, stream: &str) -> (u64, u64) {
    let js = jetstream::new(fleet.connect("operator").await);
    let state = js.get_stream(stream).await.unwrap().cached_info().state.clone();
    (state.messages, state.bytes)
}

/// Makes a stream smaller, as it would be with fewer bytes in the topology.
pub async fn shrink(fleet: &TestFleet, stream: &str, max_bytes: i64) {
    let js = jetstream::new(fleet.connect("operator").await);
    let found: Value = js.request(format!("STREAM.INFO.{stream}"), &json!({})).await.unwrap();
    let mut config = found["config"].clone();
    config["max_bytes"] = json!(max_bytes);
    let answer: Value = js.request(format!("STREAM.UPDATE.{stream}"), &config).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

pub async fn in_sql(fleet: &TestFleet) -> i64 {
    let count = "select count(*) from brigade.dead_letters";
    sqlx::query_scalar(count).fetch_one(&fleet.sql).await.unwrap()
}

pub async fn desk(fleet: &TestFleet) -> DeadLetters {
    let js = jetstream::new(fleet.connect("operator").await);
    DeadLetters::open(js, fleet.sql.clone()).await.unwrap()
}

pub async fn letters(fleet: &TestFleet, count: usize) -> Vec<Letter> {
    until("the dead letters", || async {
        let found = desk(fleet).await.list(&Filter::default()).await.unwrap();
        (found.len() == count).then_some(found)
    })
    .await
}

/// Starts a fleet in which `order.o1.place` was dead-lettered for a fault in SQL that has been
/// mended since.
async fn fleet_with_a_dead_command() -> (TestFleet, Letter) {
    let fleet = TestFleet::start().await;
    let letter = kill_a_command(&fleet).await;
    (fleet, letter)
}

pub async fn kill_a_command(fleet: &TestFleet) -> Letter {
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let payload = placed(&[("Soup", 500, 1)]).to_string();
    fleet.producer().await.store("k1", "order.o1.place", &payload).await;
    let letter = letters(fleet, 1).await.remove(0);
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
    letter
}

#[tokio::test]
async fn a_dead_command_is_replayed_once_and_audited() {
    let (fleet, letter) = fleet_with_a_dead_command().await;
    assert_eq!(
        (letter.worker.as_str(), letter.subject.as_str()),
        ("command-handler", "cmd.t1.order.o1.place")
    );
    let producer = fleet.producer().await;
    let asked = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap();
    assert_eq!(asked.status, 404, "a dead letter has no outcome");
    let desk = desk(&fleet).await;
    desk.replay(&letter, "op1").await.unwrap();
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
    let again = desk.replay(&letter, "op2").await.unwrap_err().to_string();
    assert!(again.contains("was replayed by op1 at "), "{again}");
    assert!(desk.drop(&letter, "why not", "op2").await.is_err());
    assert_eq!(desk.list(&Filter::default()).await.unwrap().len(), 0);
    let all = desk.list(&Filter { all: true, ..Filter::default() }).await.unwrap();
    assert_eq!((all.len(), all[0].action.as_deref()), (1, Some("replay")));
    // It is whole, and in the archive alone.
    assert_eq!(held(&fleet, "DLQ").await.0, 0);
    let archived = desk.get(letter.number).await.unwrap();
    assert_eq!((&archived.headers, &archived.worker), (&letter.headers, &letter.worker));
    assert_eq!((&archived.reason, &archived.at), (&letter.reason, &letter.at));
    let payload = desk.payload(letter.number).await.unwrap();
    assert_eq!(payload, placed(&[("Soup", 500, 1)]).to_string());
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}

#[tokio::test]
async fn a_replay_that_was_interrupted_is_finished_by_asking_again() {
    let (fleet, letter) = fleet_with_a_dead_command().await;
    // As it stands after a crash between the claim and the sending.
    sqlx::query(
        "insert into brigade.dead_letter_actions (dlq_created, dlq_seq, action, subject, actor)
         select created, $1, 'replay', $2, 'op1' from (select $3::timestamptz as created) x",
    )
    .bind(sequence(&letter))
    .bind(&letter.subject)
    .bind(desk(&fleet).await.created())
    .execute(&fleet.sql)
    .await
    .unwrap();
    desk(&fleet).await.replay(&letter, "op2").await.unwrap();
    let producer = fleet.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
}

/// Returns the number of a letter of the stream.
fn sequence(letter: &Letter) -> i64 {
    match letter.number {
        Number::Stream(number) => number.cast_signed(),
        Number::Table(number) => panic!("sql-{number} stands in SQL"),
    }
}

#[tokio::test]
async fn a_letter_that_was_done_with_is_taken_away_by_whoever_comes_next() {
    let (fleet, letter) = fleet_with_a_dead_command().await;
    let desk = desk(&fleet).await;
    let done = "insert into brigade.dead_letter_actions
                    (dlq_created, dlq_seq, action, subject, actor, done_at)
                values ($3, $1, 'replay', $2, 'op1', now())";
    let left = "select left_at is not null from brigade.dead_letter_actions";
    let left = || sqlx::query_scalar::<_, bool>(left).fetch_one(&fleet.sql);
    // As before letters left, or after a crash: it is done, and still in the stream.
    let done = sqlx::query(done).bind(sequence(&letter)).bind(&letter.subject).bind(desk.created());
    done.execute(&fleet.sql).await.unwrap();
    assert!(desk.list(&Filter::default()).await.unwrap().is_empty());
    let refused = desk.drop(&letter, "why not", "op2").await.unwrap_err().to_string();
    assert!(refused.contains("was replayed by op1 at "), "{refused}");
    assert_eq!((held(&fleet, "DLQ").await.0, left().await.unwrap()), (0, true));
    assert_eq!(desk.get(letter.number).await.unwrap().headers, letter.headers);
    let payload = desk.payload(letter.number).await.unwrap();
    assert_eq!(payload, placed(&[("Soup", 500, 1)]).to_string());
    // A crash after the letter was deleted, and before that was noted.
    let forgotten = "update brigade.dead_letter_actions set left_at = null";
    sqlx::query(forgotten).execute(&fleet.sql).await.unwrap();
    desk.remove_completed().await.unwrap();
    desk.remove_completed().await.unwrap();
    assert!(left().await.unwrap());
    // Another stream of this name has its own first letter.
    sqlx::query(forgotten).execute(&fleet.sql).await.unwrap();
    jetstream::new(fleet.connect("operator").await).delete_stream("DLQ").await.unwrap();
    until("a new stream", || async {
        let js = jetstream::new(fleet.connect("operator").await);
        js.get_stream("DLQ").await.ok().map(drop)
    })
    .await;
    let fresh = self::desk(&fleet).await;
    fresh.remove_completed().await.unwrap();
    assert!(left().await.unwrap() && fresh.get(letter.number).await.is_err());
}

#[tokio::test]
async fn a_command_that_was_decided_since_is_replayed_by_force_alone() {
    let (fleet, letter) = fleet_with_a_dead_command().await;
    let desk = desk(&fleet).await;
    let producer = fleet.producer().await;
    let decided = producer.send_as("k1", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    assert_eq!(decided.status, 201);
    assert_eq!(desk.list(&Filter::default()).await.unwrap()[0].outcome, Some(201));
    let refused = desk.replay(&letter, "op1").await.unwrap_err().to_string();
    assert!(refused.contains("has the outcome 201"), "{refused}");
    desk.force(&letter, "to see", "op1").await.unwrap();
    fleet.until_idle().await;
    let why = "select reason from brigade.dead_letter_actions where action = 'replay'";
    let why: String = sqlx::query_scalar(why).fetch_one(&fleet.sql).await.unwrap();
    assert_eq!((why.as_str(), held(&fleet, "DLQ").await.0), ("to see", 0));

    // An outcome is known for 30 days: of what died before that nobody knows.
    let old = "insert into brigade.dead_letters (message, subject, headers, payload, stored_at)
               values ('m', 'dlq.command-handler.cmd.t1.order.o2.place', $1::json, $2,
                       now() - make_interval(days => $3))";
    let headers = r#"[["Command-Id","k2"],["Origin-Subject","cmd.t1.order.o2.place"]]"#;
    let payload = placed(&[("Soup", 500, 1)]).to_string().into_bytes();
    let old = sqlx::query(old).bind(headers).bind(payload).bind(31);
    old.execute(&fleet.sql).await.unwrap();
    let old = desk.list(&Filter::default()).await.unwrap().remove(0);
    assert_eq!(old.number.to_string(), "sql-1");
    let refused = desk.replay(&old, "op1").await.unwrap_err().to_string();
    assert!(refused.contains("older than 30 days"), "{refused}");
    desk.force(&old, "nobody else sent it", "op1").await.unwrap();
    let outcome = producer.request("q.t1.outcome.k2", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!((&outcome.body()["status"], in_sql(&fleet).await), (&json!(201), 0));
    fleet.finish().await;
}

/// A producer floods the durable door with unreadable messages, more than `DLQ` holds.
#[tokio::test]
async fn s5_07_letters_beyond_their_stream_stand_in_sql_and_nobody_waits() {
    let fleet = TestFleet::start().await;
    shrink(&fleet, "DLQ", 64 * 1024).await;
    let js = jetstream::new(fleet.connect("t1-producer").await);
    // Without a Command-Id there is nobody to be told: 60 letters of 4 KiB.
    let flood = async {
        for n in 0..60 {
            let payload = format!("{n:04096}");
            js.publish(format!("cmd.t1.cart.c{n}.open"), payload.into())
                .await
                .unwrap()
                .await
                .unwrap();
        }
    };
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    let decided = async {
        for n in 0..10 {
            let open = json!({"kind": "menu", "owner": "a", "currency": "EUR"});
            let outcome = other.publish(&format!("k{n}"), &format!("cart.c{n}.open"), open).await;
            assert_eq!(outcome["status"], 201);
        }
    };
    tokio::join!(flood, decided);
    let desk = desk(&fleet).await;
    let all = letters(&fleet, 60).await;
    // Nothing is kept to be tried again.
    fleet.until_idle().await;
    let sent = |letter: &Letter| letter.headers.get("Origin-Seq").unwrap().as_str().to_owned();
    assert_eq!(all.iter().map(sent).collect::<HashSet<_>>().len(), 60);
    let (stored, beyond): (Vec<_>, Vec<_>) =
        all.iter().partition(|letter| matches!(letter.number, Number::Stream(_)));
    assert!(!stored.is_empty() && beyond.len() > 30, "{} and {}", stored.len(), beyond.len());
    let counter =
        fleet.metrics.group::<DeadLetterMetrics>().in_sql.with_label_values(&["command-handler"]);
    assert_eq!(usize::try_from(counter.get()).unwrap(), beyond.len());
    let filled = fleet.metrics.group::<VerifierMetrics>().stream_filled.with_label_values(&["DLQ"]);
    until("the alarm", || async { (filled.get() >= 50).then_some(()) }).await;
    for letter in [stored[0], beyond[0]] {
        let shown = desk.get(letter.number).await.unwrap();
        assert_eq!((&shown.worker, &shown.headers), (&letter.worker, &letter.headers));
        assert_eq!(shown.worker, "command-handler");
        assert_eq!(desk.payload(letter.number).await.unwrap().len(), 4096);
    }
    for letter in &all {
        desk.drop(letter, "a flood", "op1").await.unwrap();
    }
    assert_eq!((held(&fleet, "DLQ").await.0, in_sql(&fleet).await), (0, 0));
    assert!(desk.list(&Filter::default()).await.unwrap().is_empty());
    let archive = Filter { all: true, worker: Some("command-handler".into()), ..Filter::default() };
    assert_eq!(desk.list(&archive).await.unwrap().len(), 60);
    assert_eq!(desk.payload(beyond[0].number).await.unwrap().len(), 4096);
    fleet.finish().await;
}

#[tokio::test]
async fn s5_07_a_letter_in_sql_is_replayed_once() {
    let fleet = TestFleet::start().await;
    // No letter is that small.
    shrink(&fleet, "DLQ", 64).await;
    let letter = kill_a_command(&fleet).await;
    assert_eq!(letter.number.to_string(), "sql-1");
    let desk = desk(&fleet).await;
    desk.replay(&letter, "op1").await.unwrap();
    let producer = fleet.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!((&outcome.body()["status"], in_sql(&fleet).await), (&json!(201), 0));
    let again = desk.replay(&letter, "op2").await.unwrap_err().to_string();
    assert!(again.contains("was replayed by op1 at "), "{again}");
    assert_eq!(desk.get(letter.number).await.unwrap().action.as_deref(), Some("replay"));
    fleet.finish().await;
}

/// More commands are decided than their stream holds, and it takes each of them.
#[tokio::test]
async fn s5_07_decided_commands_leave_a_stream_that_fills() {
    const MOST: u64 = 256 * 1024;
    let fleet = TestFleet::start().await;
    shrink(&fleet, "COMMANDS", MOST.cast_signed()).await;
    let producer = fleet.producer().await;
    let name = "Soup of the day ".repeat(12);
    let items: Vec<_> = (0..16).map(|_| (name.as_str(), 500, 1)).collect();
    let place = placed(&items);
    let size = u64::try_from(place.to_string().len()).unwrap();
    let (windows, window) = (30, 12);
    assert!(size * windows * window > 4 * MOST && size * window < MOST / 4);
    for first in 0..windows {
        let sent = (0..window).map(|n| {
            let (id, what) = (format!("k{first}-{n}"), format!("order.o{first}-{n}.place"));
            let (producer, place) = (producer.clone(), place.clone());
            async move { producer.publish(&id, &what, place).await }
        });
        for outcome in join_all(sent).await {
            assert_eq!(outcome["status"], 201);
        }
        until("room", || async { (held(&fleet, "COMMANDS").await.1 < MOST / 2).then_some(()) })
            .await;
    }
    let lost =
        fleet.metrics.group::<VerifierMetrics>().heals.with_label_values(&["COMMANDS", "purged"]);
    assert_eq!(lost.get(), 0, "what is decided and gone is no loss");
    fleet.finish().await;
}

#[tokio::test]
async fn settled_letters_are_kept_for_30_days_and_others_for_ever() {
    let fleet = TestFleet::empty().await;
    let settled = "insert into brigade.dead_letter_actions
                       (dlq_created, dlq_seq, action, subject, actor, done_at, left_at)
                   select timestamptz 'epoch', n, 'drop', 's', 'op1', now(),
                          now() - make_interval(days => case when n % 2 = 0 then 31 else 29 end)
                   from generate_series(1, 2500) n
                   union all
                   select timestamptz 'epoch', 2501, 'drop', 's', 'op1', now(), null";
    sqlx::query(settled).execute(&fleet.sql).await.unwrap();
    let handler = fleet.instance(WorkerName::CommandHandler);
    until("old letters to go", || async {
        let left: i64 = sqlx::query_scalar("select count(*) from brigade.dead_letter_actions")
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
        assert!(left >= 1251);
        (left == 1251).then_some(())
    })
    .await;
    handler.stop().await;
}

#[tokio::test]
async fn session_events_are_known_for_30_days() {
    let fleet = TestFleet::empty().await;
    // Ids of version 7, as events have them: the milliseconds, then a number.
    let events = "insert into brigade.user_activity (event_id, tenant, id, version, type, at)
                  select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
                          || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
                         't1', 'ada', n, 'logged_in', at
                  from generate_series(1, 2500) n,
                       lateral (select now() - make_interval(days => case when n % 2 = 0 then 31
                                                                     else 29 end)) t (at)";
    sqlx::query(events).execute(&fleet.sql).await.unwrap();
    let handler = fleet.instance(WorkerName::CommandHandler);
    until("old events to go", || async {
        let left: Vec<i64> = sqlx::query_scalar("select version from brigade.user_activity")
            .fetch_all(&fleet.sql)
            .await
            .unwrap();
        assert!(left.len() >= 1250);
        (left.len() == 1250 && left.iter().all(|n| n % 2 == 1)).then_some(())
    })
    .await;
    handler.stop().await;
}

/// Letters that die again however often they are replayed.
#[tokio::test]
async fn what_can_never_be_decided_is_not_replayed_even_by_force() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let open = |owner: &str| json!({"kind": "team", "owner": owner, "currency": "EUR"});
    assert_eq!(producer.send_as("k1", "cart.c1.open", open("ada")).await.status, 201);
    producer.store("k1", "cart.c1.join", r#"{"user":"bob"}"#).await;
    producer.store("k1", "cart.c1.open", &open("eve").to_string()).await;
    let js = jetstream::new(fleet.connect("t1-producer").await);
    js.publish("cmd.t1.cart.c1.leave", "{}".into()).await.unwrap().await.unwrap();
    let all = letters(&fleet, 3).await;
    let desk = desk(&fleet).await;
    for (subject, why) in [
        ("cmd.t1.cart.c1.join", "belongs to another command (cart.c1.open)"),
        ("cmd.t1.cart.c1.open", "belongs to another command (cart.c1.open, another payload)"),
        ("cmd.t1.cart.c1.leave", "needs one header Command-Id"),
    ] {
        let letter = all.iter().find(|letter| letter.subject == subject).unwrap();
        assert_eq!(letter.outcome, None, "{subject}: it was never decided");
        let tried = [desk.replay(letter, "op1").await, desk.force(letter, "so", "op1").await];
        for refused in tried.map(|done| done.unwrap_err().to_string()) {
            assert!(refused.contains(why), "{subject}: {refused}");
        }
        desk.drop(letter, "sent again", "op1").await.unwrap();
    }
    // The outcome of the other command is as it was.
    let outcome = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
    fleet.finish().await;
}

#[tokio::test]
async fn a_dropped_command_gets_an_outcome_that_says_so() {
    let (fleet, letter) = fleet_with_a_dead_command().await;
    desk(&fleet).await.drop(&letter, "ordered twice", "op1").await.unwrap();
    let producer = fleet.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap().body();
    assert_eq!((&outcome["status"], &outcome["code"]), (&json!(500), &json!("dropped")));
    // Whoever sends it again hears the same: it stays dropped.
    let again = producer.send_as("k1", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    assert_eq!(again.body(), outcome);
}

#[tokio::test]
async fn a_stream_that_is_made_again_counts_from_1_and_its_letters_are_no_duplicates() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.store("k1", "order.o1.no_such_verb", "{}").await;
    // Without a Command-Id there can be no outcome.
    producer.store("not a token", "order.o1.place", "{}").await;
    let first = letters(&fleet, 1).await.remove(0);
    let js = jetstream::new(fleet.connect("operator").await);
    js.delete_stream("COMMANDS").await.unwrap();
    until("the stream to be made again", async || js.get_stream("COMMANDS").await.ok()).await;
    producer.store("k2", "order.o1.no_such_verb", "{}").await;
    producer.store("not a token", "order.o2.place", "{}").await;
    let both = letters(&fleet, 2).await;
    let subjects: HashSet<_> = both.iter().map(|letter| letter.subject.as_str()).collect();
    assert_eq!(first.subject, "cmd.t1.order.o1.place");
    assert_eq!(subjects, HashSet::from(["cmd.t1.order.o1.place", "cmd.t1.order.o2.place"]));
}

#[tokio::test]
async fn a_dead_event_goes_back_to_the_outbox() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    fleet.take(WorkerName::PaymentProjector).stop().await;
    producer.team_cart("c1", "ada", &[]).await;
    fleet.until_relayed().await;
    // It died at a projector that could not read it; here it is buried by hand.
    let event = check::raw_events(&fleet).await.remove(0);
    let mut headers = event.headers.clone().unwrap();
    headers.insert("Origin-Subject", event.subject.as_str());
    headers.insert("Nats-Msg-Id", "payment-projector.EVENTS.1");
    let js = jetstream::new(fleet.connect("payment-projector").await);
    let subject = format!("dlq.payment-projector.{}", event.subject);
    js.publish_with_headers(subject, headers, event.payload).await.unwrap().await.unwrap();
    let letter = letters(&fleet, 1).await.remove(0);
    desk(&fleet).await.replay(&letter, "op1").await.unwrap();
    fleet.until_relayed().await;
    let events = check::raw_events(&fleet).await;
    assert_eq!(events.len(), 2);
    let id = |at: usize| events[at].headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str();
    assert!(id(1).starts_with(&format!("{}.", id(0))), "{} {}", id(0), id(1));
    fleet.run(WorkerName::PaymentProjector).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}
