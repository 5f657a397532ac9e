//! Faults of the database count against no message, and a locked row holds up nobody who does not
//! need it.

use std::time::Duration;

use async_nats::HeaderMap;
use brigade::{runtime::ConsumeMetrics, workers::command_handler::CommandHandlerMetrics};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, check, producer::item, until};
use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tokio::time::timeout;

use super::http::open_fleet;

/// Begins a transaction that has locked something by hand.
async fn by_hand(fleet: &TestFleet, lock: &str) -> Transaction<'static, Postgres> {
    let mut by_hand = fleet.sql.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(lock.to_owned())).execute(&mut *by_hand).await.unwrap();
    by_hand
}

fn verdicts(fleet: &TestFleet, verdict: &str) -> u64 {
    fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["command-handler", verdict])
        .get()
}

async fn until_verdicts(fleet: &TestFleet, verdict: &str, count: u64) {
    until(&format!("{count} times {verdict}"), || async {
        (verdicts(fleet, verdict) >= count).then_some(())
    })
    .await;
}

/// Waits for the outcome of a stored command.
async fn outcome(producer: &Producer, command_id: &str) -> Value {
    until(&format!("the outcome of {command_id}"), || async {
        let subject = format!("q.t1.outcome.{command_id}");
        let reply = producer.request(&subject, &[("Wait-Ms", "2000")], b"").await?;
        (reply.status == 200).then(|| reply.body())
    })
    .await
}

/// Counts the lock time-outs of command-handlers in Postgres's log.
fn lock_timeouts(fleet: &TestFleet) -> usize {
    let log = std::fs::read_to_string(fleet.postgres().log()).unwrap();
    log.matches("canceling statement due to lock timeout").count()
}

/// Each restart is another delivery, and from the third on an attempt that would count: more than a
/// message may fail.
#[tokio::test]
async fn s5_04_a_row_locked_by_hand_dead_letters_nothing() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let locked = by_hand(&fleet, "select from brigade.carts where id = 'c1' for update").await;
    producer.store("k1", "cart.c1.add_item", &item("i1", 100, 1).to_string()).await;
    for tries in 1..=9 {
        until_verdicts(&fleet, "held", tries).await;
        fleet.take(WorkerName::CommandHandler).stop().await;
        fleet.run(WorkerName::CommandHandler).await;
    }
    until("what is held up to be told", || async {
        (fleet.metrics.group::<CommandHandlerMetrics>().held_up.get() == 1).then_some(())
    })
    .await;
    assert_eq!((verdicts(&fleet, "retry"), verdicts(&fleet, "dead")), (0, 0));
    locked.commit().await.unwrap();
    assert_eq!(outcome(&producer, "k1").await["status"], 200);
    until("nothing to be held up", || async {
        (fleet.metrics.group::<CommandHandlerMetrics>().held_up.get() == 0).then_some(())
    })
    .await;
    fleet.finish().await;
}

