//! Dead letters in an operator's hands.

use brigade::dead_letters::{DeadLetters, Filter, Letter};
use brigade_contracts::WorkerName;
use brigade_tests::{Town, check, producer::placed, until};
use serde_json::json;

async fn desk(town: &Town) -> DeadLetters {
    let js = async_nats::jetstream::new(town.connect("operator").await);
    DeadLetters::open(js, town.sql.clone()).await.unwrap()
}

async fn letters(town: &Town, count: usize) -> Vec<Letter> {
    until("the dead letters", || async {
        let found = desk(town).await.list(&Filter::default()).await.unwrap();
        (found.len() == count).then_some(found)
    })
    .await
}

/// A town in which `order.o1.place` died of a fault in SQL that has been mended since.
async fn town_with_a_dead_command() -> (Town, Letter) {
    let town = Town::start().await;
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&town.sql).await.unwrap();
    let payload = placed(&[("Soup", 500, 1)]).to_string();
    town.producer().await.store("k1", "order.o1.place", &payload).await;
    let letter = letters(&town, 1).await.remove(0);
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&town.sql).await.unwrap();
    (town, letter)
}

#[tokio::test]
async fn a_dead_command_is_replayed_once_and_audited() {
    let (town, letter) = town_with_a_dead_command().await;
    assert_eq!(
        (letter.worker.as_str(), letter.subject.as_str()),
        ("command-handler", "cmd.t1.order.o1.place")
    );
    let producer = town.producer().await;
    let asked = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap();
    assert_eq!(asked.status, 404, "a dead letter has no outcome");
    let desk = desk(&town).await;
    desk.replay(&letter, "op1").await.unwrap();
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
    let again = desk.replay(&letter, "op2").await.unwrap_err().to_string();
    assert!(again.contains("replay by op1"), "{again}");
    assert!(desk.drop(&letter, "why not", "op2").await.is_err());
    assert_eq!(desk.list(&Filter::default()).await.unwrap().len(), 0);
    let all = desk.list(&Filter { all: true, ..Filter::default() }).await.unwrap();
    assert_eq!(all[0].action.as_deref(), Some("replay"));
    town.until_idle().await;
    check::kv_equals_sql(&town).await;
}

#[tokio::test]
async fn a_replay_that_was_interrupted_is_finished_by_asking_again() {
    let (town, letter) = town_with_a_dead_command().await;
    // As it stands after a crash between the claim and the sending.
    sqlx::query(
        "insert into brigade.dead_letter_actions (dlq_created, dlq_seq, action, subject, actor)
         select created, $1, 'replay', $2, 'op1' from (select $3::timestamptz as created) x",
    )
    .bind(letter.sequence.cast_signed())
    .bind(&letter.subject)
    .bind(desk(&town).await.created())
    .execute(&town.sql)
    .await
    .unwrap();
    desk(&town).await.replay(&letter, "op2").await.unwrap();
    let producer = town.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
}

#[tokio::test]
async fn a_dropped_command_gets_an_outcome_that_says_so() {
    let (town, letter) = town_with_a_dead_command().await;
    desk(&town).await.drop(&letter, "ordered twice", "op1").await.unwrap();
    let producer = town.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[], b"").await.unwrap().body();
    assert_eq!((&outcome["status"], &outcome["code"]), (&json!(500), &json!("dropped")));
    // Whoever sends it again hears the same: it stays dropped.
    let again = producer.send_as("k1", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    assert_eq!(again.body(), outcome);
}

#[tokio::test]
async fn a_dead_event_goes_back_to_the_outbox() {
    let mut town = Town::start().await;
    let producer = town.producer().await;
    town.take(WorkerName::PaymentProjector).stop().await;
    producer.team_cart("c1", "ada", &[]).await;
    town.until_relayed().await;
    // It died at a projector that could not read it; here it is buried by hand.
    let event = check::raw_events(&town).await.remove(0);
    let mut headers = event.headers.clone().unwrap();
    headers.insert("Origin-Subject", event.subject.as_str());
    headers.insert("Nats-Msg-Id", "payment-projector.EVENTS.1");
    let js = async_nats::jetstream::new(town.connect("payment-projector").await);
    let subject = format!("dlq.payment-projector.{}", event.subject);
    js.publish_with_headers(subject, headers, event.payload).await.unwrap().await.unwrap();
    let letter = letters(&town, 1).await.remove(0);
    desk(&town).await.replay(&letter, "op1").await.unwrap();
    town.until_relayed().await;
    let events = check::raw_events(&town).await;
    assert_eq!(events.len(), 2);
    let id = |at: usize| events[at].headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str();
    assert!(id(1).starts_with(&format!("{}.", id(0))), "{} {}", id(0), id(1));
    town.run(WorkerName::PaymentProjector).await;
    town.until_idle().await;
    check::kv_equals_sql(&town).await;
}
