//! Commands through the request door.

use std::{collections::HashMap, time::Duration};

use brigade::{
    infra::{Health, Nats},
    runtime::ConsumeMetrics,
    workers::command_handler::housekeeping,
};
use brigade_contracts::WorkerName;
use brigade_tests::{
    TestFleet, check,
    producer::{item, placed},
    until,
};
use serde_json::{Value, json};
use tokio::time::timeout;

#[tokio::test]
async fn s0_01_state_event_and_outcome_commit_together_before_the_answer() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    // What is answered is in SQL, all of it, with nobody relaying or projecting.
    let row: (i64, i64, i64, i64) = sqlx::query_as(
        "select (select version from brigade.carts where tenant = 't1' and id = 'c1'),
                (select count(*) from brigade.events where id = 'c1'),
                (select count(*) from brigade.outbox),
                (select count(*) from brigade.command_inbox)",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(row, (1, 1, 1, 1));
    // A transaction that cannot commit leaves nothing and is not answered as done.
    sqlx::raw_sql("alter table brigade.outbox add constraint full_up check (seq < 0) not valid")
        .execute(&fleet.sql)
        .await
        .unwrap();
    let refused = producer.send_as("k", "cart.c1.add_item", item("i1", 100, 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "not_decided"));
    let version: i64 = sqlx::query_scalar("select version from brigade.carts")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(version, 1);
    sqlx::raw_sql("alter table brigade.outbox drop constraint full_up")
        .execute(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(
        producer.send_until_decided("k", "cart.c1.add_item", item("i1", 100, 1)).await.status,
        200
    );
    fleet.run(WorkerName::OutboxRelay).await;
    fleet.run(WorkerName::PaymentProjector).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s0_02_the_answer_carries_version_and_state_after() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    let added = producer.send("cart.c1.add_item", item("i1", 1250, 2)).await.body();
    assert_eq!(added["version"], 3);
    assert_eq!(added["etag"], "\"3\"");
    assert_eq!(added["effects"], json!(["cart.c1@3"]));
    assert_eq!(added["data"]["core"]["total"], 2500);
    assert_eq!(added["data"]["core"]["members"][0], json!({"user": "ada", "share": 1250}));
    assert_eq!(added["data"]["payments"], Value::Null, "the verb does not touch payments");
    let committed = producer.send("cart.c1.commit_cod", json!({"user": "bob"})).await.body();
    assert_eq!(committed["version"], 4);
    assert_eq!(committed["data"]["core"]["version"], 3, "core was not touched");
    assert_eq!(committed["data"]["payments"]["version"], 4);
    assert_eq!(committed["data"]["payments"]["members"][1]["committed"], "cod");
    fleet.finish().await;
}

#[tokio::test]
async fn a_command_sent_20_times_at_once_has_one_effect_and_20_equal_answers() {
    let mut fleet = TestFleet::start().await;
    // Two handlers, so that repetitions meet in different processes too.
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    let opened = producer.all_at_once(20, "k1", "cart.c1.open", open).await;
    let added = producer.all_at_once(20, "k2", "cart.c1.add_item", item("i1", 100, 1)).await;
    for replies in [opened, added] {
        assert!(replies.iter().all(|reply| reply.bytes == replies[0].bytes), "{replies:?}");
        assert!(replies[0].status < 300);
    }
    let counts: (i64, i64) = sqlx::query_as(
        "select (select count(*) from brigade.events), (select count(*) from brigade.command_inbox)",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(counts, (2, 2));
    fleet.finish().await;
}

#[tokio::test]
async fn a_command_id_used_for_something_else_is_refused() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    assert_eq!(producer.send_as("k", "cart.c1.add_item", item("i1", 100, 1)).await.status, 200);
    for (what, payload) in [
        ("cart.c1.add_item", item("i1", 100, 2)),
        ("cart.c2.add_item", item("i1", 100, 1)),
        ("cart.c1.join", json!({"user": "bob"})),
    ] {
        let reply = producer.send_as("k", what, payload).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "command_id_reused"), "{what}");
    }
    let other = brigade_tests::Producer::new(fleet.connect("t2-producer").await, "t2");
    let open = json!({"kind": "menu", "owner": "eve", "currency": "EUR"});
    assert_eq!(other.send_as("k", "cart.c1.open", open).await.status, 201, "ids are per tenant");
    fleet.finish().await;
}