/// A function, a column and the schema are those of another version of this program.
#[tokio::test]
async fn s5_04_a_schema_that_is_another_buries_nothing() {
    let cases = [
        (
            "do $$ declare f regprocedure; begin
                 for f in select oid::regprocedure from pg_proc
                          where pronamespace = 'brigade'::regnamespace
                            and proname = 'load_batch' loop
                     execute format('alter function %s rename to load_batch_away', f);
                 end loop;
             end $$",
            "do $$ declare f regprocedure; begin
                 for f in select oid::regprocedure from pg_proc
                          where pronamespace = 'brigade'::regnamespace
                            and proname = 'load_batch_away' loop
                     execute format('alter function %s rename to load_batch', f);
                 end loop;
             end $$",
        ),
        (
            "alter table brigade.carts rename column paid to paid_away",
            "alter table brigade.carts rename column paid_away to paid",
        ),
        (
            "alter schema brigade rename to brigade_away",
            "alter schema brigade_away rename to brigade",
        ),
    ];
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    for (at, (away, back)) in cases.into_iter().enumerate() {
        fleet.until_idle().await;
        sqlx::raw_sql(away).execute(&fleet.sql).await.unwrap();
        let command = |n: usize| format!("k{at}-{n}");
        for n in 0..3 {
            let item = item(&format!("i{at}-{n}"), 100, 1).to_string();
            producer.store(&command(n), "cart.c1.add_item", &item).await;
        }
        // More tries than a message has, alone as well.
        for _ in 0..3 {
            until_verdicts(&fleet, "away", verdicts(&fleet, "away") + 10).await;
            fleet.take(WorkerName::CommandHandler).kill().await;
            fleet.adopt(fleet.instance(WorkerName::CommandHandler));
        }
        until_verdicts(&fleet, "away", verdicts(&fleet, "away") + 10).await;
        sqlx::raw_sql(back).execute(&fleet.sql).await.unwrap();
        for n in 0..3 {
            assert_eq!(outcome(&producer, &command(n)).await["status"], 200, "{away}");
        }
        assert_eq!(check::dead_letters(&fleet).await.len(), 0, "{away}");
    }
    fleet.finish().await;
}

/// Only commands that change a user need the table; the others are decided meanwhile.
#[tokio::test]
async fn s5_04_what_only_some_commands_miss_holds_up_no_other() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let user = json!({"email": "a@example.org", "profile_id": "p", "password": "correct horse"});
    assert_eq!(producer.send("user.u1.register", user).await.status, 201);
    sqlx::raw_sql("alter table brigade.users rename column roles to roles_away")
        .execute(&fleet.sql)
        .await
        .unwrap();
    producer.store("k1", "user.u1.change_roles", r#"{"roles":["staff"]}"#).await;
    for n in 0..20 {
        let what = format!("cart.d{n}.open");
        let open = json!({"kind": "menu", "owner": format!("o{n}"), "currency": "EUR"});
        assert_eq!(producer.publish(&format!("d{n}"), &what, open).await["status"], 201);
    }
    sqlx::raw_sql("alter table brigade.users rename column roles_away to roles")
        .execute(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(outcome(&producer, "k1").await["status"], 200);
    fleet.finish().await;
}

#[tokio::test]
async fn s5_04_a_standby_that_stalls_buries_nothing() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    for cart in ["c1", "c2", "c3"] {
        producer.team_cart(cart, "ada", &[]).await;
    }
    fleet.until_idle().await;
    let standby = async |names: &str| {
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&fleet.sql).await.unwrap();
        sqlx::raw_sql("select pg_reload_conf()").execute(&fleet.sql).await.unwrap();
    };
    standby("nobody").await;
    for cart in ["c1", "c2", "c3"] {
        let item = item("i1", 100, 1).to_string();
        producer.store(&format!("k-{cart}"), &format!("cart.{cart}.add_item"), &item).await;
    }
    // The commit waits, the handler gives it up, and its locks stay.
    until("a commit that waits for the standby", || async {
        let waits = "select exists (select from pg_stat_activity
                     where usename = 'command-handler' and wait_event = 'SyncRep')";
        sqlx::query_scalar::<_, bool>(waits).fetch_one(&fleet.sql).await.unwrap().then_some(())
    })
    .await;
    // Some find the rows locked, others come to the stalled commit themselves.
    until("all are given up, one of them again", || async {
        (verdicts(&fleet, "held") + verdicts(&fleet, "away") >= 4).then_some(())
    })
    .await;
    standby("").await;
    for cart in ["c1", "c2", "c3"] {
        assert_eq!(outcome(&producer, &format!("k-{cart}")).await["status"], 200);
    }
    assert_eq!((verdicts(&fleet, "retry"), verdicts(&fleet, "dead")), (0, 0));
    fleet.finish().await;
}

