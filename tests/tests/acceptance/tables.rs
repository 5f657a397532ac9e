//! S3: the payment that succeeds frees the table. (These are the commands; repairs are in
//! `ghosts`.)

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet, check,
    paying::result,
    producer::{Reply, placed},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::healing::until_healed;

async fn ok(producer: &Producer, what: &str, payload: Value) -> Reply {
    let reply = producer.send(what, payload).await;
    assert!(reply.status < 300, "{what}: {:?}", reply.body());
    reply
}

/// Seats the party u1 at the table t1.
async fn seated(producer: &Producer) {
    ok(producer, "table.t1.register", json!({"label": "Window", "seats": 4})).await;
    ok(producer, "table.t1.open_turn", json!({"turn_id": "u1", "party_size": 2})).await;
}

/// Places an order of 10.00 at the table t1.
async fn order(producer: &Producer, id: &str) {
    let mut order = placed(&[("Pizza", 1000, 1)]);
    order["table_id"] = json!("t1");
    ok(producer, &format!("order.{id}.place"), order).await;
}

async fn initiate(producer: &Producer, payment: &str, order: &str) {
    let payload = json!({"target": {"order": order}, "method": "card"});
    ok(producer, &format!("payment.{payment}.initiate"), payload).await;
}

async fn status(producer: &Producer) -> Value {
    producer.view("table.t1", None).await.body()["core"]["status"].clone()
}

/// Returns whether one transaction wrote all these rows.
async fn by_one_transaction(fleet: &TestFleet) -> bool {
    let count: i64 = sqlx::query_scalar(
        "select count(distinct xmin::text) from (
             select xmin from brigade.carts union all select xmin from brigade.orders
             union all select xmin from brigade.payments
             union all select xmin from brigade.tables union all select xmin from brigade.turns
             union all select xmin from brigade.cart_locks) rows",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    count == 1
}

#[tokio::test]
async fn s3_01_a_capture_at_a_table_frees_it_in_one_transaction() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    seated(&producer).await;
    let view = producer.view("table.t1", None).await.body();
    assert_eq!((&view["version"], &view["core"]["status"]), (&json!(2), &json!("occupied")));
    assert_eq!(view["core"]["open_turn"]["party_size"], 2);
    producer.adas_cart().await;
    let said = json!({
        "target": {"cart": "c1"}, "method": "card", "order_id": "o1", "table_id": "t1",
    });
    ok(&producer, "payment.p1.initiate", said).await;

    // All or nothing: while one row cannot be written, none is.
    sqlx::raw_sql(
        "alter table brigade.tables add constraint stuck check (status = 'occupied') not valid",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    let captured = result("captured", "tx1", 1000);
    let failed = producer.send_as("k1", "payment.p1.record_result", captured.clone()).await;
    assert_eq!(failed.status, 503, "{:?}", failed.body());
    assert_eq!(status(&producer).await, "occupied");
    let payment = producer.view("payment.p1", None).await.body();
    assert_eq!(payment["core"]["status"], "initiated");
    assert_eq!(producer.view("order.o1", None).await.status, 404);
    sqlx::raw_sql("alter table brigade.tables drop constraint stuck")
        .execute(&fleet.sql)
        .await
        .unwrap();

    let outcome =
        producer.send_until_decided("k1", "payment.p1.record_result", captured).await.body();
    assert_eq!(outcome["data"]["check_out"], "ok", "{outcome}");
    let effects =
        ["cart.c1@7", "payment.p1@2", "order.o1@2", "table.t1@3", "lock.ada@2", "turn.u1@2"];
    assert_eq!(outcome["effects"], json!(effects));
    assert!(by_one_transaction(&fleet).await);
    let view = producer.view("table.t1", None).await.body();
    assert_eq!(view["core"]["status"], "available");
    assert_eq!(view["core"]["open_turn"], Value::Null);
    let turn: (Option<String>, bool) =
        sqlx::query_as("select close_reason, closed_at = updated_at from brigade.turns")
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
    assert_eq!(turn, (Some("paid".to_owned()), true));
    fleet.finish().await;
}