#[tokio::test]
async fn deadline_and_expected_version_are_checked_when_deciding() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let payload = item("i1", 100, 1).to_string();
    let cases: [(&str, &str, &str, u16, &str); 5] = [
        ("d1", "Deadline", "2020-01-01T00:00:00Z", 504, "deadline_passed"),
        ("v1", "Expected-Version", "7", 412, "version_mismatch"),
        ("v2", "Expected-Version", "18446744073709551615", 412, "version_mismatch"),
        ("d2", "Deadline", "9999-12-31T23:59:59Z", 200, "ok"),
        ("d3", "Deadline", "yesterday", 400, "bad_header"),
    ];
    for (id, name, value, status, code) in cases {
        let headers = [("Command-Id", id), (name, value)];
        let reply = producer
            .request("req.t1.cart.c1.add_item", &headers, payload.as_bytes())
            .await
            .unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{name}: {value}");
    }
    // What was decided before stays, whatever the deadline of the repetition says.
    let headers = [("Command-Id", "d2"), ("Deadline", "2020-01-01T00:00:00Z")];
    let again = producer.request("req.t1.cart.c1.add_item", &headers, payload.as_bytes()).await;
    assert_eq!(again.unwrap().status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn a_batch_takes_the_same_number_of_statements_whatever_its_size() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    sqlx::raw_sql("alter database brigade_template set log_statement = 'all'")
        .execute(&fleet.sql)
        .await
        .unwrap();
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let mut budgets = Vec::new();
    for size in [1, 256] {
        // One command holds the handler up, so that the others wait and make one batch.
        let armed = fleet.fail.arm("command-handler.before_write");
        let send = |id: String| {
            let producer = producer.clone();
            let open = json!({"kind": "team", "owner": format!("{id}-owner"), "currency": "EUR"});
            tokio::spawn(async move { producer.send(&format!("cart.{id}.open"), open).await })
        };
        let blocker = send(format!("blocker-{size}"));
        armed.reached().await;
        let waiting: Vec<_> = (0..size).map(|n| send(format!("c-{size}-{n}"))).collect();
        let gauge =
            fleet.metrics.group::<ConsumeMetrics>().waiting.with_label_values(&["command-handler"]);
        until("the commands to wait", || async { (gauge.get() == size).then_some(()) }).await;
        fleet.fail.disarm("command-handler.before_write");
        for sent in waiting.into_iter().chain([blocker]) {
            assert_eq!(sent.await.unwrap().status, 201);
        }
        let largest: i64 = sqlx::query_scalar(
            "select max(n) from (select count(*) n from brigade.command_inbox group by decided_at) x",
        )
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
        assert_eq!(largest, size, "they were one batch");
        budgets.push(largest_transaction(fleet.postgres().log()));
    }
    assert_eq!(budgets[0], budgets[1], "statements of a batch of 1 and of 256");
    assert!(budgets[0] <= 10, "{budgets:?}");
}

/// Returns the largest number of statements of a transaction in the server's log, its begin and end
/// included.
fn largest_transaction(log: std::path::PathBuf) -> usize {
    let mut open: HashMap<String, usize> = HashMap::new();
    let mut largest = 0;
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((prefix, statement)) = line.split_once("LOG:  ") else { continue };
        if !statement.starts_with("execute") && !statement.starts_with("statement:") {
            continue;
        }
        let process = prefix.split(['[', ']']).nth(1).unwrap().to_owned();
        if statement.to_uppercase().contains("BEGIN") {
            open.insert(process, 1);
        } else if let Some(count) = open.get_mut(&process) {
            *count += 1;
            largest = largest.max(*count);
            if statement.to_uppercase().contains("COMMIT") {
                open.remove(&process);
            }
        }
    }
    largest
}

