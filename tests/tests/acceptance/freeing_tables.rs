//! S3: success is answered when every effect is committed, and not before; whatever fails, all of
//! it is done or nothing.

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Town, paying::result, process::Process, producer::placed, until};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};

/// The steps of command-handler at which it may die.
const POINTS: [&str; 6] = [
    "command-handler.before_write",
    "command-handler.before_commit",
    "command-handler.after_commit",
    "command-handler.after_projection",
    "command-handler.before_answer",
    "command-handler.before_ack",
];

/// A party at a table that has ordered for 10.00 and begins to pay, all called `id`.
async fn dinner(producer: &Producer, id: &str) {
    producer.done(&format!("table.{id}.register"), json!({"label": id, "seats": 4})).await;
    producer.done(&format!("table.{id}.open_turn"), json!({"turn_id": format!("u-{id}")})).await;
    let mut place = placed(&[("Pizza", 1000, 1)]);
    place["table_id"] = json!(id);
    producer.done(&format!("order.{id}.place"), place).await;
    begin(producer, id, id).await;
}

async fn begin(producer: &Producer, payment: &str, order: &str) {
    let payload = json!({"target": {"order": order}, "method": "card"});
    producer.done(&format!("payment.{payment}.initiate"), payload).await;
}

/// Payment, whether the order is paid, table, whether the turn is open: as SQL has them.
async fn stands(town: &Town, id: &str) -> (String, bool, String, bool) {
    sqlx::query_as(
        "select p.status, o.paid_at is not null, t.status, u.closed_at is null
         from brigade.payments p, brigade.orders o, brigade.tables t, brigade.turns u
         where p.id = $1 and o.id = $1 and t.id = $1 and u.id = 'u-' || $1",
    )
    .bind(id)
    .fetch_one(&town.sql)
    .await
    .unwrap()
}

fn nothing() -> (String, bool, String, bool) {
    ("initiated".to_owned(), false, "occupied".to_owned(), true)
}

fn all() -> (String, bool, String, bool) {
    ("captured".to_owned(), true, "available".to_owned(), false)
}

/// Somebody else holds the rows of all tables.
async fn held(town: &Town) -> Transaction<'static, Postgres> {
    let mut held = town.sql.begin().await.unwrap();
    sqlx::query("select from brigade.tables for update").execute(&mut *held).await.unwrap();
    held
}

#[tokio::test]
async fn s3_02_success_is_answered_only_after_every_effect_is_committed() {
    let town = Town::start().await;
    let producer = town.producer().await;
    dinner(&producer, "t1").await;
    let holds = held(&town).await;
    let asked = {
        let producer = producer.clone();
        let captured = result("captured", "tx", 1000);
        tokio::spawn(
            async move { producer.insist("k", "payment.t1.record_result", captured).await },
        )
    };
    town.until_a_row_is_waited_for().await;
    assert_eq!(stands(&town, "t1").await, nothing());
    assert!(!asked.is_finished(), "nobody is told a success that is not there");
    holds.rollback().await.unwrap();
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, stands(&town, "t1").await), (200, all()));
    town.finish().await;
}

#[tokio::test]
async fn s3_07_a_table_that_cannot_be_changed_is_a_clear_error_and_a_repetition_does_it_all() {
    let town = Town::start().await;
    let producer = town.producer().await;
    dinner(&producer, "t1").await;
    let holds = held(&town).await;
    let captured = result("captured", "tx", 1000);
    let refused = producer.send_as("k", "payment.t1.record_result", captured.clone()).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "not_decided"));
    assert!(refused.body()["retry_after_ms"].is_u64(), "{:?}", refused.body());
    assert_eq!(stands(&town, "t1").await, nothing());
    holds.rollback().await.unwrap();
    let done = producer.insist("k", "payment.t1.record_result", captured.clone()).await;
    assert_eq!((done.status, stands(&town, "t1").await), (200, all()));
    // The answer was lost on the way: the repetition gets the same bytes, and nothing is done
    // twice.
    let again = producer.send_as("k", "payment.t1.record_result", captured).await;
    assert_eq!(again.bytes, done.bytes);
    town.finish().await;
}

#[tokio::test]
async fn s3_07_a_result_that_nobody_knows_keeps_the_table_until_it_is_known() {
    let town = Town::start().await;
    let producer = town.producer().await;
    dinner(&producer, "t1").await;
    producer.done("payment.t1.record_result", result("unknown", "tx", 1000)).await;
    let (payment, paid, table, open) = stands(&town, "t1").await;
    assert_eq!(
        (payment.as_str(), paid, table.as_str(), open),
        ("unknown", false, "occupied", true)
    );
    let cancelled = producer.refused("order.t1.cancel", json!({"reason": "time is up"})).await;
    assert_eq!(cancelled, (409, "payment_open".to_owned()));
    let freed = producer.refused("table.t1.set_status", json!({"status": "available"})).await;
    assert_eq!(freed, (409, "unpaid_order".to_owned()));
    producer.done("payment.t1.record_result", result("captured", "tx", 1000)).await;
    assert_eq!(stands(&town, "t1").await, all());
    town.finish().await;
}