#[tokio::test]
async fn s3_03_a_status_by_hand_keeps_to_the_same_rules() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    ok(&producer, "table.t1.register", json!({"label": "Window", "seats": 4})).await;
    let say = async |payload: Value| {
        let reply = producer.send("table.t1.set_status", payload).await;
        (reply.status, reply.code())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(say(json!({"status": "occupied"})).await, refused(409, "no_open_turn"));
    ok(&producer, "table.t1.open_turn", json!({"turn_id": "u1"})).await;
    order(&producer, "o1").await;
    assert_eq!(say(json!({"status": "reserved"})).await, refused(409, "turn_open"));
    assert_eq!(say(json!({"status": "available"})).await, refused(409, "unpaid_order"));
    let close = producer.send("table.t1.close_turn", json!({"turn_id": "u1"})).await;
    assert_eq!((close.status, close.code()), refused(409, "unpaid_order"));
    let force = |reason: Value| json!({"status": "available", "force": true, "reason": reason});
    assert_eq!(say(force(Value::Null)).await, refused(422, "reason_required"));
    assert_eq!(status(&producer).await, "occupied");
    assert_eq!(say(force(json!("ran off"))).await, refused(200, "ok"));
    assert_eq!(status(&producer).await, "available");
    let (data, reason): (Value, String) = sqlx::query_as(
        "select (select payload::jsonb -> 'data' from brigade.events where type = 'status_changed'),
                (select close_reason from brigade.turns)",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!((&data["forced"], &data["reason"]), (&json!(true), &json!("ran off")));
    assert_eq!((data["unpaid"].clone(), reason.as_str()), (json!(["o1"]), "forced"));
    fleet.finish().await;
}

#[tokio::test]
async fn s3_05_what_an_earlier_party_owes_does_not_keep_the_table_busy() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    seated(&producer).await;
    order(&producer, "o1").await;
    let force = json!({"status": "available", "force": true, "reason": "ran off"});
    ok(&producer, "table.t1.set_status", force).await;
    ok(&producer, "table.t1.open_turn", json!({"turn_id": "u2"})).await;
    order(&producer, "o2").await;
    order(&producer, "o3").await;
    initiate(&producer, "p2", "o2").await;
    ok(&producer, "payment.p2.record_result", result("captured", "tx2", 1000)).await;
    assert_eq!(status(&producer).await, "occupied", "o3 is not paid");
    initiate(&producer, "p3", "o3").await;
    let paid = ok(&producer, "payment.p3.record_result", result("captured", "tx3", 1000)).await;
    let effects = ["payment.p3@2", "order.o3@4", "table.t1@6", "turn.u2@2"];
    assert_eq!(paid.body()["effects"], json!(effects));
    assert_eq!(status(&producer).await, "available");
    // The debt of the first party is paid at last, while a third one sits there.
    ok(&producer, "table.t1.open_turn", json!({"turn_id": "u3"})).await;
    initiate(&producer, "p1", "o1").await;
    ok(&producer, "payment.p1.record_result", result("captured", "tx1", 1000)).await;
    assert_eq!(status(&producer).await, "occupied");
    let by_sql: Vec<(String, Option<String>)> =
        sqlx::query_as("select id, close_reason from brigade.turns order by id")
            .fetch_all(&fleet.sql)
            .await
            .unwrap();
    let reason = |id: &str, reason: Option<&str>| (id.to_owned(), reason.map(str::to_owned));
    let expected = [reason("u1", Some("forced")), reason("u2", Some("paid")), reason("u3", None)];
    assert_eq!(by_sql, expected);
    fleet.finish().await;
}

