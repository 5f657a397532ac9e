//! S3-04: ghost and phantom-free tables are found and repaired, whoever made them.

use brigade::workers::table_status_reconciler::ReconcilerMetrics;
use brigade_contracts::{Address, Aggregate, Token, WorkerName, header, subject, table::Finding};
use brigade_tests::{Producer, Town, producer::placed, until};
use serde_json::{Value, json};

/// A table with a party at it that has ordered something.
async fn party(producer: &Producer, table: &str) {
    let (turn, order) = (format!("turn-{table}"), format!("order-{table}"));
    producer.done(&format!("table.{table}.register"), json!({"label": table, "seats": 4})).await;
    producer.done(&format!("table.{table}.open_turn"), json!({ "turn_id": turn })).await;
    let mut place = placed(&[("Soup", 500, 1)]);
    place["table_id"] = json!(table);
    producer.done(&format!("order.{order}.place"), place).await;
}

/// What a faulty program does in SQL.
async fn spoil(town: &Town, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&town.sql).await.unwrap();
}

async fn table(producer: &Producer, id: &str) -> Value {
    producer.view(&format!("table.{id}"), None).await.body()["core"].take()
}

fn found(town: &Town, finding: Finding) -> u64 {
    town.metrics
        .group::<ReconcilerMetrics>()
        .tables_found
        .with_label_values(&[finding.as_str()])
        .get()
}

#[tokio::test]
async fn s3_04_each_kind_of_wrong_table_is_repaired_with_cause_and_evidence() {
    let mut town = Town::start().await;
    town.has_ghosts = true;
    let producer = town.producer().await;
    for id in ["no_turn", "all_paid", "open_turn", "unpaid"] {
        party(&producer, id).await;
    }
    for id in ["no_turn", "all_paid"] {
        let cancelled = json!({"reason": "guests left"});
        producer.done(&format!("order.order-{id}.cancel"), cancelled).await;
        assert_eq!(table(&producer, id).await["status"], "available", "{id}");
    }
    spoil(
        &town,
        "update brigade.tables set status = 'occupied' where id = 'no_turn';
         begin;
         update brigade.turns set closed_at = null, close_reason = null where table_id = 'all_paid';
         update brigade.tables set status = 'occupied', open_turn_id = 'turn-all_paid'
         where id = 'all_paid';
         commit;
         update brigade.tables set status = 'available' where id = 'open_turn';
         begin;
         update brigade.turns set closed_at = now(), close_reason = 'manual'
         where table_id = 'unpaid';
         update brigade.tables set status = 'available', open_turn_id = null where id = 'unpaid';
         commit;",
    )
    .await;
    let repaired: Vec<(String, Value)> = until("four repairs", || async {
        let events = "select id, payload::jsonb -> 'data' from brigade.events
                      where type = 'reconciled' order by id";
        let events: Vec<_> = sqlx::query_as(events).fetch_all(&town.sql).await.ok()?;
        (events.len() == 4).then_some(events)
    })
    .await;
    let findings: Vec<_> = repaired
        .iter()
        .map(|(id, data)| (id.as_str(), data["finding"].as_str().unwrap()))
        .collect();
    let expected = [
        ("all_paid", "ghost_all_paid"),
        ("no_turn", "ghost_no_turn"),
        ("open_turn", "phantom_open_turn"),
        ("unpaid", "phantom_unpaid"),
    ];
    assert_eq!(findings, expected);
    for (id, data) in &repaired {
        assert!(
            data["cause"].is_string() && data["evidence"]["status"].is_string(),
            "{id}: {data}"
        );
    }
    for (id, status, turn) in [
        ("no_turn", "available", Value::Null),
        ("all_paid", "available", Value::Null),
        ("open_turn", "occupied", json!("turn-open_turn")),
        ("unpaid", "occupied", json!("turn-unpaid")),
    ] {
        let table = table(&producer, id).await;
        assert_eq!((&table["status"], &table["open_turn"]["id"]), (&json!(status), &turn), "{id}");
    }
    for finding in Finding::ALL {
        let repaired = town
            .metrics
            .group::<ReconcilerMetrics>()
            .tables_repaired
            .with_label_values(&[finding.as_str()])
            .get();
        assert_eq!(repaired, 1, "{}", finding.as_str());
    }
    town.finish().await;
}

#[tokio::test]
async fn s3_04_a_dry_run_counts_and_changes_nothing() {
    let mut town = Town::start_without(WorkerName::TableStatusReconciler).await;
    town.has_ghosts = true;
    town.settings.dry_run = true;
    let producer = town.producer().await;
    let register = json!({"label": "1", "seats": 2});
    producer.done("table.t1.register", register).await;
    spoil(&town, "update brigade.tables set status = 'occupied'").await;
    town.run(WorkerName::TableStatusReconciler).await;
    until("a ghost that is seen twice", || async {
        (found(&town, Finding::GhostNoTurn) >= 2).then_some(())
    })
    .await;
    let version = producer.view("table.t1", None).await.body()["version"].clone();
    assert_eq!(version, 1);
    spoil(&town, "update brigade.tables set status = 'available'").await;
    town.finish().await;
}