/// A whole table is locked, as by DDL: nothing is decided, nothing counts.
#[tokio::test]
async fn s5_04_a_table_that_is_locked_buries_nothing() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let locked = by_hand(&fleet, "lock table brigade.carts in access exclusive mode").await;
    producer.store("k1", "cart.c1.add_item", &item("i1", 100, 1).to_string()).await;
    until_verdicts(&fleet, "away", 3).await;
    let refused = producer.send("cart.c1.join", json!({"user": "bob"})).await;
    assert_eq!(refused.status, 503);
    locked.commit().await.unwrap();
    assert_eq!(outcome(&producer, "k1").await["status"], 200);
    assert_eq!((verdicts(&fleet, "retry"), verdicts(&fleet, "dead")), (0, 0));
    fleet.finish().await;
}

/// Locked by hand are a row, the lock of an owner, the target of a payment, and a row that is not
/// committed yet: commands that need it wait, on both doors; all others are decided meanwhile.
#[tokio::test]
async fn s5_05_what_somebody_has_locked_holds_up_its_own_commands_only() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    producer.team_cart("locked", "ada", &[]).await;
    assert_eq!(producer.send("cart.locked.add_item", item("i1", 500, 1)).await.status, 200);
    let initiate = json!({"target": {"cart": "locked"}, "method": "card", "transaction_id": "tx"});
    assert_eq!(producer.send("payment.p1.initiate", initiate).await.status, 201);
    let captured = json!({"result": "captured", "transaction_id": "tx", "amount": 500,
                          "currency": "EUR", "occurred_at": "2026-01-02T03:04:05.678Z"});
    let open = json!({"kind": "team", "owner": "eve", "currency": "EUR"});
    let cases = [
        (
            "select from brigade.carts where id = 'locked' for update",
            "cart.locked.commit_cod",
            json!({"user": "ada"}),
        ),
        (
            "select pg_advisory_xact_lock(hashtextextended('t1.ada', 0))",
            "cart.locked.leave",
            json!({"user": "ada"}),
        ),
        (
            "select from brigade.carts where id = 'locked' for update",
            "payment.p1.record_result",
            captured,
        ),
        (
            "insert into brigade.carts select (json_populate_record(c, '{\"id\": \"fresh\"}')).*
             from brigade.carts c where id = 'locked'",
            "cart.fresh.open",
            open,
        ),
    ];
    for (at, (lock, what, payload)) in cases.into_iter().enumerate() {
        let locked = by_hand(&fleet, lock).await;
        let before = lock_timeouts(&fleet);
        let held = verdicts(&fleet, "held");
        producer.store(&format!("k{at}"), what, &payload.to_string()).await;
        until_verdicts(&fleet, "held", held + 1).await;
        // Asked again and again, as a program does that wants it done.
        let asking = {
            let (producer, payload, id) = (producer.clone(), payload.clone(), format!("r{at}"));
            tokio::spawn(async move {
                let mut refused = 0;
                while producer.send_as(&id, what, payload.clone()).await.status == 503 {
                    refused += 1;
                }
                refused
            })
        };
        let others = (0..100).map(|n| {
            let (producer, owner) = (producer.clone(), format!("o{at}-{n}"));
            let open = json!({"kind": "menu", "owner": owner, "currency": "EUR"});
            async move {
                let (id, what) = (format!("x{at}-{n}"), format!("cart.x{at}-{n}.open"));
                if n % 2 == 0 {
                    producer.publish(&id, &what, open).await["status"].as_u64()
                } else {
                    Some(u64::from(producer.send_until_decided(&id, &what, open).await.status))
                }
            }
        });
        let others = timeout(Duration::from_secs(60), join_all(others)).await.expect(what);
        assert!(others.iter().all(|status| *status == Some(201)), "{what}: {others:?}");
        assert!(
            producer.request(&format!("q.t1.outcome.k{at}"), &[], b"").await.unwrap().status == 404
        );
        let waited = lock_timeouts(&fleet) - before;
        // By the batch that met it, and by none of those after it. What cannot be asked for is
        // tried now and then, beside the batches.
        let is_asked_for = at < 3;
        assert!(!is_asked_for || waited <= 5, "{what}: {waited} batches waited for a lock");
        locked.rollback().await.unwrap();
        let decided = outcome(&producer, &format!("k{at}")).await;
        let refused = timeout(Duration::from_secs(60), asking).await.expect(what).unwrap();
        eprintln!(
            "{what}: {} {}, a request refused {refused} times",
            decided["status"], decided["code"]
        );
        assert_ne!(decided["status"], 503);
    }
    fleet.finish().await;
}