/// Three payments of a table end at once, while somebody orders, cancels and closes: in whatever
/// order two handlers decide them, the last of them closes the turn, once.
#[tokio::test]
async fn payments_of_one_table_at_once_free_it_once() {
    let mut fleet = TestFleet::start().await;
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let seat = async |n: usize| {
        let register = json!({"label": "Window", "seats": 4});
        ok(&producer, &format!("table.t{n}.register"), register).await;
        let turn = json!({"turn_id": format!("u{n}")});
        ok(&producer, &format!("table.t{n}.open_turn"), turn).await;
        for at in 0..4 {
            let mut order = placed(&[("Pizza", 1000, 1)]);
            order["table_id"] = json!(format!("t{n}"));
            ok(&producer, &format!("order.o{n}-{at}.place"), order).await;
            if at < 3 {
                initiate(&producer, &format!("p{n}-{at}"), &format!("o{n}-{at}")).await;
            }
        }
    };
    join_all((0..20).map(seat)).await;
    let rush = async |n: usize| {
        let captured = |at: usize| {
            let result = result("captured", &format!("tx{n}-{at}"), 1000);
            (format!("payment.p{n}-{at}.record_result"), result)
        };
        let cancel = (format!("order.o{n}-3.cancel"), json!({"reason": "no"}));
        let close = (format!("table.t{n}.close_turn"), json!({"turn_id": format!("u{n}")}));
        let all = [captured(0), close, captured(1), cancel, captured(2)];
        let sent = all.map(async |(what, payload)| {
            (
                what.clone(),
                producer.send_until_decided(&what.replace('.', "-"), &what, payload).await,
            )
        });
        for (what, reply) in join_all(sent).await {
            // Either somebody has not paid, or the last one to pay has closed it.
            let status = if what.ends_with("close_turn") { 409 } else { 200 };
            assert_eq!(reply.status, status, "{what}: {:?}", reply.body());
        }
    };
    join_all((0..20).map(rush)).await;
    let wrong: Vec<String> = sqlx::query_scalar(
        "select t.id from brigade.tables t join brigade.turns u on u.table_id = t.id
         where t.status <> 'available' or u.close_reason <> 'paid'
            or 1 <> (select count(*) from brigade.events e
                     where e.id = t.id and e.type = 'turn_closed')",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(wrong, Vec::<String>::new());
    fleet.finish().await;
}

#[tokio::test]
async fn a_damaged_table_is_repaired_by_a_command_with_its_evidence() {
    let fleet = TestFleet::start_without(WorkerName::TableStatusReconciler).await;
    let producer = fleet.producer().await;
    let operator = Producer::new(fleet.connect("operator").await, "t1");
    seated(&producer).await;
    order(&producer, "o1").await;
    initiate(&producer, "p1", "o1").await;
    ok(&producer, "payment.p1.record_result", result("captured", "tx1", 1000)).await;
    sqlx::raw_sql(
        "update brigade.turns set closed_at = null, close_reason = null;
         update brigade.tables set status = 'occupied', open_turn_id = 'u1'",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    let ask = |finding: &str| json!({"expected_version": 3, "finding": finding, "evidence": {"unpaid": []}});
    let wrong = operator.send("table.t1.reconcile", ask("phantom_unpaid")).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (409, "not_found_so"));
    let done = ok(&operator, "table.t1.reconcile", ask("ghost_all_paid")).await.body();
    assert_eq!(done["effects"], json!(["table.t1@4", "turn.u1@3"]));
    assert_eq!(status(&producer).await, "available");
    let again = operator.send("table.t1.reconcile", ask("ghost_all_paid")).await;
    assert_eq!((again.status, again.code().as_str()), (412, "version_mismatch"));
    let reason: String = sqlx::query_scalar("select close_reason from brigade.turns")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(reason, "reconciled");
    fleet.finish().await;
}

#[tokio::test]
async fn what_kv_loses_of_tables_and_payments_is_brought_back() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    seated(&producer).await;
    order(&producer, "o1").await;
    initiate(&producer, "p1", "o1").await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    for stream in ["KV_versions", "KV_views"] {
        js.delete_stream(stream).await.unwrap();
    }
    for key in ["t1.table.t1", "t1.payment.p1"] {
        until(&format!("{key} to stand in KV again"), || async {
            check::kv(&fleet, "versions", key).await?;
            check::kv(&fleet, "views", &format!("{key}.core")).await
        })
        .await;
    }
    until_healed(&fleet).await;
    // What stands there is compared with SQL.
    fleet.finish().await;
}