#[tokio::test]
async fn what_nobody_acknowledged_is_projected_by_itself() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    fleet.until_idle().await;
    // The handler is stopped between commit and projection, and killed there.
    let armed = fleet.fail.arm("command-handler.after_commit");
    let asking = {
        let producer = producer.clone();
        tokio::spawn(async move {
            producer.send_until_decided("k2", "cart.c1.add_item", item("i1", 5, 1)).await
        })
    };
    armed.reached().await;
    let projected = check::kv(&fleet, "versions", "t1.cart.c1").await.unwrap();
    assert_eq!(projected["version"], 1, "not projected yet");
    asking.abort();
    fleet.take(WorkerName::CommandHandler).kill().await;
    fleet.fail.disarm("command-handler.after_commit");
    // Another one projects it, although nobody asks again.
    fleet.run(WorkerName::CommandHandler).await;
    until("the backlog entry to be projected", || async {
        let projected = check::kv(&fleet, "versions", "t1.cart.c1").await?;
        (projected["version"] == 2).then_some(())
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn outcomes_older_than_30_days_are_forgotten_and_younger_ones_kept() {
    let mut fleet = TestFleet::empty().await;
    sqlx::raw_sql(
        "insert into brigade.command_inbox
             (tenant, command_id, subject, payload_hash, outcome, decided_at)
         select 't1', 'k' || n, 'req.t1.cart.c1.join', '', '{}',
                now() - make_interval(days => case when n <= 2500 then 31 else 29 end)
         from generate_series(1, 2600) n",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    fleet.run(WorkerName::CommandHandler).await;
    until("old outcomes to go", || async {
        let left: i64 = sqlx::query_scalar("select count(*) from brigade.command_inbox")
            .fetch_one(&fleet.sql)
            .await
            .ok()?;
        assert!(left >= 100);
        (left == 100).then_some(())
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn what_is_decided_leaves_the_stream_and_what_is_not_stays() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    for n in 0..5 {
        producer.publish(&format!("k{n}"), &format!("cart.c{n}.open"), open.clone()).await;
    }
    fleet.take(WorkerName::CommandHandler).stop().await;
    producer.store("k5", "cart.c5.open", &open.to_string()).await;
    let health = Health::new(WorkerName::CommandHandler);
    let nats =
        Nats::connect(&fleet.nats_url("command-handler"), &health, &fleet.metrics).await.unwrap();
    housekeeping::purge(&nats, |_, floor| Some(floor)).await.unwrap();
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    let state = js.get_stream("COMMANDS").await.unwrap().cached_info().state.clone();
    assert_eq!((state.messages, state.first_sequence), (1, 6));
    assert!(health.violations().is_empty());
    fleet.run_all().await;
    let outcome = producer.request("q.t1.outcome.k5", &[("Wait-Ms", "20000")], b"").await;
    assert_eq!(outcome.unwrap().body()["status"], 201);
    fleet.finish().await;
}

#[tokio::test]
async fn a_batch_that_is_held_up_holds_up_no_other() {
    let fleet = TestFleet::start().await;
    let armed = fleet.fail.arm("command-handler.after_commit");
    let mut asking = Vec::new();
    for cart in ["c1", "c2"] {
        let producer = fleet.producer().await;
        let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
        asking.push(tokio::spawn(async move {
            producer
                .send_until_decided(&format!("k-{cart}"), &format!("cart.{cart}.open"), open)
                .await
        }));
        // The first one is still there when the second one comes.
        timeout(Duration::from_secs(30), armed.reached()).await.expect("it is decided");
    }
    fleet.fail.disarm("command-handler.after_commit");
    for answer in asking {
        assert_eq!(answer.await.unwrap().status, 201);
    }
    fleet.finish().await;
}

/// Two handlers wait for the same row: the second one decides on what the first one committed.
#[tokio::test]
async fn a_command_that_waited_for_a_row_is_decided_on_what_was_committed() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("x", "ada", &[]).await;
    producer.done("order.x.place", placed(&[("soup", 500, 1)])).await;
    let cases = [
        (
            "update brigade.carts set status = $1",
            ["abandoned", "open"],
            ("cart.x.add_item", item("i1", 100, 1), "cart_closed"),
        ),
        (
            "update brigade.orders set status = $1",
            ["cancelled", "placed"],
            ("order.x.accept", json!({}), "illegal_step"),
        ),
    ];
    for (change, [ended, before], (target, payload, code)) in cases {
        let mut first = fleet.sql.begin().await.unwrap();
        sqlx::query(change).bind(ended).execute(&mut *first).await.unwrap();
        let second = producer.clone();
        let asked = tokio::spawn(async move { second.send_as(code, target, payload).await });
        fleet.until_a_row_is_waited_for().await;
        first.commit().await.unwrap();
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (409, code));
        sqlx::query(change).bind(before).execute(&fleet.sql).await.unwrap();
    }
    fleet.finish().await;
}

/// The first transaction may have changed other aggregates as well: an outcome is never found
/// without them.
#[tokio::test]
async fn a_batch_that_waited_for_a_row_finds_what_was_made_meanwhile() {
    let fleet = TestFleet::start().await;
    fleet.producer().await.team_cart("x", "ada", &[]).await;
    let mut first = fleet.sql.begin().await.unwrap();
    sqlx::raw_sql(
        "update brigade.carts set status = status where id = 'x';
         insert into brigade.carts (tenant, id, version, updated_at, parts, parts_at, kind, owner,
                                    status, currency, members, items)
         select tenant, 'y', version, updated_at, parts, parts_at, kind, owner, status, currency,
                members, items
         from brigade.carts where id = 'x';
         insert into brigade.command_inbox
         select (jsonb_populate_record(i, '{\"command_id\": \"made\"}')).*
         from brigade.command_inbox i",
    )
    .execute(&mut *first)
    .await
    .unwrap();
    let sql = fleet.sql.clone();
    let second = tokio::spawn(async move {
        sqlx::query_scalar::<_, String>(
            r#"select kind from brigade.load_batch(
                 '{"command_tenants": ["t1"], "command_ids": ["made"], "tenants": ["t1", "t1"],
                   "aggregates": ["cart", "cart"], "ids": ["x", "y"],
                   "exclusive": [false, false], "owner_tenants": [], "owners": [],
                   "owner_exclusive": [], "session_tenants": [], "sessions": [],
                   "turn_tenants": [], "turns": [], "fencing_tokens": 0}')"#,
        )
        .fetch_all(&sql)
        .await
        .unwrap()
    });
    fleet.until_a_row_is_waited_for().await;
    first.commit().await.unwrap();
    let kinds = second.await.unwrap();
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((count("outcome"), count("cart")), (1, 2), "{kinds:?}");
    sqlx::raw_sql(
        "delete from brigade.carts where id = 'y';
         delete from brigade.command_inbox where command_id = 'made'",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    fleet.finish().await;
}
