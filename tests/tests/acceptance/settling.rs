//! Money that waits for a person: seen, alarmed and settled.

use brigade::workers::cache_verifier::{MoneyMetrics, WaitingMoney};
use brigade_tests::{HttpResponse, Producer, Reply, TestFleet, paying::result, until};
use futures::StreamExt;
use serde_json::{Value, json};

use super::prices::with_roles;

pub fn settle(settlement: Value) -> Value {
    json!({"settlement": settlement, "reason": "seen in the books of the gateway"})
}

pub fn task(id: &str) -> Value {
    settle(json!({"refund_task": id}))
}

fn captured(transaction: &str) -> Value {
    let capture = json!({"transaction_id": transaction, "amount": 1000, "currency": "EUR"});
    settle(json!({ "captured": capture }))
}

/// Waits until so many wait and the oldest is so old, in total and of the restaurant.
async fn waits(fleet: &TestFleet, what: WaitingMoney, count: i64, at_least: i64) {
    let metrics = fleet.metrics.group::<MoneyMetrics>();
    let what = what.as_str();
    until(&format!("{count} {what} of {at_least} s"), || async {
        let total = metrics.waiting.with_label_values(&[what]).get();
        let oldest = metrics.oldest_seconds.with_label_values(&[what]).get();
        let of_tenant = fleet.metrics.render();
        let series =
            format!("brigade_money_waiting_of_tenant{{tenant=\"t1\",what=\"{what}\"}} {count}\n");
        let is_told = of_tenant.contains(&series) == (count > 0);
        let is_old = if at_least == 0 { oldest == 0 } else { oldest >= at_least };
        (total == count && is_old && is_told).then_some(())
    })
    .await;
}

async fn push(pushes: &mut async_nats::Subscriber) -> (String, Value) {
    let push = tokio::time::timeout(brigade_tests::PATIENCE, pushes.next()).await;
    let push = push.expect("a push in time").expect("a push");
    (push.subject.to_string(), serde_json::from_slice(&push.payload).expect("JSON"))
}

pub async fn late_money(producer: &Producer) {
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    producer.done("payment.p1.cancel", json!({"reason": "changed her mind"})).await;
    assert_eq!(producer.result("p1", "captured", "g1", 1000).await.status, 200);
}

#[tokio::test]
async fn s7_09_a_refund_task_is_pushed_measured_by_age_and_settled_once() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let backend = fleet.connect("t1-backend").await;
    let mut pushes = backend.subscribe("live.money.t1.>").await.unwrap();
    backend.flush().await.unwrap();
    waits(&fleet, WaitingMoney::RefundTask, 0, 0).await;
    late_money(&producer).await;
    let (subject, told) = push(&mut pushes).await;
    assert_eq!(subject, "live.money.t1.refund_task.p1");
    let open = json!({"id": "p1.1", "payment_id": "p1", "amount": 1000, "currency": "EUR",
                      "reason": "late_capture", "refunded": 0, "status": "open"});
    assert_eq!(told, open);
    waits(&fleet, WaitingMoney::RefundTask, 1, 1).await;
    let aged = "update brigade.refund_tasks set requested_at = requested_at - interval '1 hour'";
    sqlx::query(aged).execute(&fleet.sql).await.unwrap();
    waits(&fleet, WaitingMoney::RefundTask, 1, 3600).await;

    // A part has gone back, and a person settles the rest.
    producer.done("payment.p1.refund", json!({"amount": 333, "reason": "by card"})).await;
    let (_, told) = push(&mut pushes).await;
    assert_eq!((&told["refunded"], &told["status"]), (&json!(333), &json!("open")));
    let settled = producer.done("payment.p1.settle", task("p1.1")).await;
    assert_eq!(settled["refund_tasks"][0]["settled"], 667);
    let (_, told) = push(&mut pushes).await;
    assert_eq!((&told["refunded"], &told["status"]), (&json!(1000), &json!("done")));
    waits(&fleet, WaitingMoney::RefundTask, 0, 0).await;
    let again = producer.send("payment.p1.settle", task("p1.1")).await;
    assert_eq!((again.status, again.code().as_str()), (200, "already_settled"));
    let none = producer.refused("payment.p1.settle", task("p1.2")).await;
    assert_eq!(none, (404, "refund_task_not_found".to_owned()));
    let refund = producer.refused("payment.p1.refund", json!({"reason": "again"})).await;
    assert_eq!(refund, (409, "nothing_to_refund".to_owned()));
    fleet.finish().await;
}