/// The flood waits behind one batch; another tenant's command is in the next one.
#[tokio::test]
async fn s5_08_the_requests_of_one_tenant_do_not_keep_another_waiting() {
    const FLOOD: usize = 4000;
    let (fleet, http) = open_fleet().await;
    let (flood, other) = (fleet.producer().await, fleet.connect("t2-producer").await);
    let other = Producer::new(other, "t2");
    let armed = fleet.fail.arm("command-handler.before_write");
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    let first = {
        let (flood, open) = (flood.clone(), open.clone());
        tokio::spawn(async move {
            let (within, headers) = (Duration::from_secs(90), [("Command-Id", "first")]);
            let payload = open.to_string();
            flood
                .request_within(within, "req.t1.cart.first.open", &headers, payload.as_bytes())
                .await
        })
    };
    armed.reached().await;
    let inbox = flood.client.new_inbox();
    let mut answers = flood.client.subscribe(inbox.clone()).await.unwrap();
    for n in 0..FLOOD {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", format!("f{n}"));
        let open = json!({"kind": "menu", "owner": format!("f{n}"), "currency": "EUR"});
        let (subject, payload) = (format!("req.t1.cart.f{n}.open"), open.to_string().into());
        let sent =
            flood.client.publish_with_reply_and_headers(subject, inbox.clone(), headers, payload);
        sent.await.unwrap();
    }
    // A quarter of what may wait is taken, the rest is told to come again.
    let mut refused = 0;
    while refused < FLOOD - 2500 - 256 {
        let answer = timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
        let outcome: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!((&outcome["status"], &outcome["code"]), (&json!(429), &json!("too_many")));
        assert!(outcome["retry_after_ms"].as_u64() > Some(0));
        refused += 1;
    }
    let late = http.post("cart/late/open", &open).await;
    assert_eq!((late.status, late.code().as_str()), (429, "too_many"));
    assert_eq!(late.header("retry-after"), "1");
    let asked = (0..20).map(|n| {
        let (other, open) = (other.clone(), open.clone());
        tokio::spawn(async move { other.send(&format!("cart.o{n}.open"), open).await.status })
    });
    let asked: Vec<_> = asked.collect();
    let gauge =
        fleet.metrics.group::<ConsumeMetrics>().waiting.with_label_values(&["command-handler"]);
    until("the flood to wait", || async { (gauge.get() >= 2500).then_some(()) }).await;
    // The other's have a batch beside the one that takes long.
    armed.reached().await;
    fleet.fail.disarm("command-handler.before_write");
    for status in asked {
        assert_eq!(status.await.unwrap(), 201);
    }
    assert_eq!(first.await.unwrap().expect("an answer").status, 201);
    // When the last one of the other's was decided, most of the flood was not.
    let before: i64 = sqlx::query_scalar(
        "select count(*) from brigade.command_inbox where tenant = 't1' and decided_at <= (
             select max(decided_at) from brigade.command_inbox where tenant = 't2')",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert!(before <= 1 + 256, "{before} of the flood came first");
    // Between two batches the fleet may look idle: it is when all of the flood is answered.
    for _ in refused..FLOOD {
        timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
    }
    fleet.finish().await;
}