#[tokio::test]
async fn s3_04_what_the_contract_allows_is_no_finding() {
    let town = Town::start().await;
    let producer = town.producer().await;
    // A party that has just sat down; one that owes; a table that was forced free; one out of use.
    producer.done("table.new.register", json!({"label": "1", "seats": 2})).await;
    producer.done("table.new.open_turn", json!({"turn_id": "u1"})).await;
    party(&producer, "owes").await;
    party(&producer, "forced").await;
    let force = json!({"status": "available", "force": true, "reason": "they ran away"});
    producer.done("table.forced.set_status", force).await;
    producer.done("table.broken.register", json!({"label": "4", "seats": 2})).await;
    producer.done("table.broken.set_status", json!({"status": "out_of_service"})).await;
    // The one that shows that all of them were looked at: it is repaired by the next look.
    producer.done("table.last.register", json!({"label": "5", "seats": 2})).await;
    spoil(&town, "update brigade.tables set status = 'occupied' where id = 'last'").await;
    until("the look", || async {
        (table(&producer, "last").await["status"] == "available"
            && town
                .metrics
                .group::<ReconcilerMetrics>()
                .tables_repaired
                .with_label_values(&["ghost_no_turn"])
                .get()
                == 1)
            .then_some(())
    })
    .await;
    for finding in [Finding::GhostAllPaid, Finding::PhantomOpenTurn, Finding::PhantomUnpaid] {
        assert_eq!(found(&town, finding), 0, "{}", finding.as_str());
    }
    let mut town = town;
    town.has_ghosts = true;
    town.finish().await;
}

/// Nobody goes through all tables: another program holds the lease.
#[tokio::test]
async fn what_an_event_hints_at_is_looked_at_without_a_round() {
    let mut town = Town::empty().await;
    town.has_ghosts = true;
    spoil(
        &town,
        "insert into brigade.leases
         values ('table-status-reconciler.round', 'nobody', now() + interval '1 day')",
    )
    .await;
    // Nobody publishes events but the test, and nobody else hears of them.
    for worker in [WorkerName::CommandHandler, WorkerName::TableStatusReconciler] {
        town.run(worker).await;
    }
    let producer = town.producer().await;
    for id in ["hinted", "of_order", "unknown"] {
        party(&producer, id).await;
    }
    spoil(&town, "update brigade.tables set status = 'available'").await;
    let relay = town.connect("outbox-relay").await;
    let hint = async |aggregate, id: &str, event: &str| {
        let address = Address::new("t1", aggregate, id).unwrap();
        let subject = subject::event(&address, &Token::new(event).unwrap());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::CE_SUBJECT, id);
        relay.publish_with_headers(subject, headers, "".into()).await.unwrap();
    };
    // A hint may be lost, so it is given again.
    until("both to be repaired", || async {
        hint(Aggregate::Table, "hinted", "status_changed").await;
        hint(Aggregate::Order, "order-of_order", "paid").await;
        hint(Aggregate::Order, "nobodys", "cancelled").await;
        let repaired = town
            .metrics
            .group::<ReconcilerMetrics>()
            .tables_repaired
            .with_label_values(&["phantom_open_turn"]);
        (repaired.get() == 2).then_some(())
    })
    .await;
    for (id, status) in [("hinted", "occupied"), ("of_order", "occupied"), ("unknown", "available")]
    {
        let is: String = sqlx::query_scalar("select status from brigade.tables where id = $1")
            .bind(id)
            .fetch_one(&town.sql)
            .await
            .unwrap();
        assert_eq!(is, status, "{id}");
    }
    // Then there is a round, which needs no hint.
    spoil(&town, "delete from brigade.leases where holder = 'nobody'").await;
    until("the third", || async {
        let repaired = town
            .metrics
            .group::<ReconcilerMetrics>()
            .tables_repaired
            .with_label_values(&["phantom_open_turn"]);
        (repaired.get() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn s3_04_more_ghosts_than_a_page_and_a_go_take_are_all_repaired() {
    let mut town = Town::start().await;
    town.has_ghosts = true;
    let producer = town.producer().await;
    producer.done("table.a.register", json!({"label": "1", "seats": 2})).await;
    town.until_idle().await;
    // Each tenth of them is wrong.
    sqlx::raw_sql(
        "insert into brigade.tables select (jsonb_populate_record(t, jsonb_build_object('id', 'a' || n,
             'status', case when n % 10 = 0 then 'occupied' else 'available' end))).*
         from brigade.tables t, generate_series(1, 4499) n;
         insert into brigade.events (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), tenant, aggregate, 'a' || n, version, type, payload, at, command_id
         from brigade.events e, generate_series(1, 4499) n",
    )
    .execute(&town.sql)
    .await
    .unwrap();
    until("all to be repaired", || async {
        let wrong = "select count(*) from brigade.tables where status = 'occupied'";
        let wrong: i64 = sqlx::query_scalar(wrong).fetch_one(&town.sql).await.ok()?;
        (wrong == 0).then_some(())
    })
    .await;
    let repaired: i64 =
        sqlx::query_scalar("select count(*) from brigade.events where type = 'reconciled'")
            .fetch_one(&town.sql)
            .await
            .unwrap();
    assert_eq!(repaired, 449, "each once");
}