#[tokio::test]
async fn s7_09_an_unknown_payment_is_pushed_measured_by_age_and_settled_once() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let backend = fleet.connect("t1-backend").await;
    let mut pushes = backend.subscribe("live.money.t1.>").await.unwrap();
    backend.flush().await.unwrap();
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    assert_eq!(producer.result("p1", "unknown", "g1", 0).await.status, 200);
    let (subject, told) = push(&mut pushes).await;
    assert_eq!(subject, "live.money.t1.unknown_payment.p1");
    assert_eq!((&told["status"], &told["amount"]), (&json!("unknown"), &json!(1000)));
    waits(&fleet, WaitingMoney::UnknownPayment, 1, 1).await;
    for aged in [
        "update brigade.payments set updated_at = updated_at - interval '1 day'",
        "update brigade.events set at = at - interval '1 day' where type = 'unknown'",
    ] {
        sqlx::query(aged).execute(&fleet.sql).await.unwrap();
    }
    waits(&fleet, WaitingMoney::UnknownPayment, 1, 86_400).await;
    // What changes it meanwhile makes it no younger.
    producer.done("payment.p1.bind_transaction", json!({"transaction_id": "g1"})).await;
    waits(&fleet, WaitingMoney::UnknownPayment, 1, 86_400).await;
    let list = producer.request("q.t1.unknown_payments", &[], b"").await.expect("an answer").body();
    let row = &list["rows"][0];
    let [since, at] = ["unknown_since", "at"].map(|name| row[name].as_str().expect("a time"));
    assert!(since < at, "{row}");

    assert_eq!(producer.send("payment.p1.settle", captured("g1")).await.code(), "ok");
    let (_, told) = push(&mut pushes).await;
    assert_eq!(told["status"], "captured");
    waits(&fleet, WaitingMoney::UnknownPayment, 0, 0).await;
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    // The gateway finds its tongue, and the person says it twice: neither counts again.
    assert_eq!(producer.result("p1", "captured", "g1", 1000).await.code(), "already_captured");
    assert_eq!(producer.send("payment.p1.settle", captured("g1")).await.code(), "already_captured");
    let other = producer.refused("payment.p1.settle", settle(json!("failed"))).await;
    assert_eq!(other, (409, "not_unknown".to_owned()));

    producer.cart_of("c2", "menu", "bob", &[("i1", 1000, 1)]).await;
    producer.initiate("p2", "c2").await;
    producer.done("payment.p2.record_result", result("unknown", "g2", 0)).await;
    for code in ["ok", "already_settled"] {
        let settled = producer.send("payment.p2.settle", settle(json!("failed"))).await;
        assert_eq!((settled.status, settled.code().as_str()), (200, code));
    }
    assert_eq!(producer.payment_status("p2").await, "failed");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_09_a_manager_settles_over_http_and_it_stands_in_the_security_log() {
    let fleet = TestFleet::start().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let manager = with_roles(&fleet, &http, "mia", &["manager"]).await;
    let ada = http.register_and_log_in("ada").await;
    late_money(&producer).await;
    let code = |response: HttpResponse| (response.status, response.code());
    for who in [&ada, &staff] {
        let refused = code(who.post("payment/p1/settle", &task("p1.1")).await);
        assert_eq!(refused, (403, "not_allowed".to_owned()));
        assert_eq!(code(who.get("day-close", &[]).await), (403, "not_allowed".to_owned()));
    }
    let odd = json!({"settlement": {"refund_task": "p1.1"}});
    assert_eq!(code(manager.post("payment/p1/settle", &odd).await).0, 400);
    let settled = manager.post("payment/p1/settle", &task("p1.1")).await;
    assert_eq!(code(settled), (200, "ok".to_owned()));
    let row: (Option<String>, String, Value) = sqlx::query_as(
        "select actor, via, detail from brigade.security_log where kind = 'refund_settled'",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!((row.0.as_deref(), row.1.as_str()), (Some("mia"), "http"));
    assert_eq!(row.2["reason"], "seen in the books of the gateway");
    assert_eq!(row.2["amount"], 1000);

    let close = manager.get("day-close", &[]).await.body();
    let line = json!({"method": "card", "currency": "EUR", "captured": 1000, "applied": 0,
                      "refunded": 0, "owed": 0, "settled": 1000, "balance": 0});
    assert_eq!((&close["lines"], &close["balanced"]), (&json!([line]), &json!(true)));
    let midnight = close["from"].as_str().unwrap();
    assert!(midnight.ends_with("T00:00:00.000Z"), "{midnight}");
    let later = manager.get("day-close?from=2020-01-01T00:00:00Z", &[]).await.body();
    assert_eq!((&later["lines"], &later["to"]), (&json!([]), &json!("2020-01-02T00:00:00.000Z")));
    // Two amounts that are possible one by one.
    let huge = "insert into brigade.money_ledger
                    (tenant, at, method, currency, captured, applied, refunded, owed, settled)
                select 't1', '2020-01-01T12:00:00Z', 'cash', 'EUR', 9223372036854775807,
                       9223372036854775807, 0, 0, 0
                from generate_series(1, 2)";
    sqlx::query(huge).execute(&fleet.sql).await.unwrap();
    let close = manager.get("day-close?from=2020-01-01T00:00:00Z", &[]).await;
    assert_eq!((close.status, &close.body()["balanced"]), (200, &json!(true)));
    assert_eq!(close.body()["lines"][0]["captured"], json!(i64::MAX));
    // What cannot be read is not told as if Postgres were away.
    let strange = "update brigade.money_ledger set currency = 'XXX' where at < '2021-01-01'";
    sqlx::query(strange).execute(&fleet.sql).await.unwrap();
    let unreadable = manager.get("day-close?from=2020-01-01T00:00:00Z", &[]).await;
    let message = unreadable.body()["message"].to_string();
    assert_eq!(code(unreadable), (503, "unconfirmed".to_owned()));
    assert!(message.contains("cannot be read") && !message.contains("Postgres"), "{message}");
    let rest = "delete from brigade.money_ledger where at < '2021-01-01'";
    sqlx::query(rest).execute(&fleet.sql).await.unwrap();
    for bad in [
        "from=yesterday",
        "from=2020-01-01T00:00:00Z&to=2020-01-01T00:00:00Z",
        "from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z",
    ] {
        let refused = code(manager.get(&format!("day-close?{bad}"), &[]).await);
        assert_eq!(refused, (400, "bad_header".to_owned()), "{bad}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s7_09_the_open_tasks_of_a_payment_are_found_by_it() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    // Payments whose names begin alike.
    for (payment, owner) in [("p1", "ada"), ("p1-2", "bob"), ("p10", "cid"), ("p2", "dan")] {
        producer.cart_of(owner, "menu", owner, &[("i1", 1000, 1)]).await;
        producer.initiate(payment, owner).await;
        for (transaction, amount) in [("g1", 1100), ("g2", 50)] {
            let said = producer.result(payment, "captured", transaction, amount).await;
            assert_eq!(said.status, 200, "{}", said.body());
        }
    }
    let list = async |headers: &[(&str, &str)]| {
        let answer = producer.request("q.t1.refund_tasks", headers, b"").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body());
        let body = answer.body();
        let rows = body["rows"].as_array().expect("rows").iter();
        let tasks: Vec<_> = rows.map(|row| row["task"].as_str().unwrap().to_owned()).collect();
        (tasks, body["next"].as_str().map(str::to_owned))
    };
    for payment in ["p1", "p1-2", "p10", "p2"] {
        let own = vec![format!("{payment}.1"), format!("{payment}.2")];
        assert_eq!(list(&[("Payment", payment)]).await, (own, None));
    }
    assert_eq!(list(&[("Payment", "p")]).await, (vec![], None));
    assert_eq!(list(&[]).await.0.len(), 8);
    let (first, next) = list(&[("Payment", "p1"), ("Limit", "1")]).await;
    assert_eq!(first, ["p1.1"]);
    let next = next.expect("a next page");
    assert_eq!(list(&[("Payment", "p1"), ("After", &next)]).await, (vec!["p1.2".to_owned()], None));
    let settle = json!({"settlement": {"refund_task": "p1.1"}, "reason": "in cash"});
    producer.done("payment.p1.settle", settle).await;
    assert_eq!(list(&[("Payment", "p1")]).await.0, ["p1.2"]);
    let bad = producer.request("q.t1.refund_tasks", &[("Payment", "a.b")], b"").await;
    assert_eq!(bad.expect("an answer").code(), "bad_header");
    fleet.finish().await;
}

/// Asks for the close of a time.
async fn close(producer: &Producer, headers: &[(&str, &str)]) -> Reply {
    let subject = format!("q.{}.day_close", producer.tenant);
    producer.request(&subject, headers, b"").await.expect("an answer")
}

#[tokio::test]
async fn s7_09_partial_refunds_close_tasks_to_the_cent_and_the_day_balances() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    // 10.00 are due, and 13.33 and 0.01 come in.
    assert_eq!(producer.result("p1", "captured", "g1", 1333).await.status, 200);
    assert_eq!(producer.result("p1", "captured", "g2", 1).await.status, 200);
    let day = async || close(&producer, &[]).await.body()["lines"][0].take();
    let line = |refunded: i64, applied: i64, owed: i64| {
        json!({"method": "card", "currency": "EUR", "captured": 1334, "applied": applied,
               "refunded": refunded, "owed": owed, "settled": 0, "balance": 0})
    };
    assert_eq!(day().await, line(0, 1000, 334));
    let mut refunded = 0;
    for (amount, owed) in [(100, 234), (133, 101), (99, 2), (1, 1), (1, 0)] {
        producer.done("payment.p1.refund", json!({"amount": amount, "reason": "r"})).await;
        refunded += amount;
        assert_eq!(day().await, line(refunded, 1000, owed), "{amount}");
        let open: i64 = sqlx::query_scalar(
            "select coalesce(sum(amount - refunded), 0)::bigint from brigade.refund_tasks
             where status = 'open'",
        )
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
        assert_eq!(open, owed);
    }
    // What goes back after that takes from what was paid.
    producer.done("payment.p1.refund", json!({"amount": 400, "reason": "cold"})).await;
    assert_eq!(day().await, line(734, 600, 0));
    // Another restaurant has no such day, and another day no such money.
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    assert_eq!(close(&other, &[]).await.body()["lines"], json!([]));
    let earlier = close(&producer, &[("To", "2020-01-01T12:00:00+02:00")]).await.body();
    assert_eq!(earlier["lines"], json!([]));
    assert_eq!(earlier["from"], "2019-12-31T10:00:00.000Z");
    let bad = close(&producer, &[("From", "soon")]).await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_header"));
    fleet.finish().await;
}