/// A later step fails: the handler dies with the capture in hand, at each of its steps.
#[tokio::test]
async fn s3_07_a_handler_may_die_at_each_step_of_a_capture_and_nobody_has_to_repeat_it() {
    let dies_at = |point: &'static str| async move {
        let town = Town::start().await;
        let producer = town.producer().await;
        dinner(&producer, "t1").await;
        town.stop_one(WorkerName::CommandHandler).await;
        let mut dying = Process::start(&town, &[WorkerName::CommandHandler], Some(point)).await;
        let captured = result("captured", "tx", 1000).to_string();
        producer.store("k", "payment.t1.record_result", &captured).await;
        assert!(!dying.ended().await.success(), "it dies at {point}");
        let left = stands(&town, "t1").await;
        let committed =
            !["command-handler.before_write", "command-handler.before_commit"].contains(&point);
        assert_eq!(left, if committed { all() } else { nothing() }, "{point}");
        let mut town = town;
        town.run(WorkerName::CommandHandler).await;
        let outcome = until("the outcome", || async {
            let reply = producer.request("q.t1.outcome.k", &[("Wait-Ms", "5000")], b"").await?;
            (reply.status == 200).then(|| reply.body())
        })
        .await;
        assert_eq!(outcome["status"], 200, "{point}");
        assert_eq!(stands(&town, "t1").await, all(), "{point}");
        town.finish().await;
    };
    stream::iter(POINTS).map(dies_at).buffer_unordered(3).collect::<()>().await;
}

#[tokio::test]
async fn s3_06_duplicate_late_and_out_of_order_results_free_the_table_once() {
    let town = Town::start().await;
    let producer = town.producer().await;
    let owed = async || -> Vec<(String, i64)> {
        let owed = "select payment_id, amount from brigade.refund_tasks order by id";
        sqlx::query_as(owed).fetch_all(&town.sql).await.unwrap()
    };
    let record = async |payment: &str, kind: &str, transaction: &str| -> Value {
        let what = format!("payment.{payment}.record_result");
        let reply = producer.send(&what, result(kind, transaction, 1000)).await;
        assert_eq!(reply.status, 200, "{what} {kind}: {}", reply.body());
        reply.body()["code"].clone()
    };
    dinner(&producer, "dup").await;
    assert_eq!(record("dup", "captured", "tx").await, "ok");
    assert_eq!(record("dup", "captured", "tx").await, "already_captured");
    assert_eq!(record("dup", "failed", "tx").await, "ignored");
    assert_eq!(record("dup", "unknown", "tx").await, "ignored");
    assert_eq!((stands(&town, "dup").await, owed().await), (all(), vec![]));
    // Captured by a second transaction: the money is owed back, nothing else changes.
    record("dup", "captured", "tx2").await;
    assert_eq!((stands(&town, "dup").await, owed().await), (all(), vec![("dup".to_owned(), 1000)]));

    // Late: the guest gave up and paid otherwise; the first card was charged after all.
    dinner(&producer, "late").await;
    producer.done("payment.late.cancel", json!({"reason": "another card"})).await;
    begin(&producer, "other", "late").await;
    record("other", "captured", "tx3").await;
    record("late", "captured", "tx4").await;
    let (payment, paid, table, open) = stands(&town, "late").await;
    assert_eq!(
        (payment.as_str(), paid, table.as_str(), open),
        ("late_captured", true, "available", false)
    );
    assert_eq!(owed().await.last(), Some(&("late".to_owned(), 1000)));

    // Out of order: the result is in the stream before its payment.
    producer.done("table.early.register", json!({"label": "3", "seats": 2})).await;
    producer.done("table.early.open_turn", json!({"turn_id": "u-early"})).await;
    let mut place = placed(&[("Tea", 1000, 1)]);
    place["table_id"] = json!("early");
    producer.done("order.early.place", place).await;
    let captured = result("captured", "tx5", 1000).to_string();
    producer.store("early", "payment.early.record_result", &captured).await;
    begin(&producer, "early", "early").await;
    until("the result that came early", || async {
        (stands(&town, "early").await == all()).then_some(())
    })
    .await;
    town.finish().await;
}
