//! S2: results of the gateway that come twice, early, out of order or for no payment: none is lost,
//! and none counts twice.

use brigade_contracts::WorkerName;
use brigade_tests::{
    TestFleet, check,
    paying::{held_locks, refund_tasks, result},
    until,
};
use serde_json::json;

#[tokio::test]
async fn a_result_that_comes_again_through_either_door_has_its_effect_once() {
    let mut fleet = TestFleet::start().await;
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    // The gateway calls 20 times at once, as a http hook does that gets no answer in time.
    let captured = result("captured", "g1", 1000);
    let calls = (0..20).map(|n| {
        let (producer, captured) = (producer.clone(), captured.clone());
        async move {
            if n % 2 == 0 {
                producer.send("payment.p1.record_result", captured).await.body()
            } else {
                producer.publish(&format!("hook{n}"), "payment.p1.record_result", captured).await
            }
        }
    });
    let outcomes = futures::future::join_all(calls).await;
    let count = |code: &str| outcomes.iter().filter(|outcome| outcome["code"] == code).count();
    assert_eq!((count("ok"), count("already_captured")), (1, 19), "{outcomes:?}");
    // The very command again, on the other door, is its outcome again.
    let first = producer.send_as("k", "payment.p1.record_result", captured.clone()).await.body();
    assert_eq!(producer.publish("k", "payment.p1.record_result", captured).await, first);
    for (kind, transaction, code) in
        [("failed", "g1", "ignored"), ("unknown", "g1", "ignored"), ("failed", "g0", "ignored")]
    {
        let version = producer.view("payment.p1", None).await.etag;
        let outcome = producer.result("p1", kind, transaction, 1000).await.body();
        assert_eq!((&outcome["status"], &outcome["code"]), (&json!(200), &json!(code)));
        assert_eq!(producer.view("payment.p1", None).await.etag, version, "no event");
    }
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    assert_eq!(refund_tasks(&fleet).await, vec![]);
    // Another transaction is other money.
    assert_eq!(producer.result("p1", "captured", "g2", 1000).await.code(), "ok");
    assert_eq!(producer.result("p1", "captured", "g2", 1000).await.code(), "already_captured");
    assert_eq!(refund_tasks(&fleet).await, [(1000, "captured_again".to_owned())]);
    fleet.finish().await;
}

#[tokio::test]
async fn a_failure_of_a_transaction_that_is_no_longer_bound_is_ignored() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    for transaction in ["g1", "g2"] {
        let bind = json!({ "transaction_id": transaction });
        producer.done("payment.p1.bind_transaction", bind).await;
    }
    assert_eq!(producer.result("p1", "failed", "g1", 1000).await.code(), "ignored");
    assert_eq!(held_locks(&fleet).await.len(), 1);
    assert_eq!(producer.result("p1", "captured", "g2", 1000).await.code(), "ok");
    fleet.finish().await;
}

#[tokio::test]
async fn a_result_that_is_earlier_than_its_payment_is_never_lost() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let captured = result("captured", "g1", 1000);
    // Who waits for an answer is told to come again: nothing of it is kept.
    let early = producer.send_as("k1", "payment.p1.record_result", captured.clone()).await;
    assert_eq!((early.status, early.code().as_str()), (503, "payment_not_there_yet"));
    assert!(early.body()["retry_after_ms"].as_u64().is_some());
    // On the durable door it waits by itself.
    producer.store("k2", "payment.p1.record_result", &captured.to_string()).await;
    let waiting: i64 = sqlx::query_scalar(
        "select count(*) from brigade.command_inbox where command_id in ('k1', 'k2')",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(waiting, 0);
    producer.initiate("p1", "c1").await;
    let asked = producer.request("q.t1.outcome.k2", &[("Wait-Ms", "30000")], b"").await.unwrap();
    assert_eq!(asked.body()["status"], 200, "{}", asked.body());
    let again = producer.send_as("k1", "payment.p1.record_result", captured).await;
    assert_eq!((again.status, again.code().as_str()), (200, "already_captured"));
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    fleet.finish().await;
}

#[tokio::test]
async fn a_result_without_a_payment_is_dead_lettered_with_its_payload() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let said = result("captured", "g1", 1000).to_string();
    producer.store("k1", "payment.p1.record_result", &said).await;
    let letter =
        until("the dead letter", || async { check::dead_letters(&fleet).await.pop() }).await;
    assert_eq!(letter.payload, said);
    let header = |name: &str| letter.headers.as_ref().unwrap().get(name).unwrap().as_str();
    assert_eq!(header("Origin-Subject"), "cmd.t1.payment.p1.record_result");
    assert_eq!(header("Command-Id"), "k1");
    assert!(header("Dead-Reason").contains("payment_not_there_yet"), "{}", header("Dead-Reason"));
    fleet.until_idle().await;
}
