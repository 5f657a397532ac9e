//! S4: the list of active orders and its changes.

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, Reply, TestFleet, check, polled_orders::PolledOrders, producer::placed, until,
    until_ready,
};
use futures::future::join_all;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

/// Returns the rows of the list as a statement of the test makes them.
pub async fn rows_in_sql(fleet: &TestFleet) -> Value {
    let sql = r#"
        select coalesce(jsonb_agg(jsonb_build_object(
            'version', o.parts->'core', 'at', o.parts_at->'core', 'order', o.id,
            'status', o.status, 'currency', o.currency, 'table_id', o.table_id,
            'turn_id', o.turn_id, 'items', o.items, 'total', o.total,
            'created_at', to_char(o.created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'change', case o.status
                when 'placed' then '{"kind": "added", "fields": [], "reason": null}'::jsonb
                else '{"kind": "updated", "fields": ["status"], "reason": null}' end,
            'payment', jsonb_build_object('version', o.parts->'payments',
                'at', o.parts_at->'payments', 'paid', o.paid,
                'paid_at', to_char(o.paid_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')),
            'due', o.total - o.paid
        ) order by o.created_at desc, o.id collate "C" desc), '[]')
        from brigade.orders o
        where o.tenant = 't1' and o.status not in ('completed', 'cancelled')"#;
    sqlx::query_scalar(sql).fetch_one(&fleet.sql).await.unwrap()
}

/// Returns an answer without its position, which names the moment and not the content.
pub fn without_position(reply: &Reply) -> String {
    let text = String::from_utf8(reply.bytes.clone()).unwrap();
    text.split("\"resume\":").next().unwrap().to_owned()
}

pub async fn place(producer: &Producer, order: &str) {
    let reply = producer.send(&format!("order.{order}.place"), placed(&[("Soup", 500, 1)])).await;
    assert_eq!(reply.status, 201, "{}", reply.body());
}

pub async fn step(producer: &Producer, order: &str, verb: &str) {
    let payload = if verb == "cancel" { json!({"reason": "guest left"}) } else { json!({}) };
    let reply = producer.send(&format!("order.{order}.{verb}"), payload).await;
    assert_eq!(reply.status, 200, "{verb} {order}: {}", reply.body());
}

/// Purges the bucket of the list.
async fn lose_rows(fleet: &TestFleet) {
    let operator = fleet.connect("operator").await;
    let purge = operator.request("$JS.API.STREAM.PURGE.KV_active_orders", "".into());
    purge.await.unwrap();
}

#[tokio::test]
async fn s4_02_the_list_is_newest_first_and_filtered_to_active() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let empty = producer.active_orders(&[]).await;
    assert_eq!((empty.status, &empty.body()["rows"]), (200, &json!([])));
    for order in ["o1", "o2", "o3", "o4", "o5"] {
        place(&producer, order).await;
    }
    step(&producer, "o3", "accept").await;
    step(&producer, "o5", "cancel").await;
    let mut screen = PolledOrders::default();
    let list = producer.active_orders(&[]).await;
    screen.apply(&list);
    assert_eq!(screen.orders(), ["o4", "o3", "o2", "o1"]);
    assert_eq!(list.body()["more"], Value::Null);
    assert_eq!(screen.rows[1]["change"]["fields"], json!(["status"]));
    assert_eq!(
        (&screen.rows[1]["status"], &screen.rows[1]["due"]),
        (&json!("accepted"), &json!(500))
    );
    assert_eq!(json!(screen.rows), rows_in_sql(&fleet).await);
    // Nothing of another tenant, and the position is of no use there.
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    let theirs = other.active_orders(&[("Resume", &screen.resume)]).await.body();
    assert_eq!((&theirs["reset"], &theirs["rows"]), (&json!(true), &json!([])));

    fleet.until_idle().await;
    for row in &screen.rows {
        let key = format!("t1.{}", row["order"].as_str().unwrap());
        let core = check::kv(&fleet, "active_orders", &format!("{key}.core")).await;
        let payment = check::kv(&fleet, "active_orders", &format!("{key}.payment")).await;
        let mut shown = core.unwrap();
        shown["payment"] = payment.unwrap();
        shown["due"] = json!(500);
        assert_eq!(*row, shown, "a row is what is pushed, and what is computed");
    }

    // What changed, and why.
    place(&producer, "o6").await;
    step(&producer, "o4", "accept").await;
    step(&producer, "o1", "cancel").await;
    for verb in ["prepare", "ready", "serve", "complete"] {
        step(&producer, "o3", verb).await;
    }
    let changes = screen.poll(&producer).await;
    assert_eq!((screen.resets, screen.orders()), (0, vec!["o6", "o4", "o2"]));
    let change = |order: &str| {
        let row = changes.iter().find(|row| row["order"] == order);
        row.map_or(Value::Null, |row| row["change"].clone())
    };
    let status = json!(["status"]);
    assert_eq!(change("o6"), json!({"kind": "added", "fields": [], "reason": null}));
    assert_eq!(change("o4"), json!({"kind": "updated", "fields": status, "reason": null}));
    assert_eq!(change("o1"), json!({"kind": "removed", "fields": status, "reason": "guest left"}));
    assert_eq!(change("o3"), json!({"kind": "removed", "fields": status, "reason": "completed"}));
    assert_eq!(json!(screen.rows), rows_in_sql(&fleet).await);
    let fresh = producer.active_orders(&[]).await;
    assert_eq!(fresh.etag.as_deref(), Some(screen.etag.as_str()));
    fleet.finish().await;
}

#[tokio::test]
async fn two_edges_give_the_same_list_under_the_same_etag() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for n in 0..20 {
        place(&producer, &format!("o{n}")).await;
    }
    let first = producer.active_orders(&[]).await;
    let tag = first.etag.clone().unwrap();
    let warm = producer.active_orders(&[]).await;
    assert_eq!((without_position(&warm), &warm.etag), (without_position(&first), &first.etag));
    // Another one that has nothing in memory, and goes on from the position that the first gave.
    fleet.take(WorkerName::Edge).stop().await;
    fleet.run(WorkerName::Edge).await;
    let mut screen = PolledOrders::default();
    screen.apply(&first);
    assert_eq!(producer.active_orders(&[("If-None-Match", &tag)]).await.status, 304);
    let cold = producer.active_orders(&[]).await;
    assert_eq!((without_position(&cold), &cold.etag), (without_position(&first), &first.etag));
    step(&producer, "o7", "accept").await;
    let second = fleet.instance(WorkerName::Edge);
    until_ready(&second).await;
    let known = [("If-None-Match", tag.as_str())];
    let answers = (0..50).map(|_| producer.active_orders(&known));
    let answers = join_all(answers).await;
    let same = |reply: &Reply| {
        (reply.status, without_position(reply), reply.etag.clone())
            == (200, without_position(&answers[0]), answers[0].etag.clone())
    };
    assert!(answers.iter().all(same));
    let new = answers[0].etag.clone().unwrap();
    let headers = [("If-None-Match", "\"x\""), ("If-None-Match", "\"y\"")];
    assert_eq!(producer.active_orders(&headers).await.code(), "bad_header");
    let both = format!("{tag}, W/{new}");
    let same = producer.active_orders(&[("If-None-Match", &both)]).await;
    assert_eq!((same.status, same.etag, same.bytes.len()), (304, Some(new), 0));
    screen.poll(&producer).await;
    assert_eq!((json!(screen.rows), screen.resets), (rows_in_sql(&fleet).await, 0));
    second.stop().await;
    fleet.finish().await;
}

#[tokio::test]
async fn no_list_is_older_than_an_outcome_while_nothing_is_projected() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    place(&producer, "o1").await;
    place(&producer, "o2").await;
    let mut screen = PolledOrders::default();
    screen.apply(&producer.active_orders(&[]).await);
    let before = screen.etag.clone();
    let _projector = fleet.fail.arm("payment-projector.before_projection");
    let handler = fleet.fail.arm("command-handler.after_commit");
    lose_rows(&fleet).await;
    // The handler has committed, and shows nothing; the outcome is asked for.
    let cancel = {
        let producer = producer.clone();
        tokio::spawn(async move {
            let reason = json!({"reason": "guest left"});
            producer.send_as("k1", "order.o1.cancel", reason).await
        })
    };
    handler.reached().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "9000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 200);
    let list = producer.active_orders(&[("If-None-Match", &before)]).await;
    assert_eq!(list.status, 200, "never 304");
    assert_eq!(json!(list.body()["rows"]), rows_in_sql(&fleet).await);
    let changes = screen.poll(&producer).await;
    assert!(changes.iter().any(|row| row["order"] == "o1" && row["change"]["kind"] == "removed"));
    assert_eq!((screen.orders(), screen.resets), (vec!["o2"], 0));
    assert_eq!(Some(screen.etag.clone()), list.etag);
    fleet.fail.disarm("command-handler.after_commit");
    fleet.fail.disarm("payment-projector.before_projection");
    assert_eq!(cancel.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_position_is_good_for_every_change_or_for_a_reset() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    place(&producer, "o1").await;
    let mut screen = PolledOrders::default();
    screen.apply(&producer.active_orders(&[]).await);
    for odd in ["", "?", "42", "a1.t1.1.1.1.w", "ä", &screen.resume.replace("a1.", "a9.")] {
        let reply = producer.active_orders(&[("Resume", odd)]).await;
        let body = reply.body();
        assert_eq!((reply.status, &body["reset"]), (200, &json!(true)), "{odd}");
        assert_eq!(body["rows"], rows_in_sql(&fleet).await);
        assert!(body["changes"].is_null());
    }
    let twice = [("Resume", screen.resume.as_str()), ("Resume", screen.resume.as_str())];
    assert_eq!(producer.active_orders(&twice).await.code(), "bad_header");
    assert_eq!(producer.active_orders(&[("Confirm", "sql")]).await.code(), "bad_header");
    let deep = producer.request("q.t1.active_orders", &[("Resume", &screen.etag)], b"{}").await;
    assert_eq!(deep.unwrap().status, 200);

    // A transaction that began before the position and ends after it is told.
    let mut tx = fleet.sql.begin().await.unwrap();
    let old =
        "insert into brigade.orders select tenant, 'o0', version, updated_at, parts, parts_at,
               status, currency, cart_id, table_id, turn_id, items, total, paid, refunded, paid_at,
               payments, created_at, reason from brigade.orders where id = 'o1'";
    sqlx::query(old).execute(&mut *tx).await.unwrap();
    place(&producer, "o2").await;
    screen.poll(&producer).await;
    screen.poll(&producer).await;
    assert_eq!(screen.orders(), ["o2", "o1"]);
    tx.commit().await.unwrap();
    screen.poll(&producer).await;
    assert_eq!((screen.orders(), screen.resets), (vec!["o2", "o1", "o0"], 0));
    // And so is one that ends an order.
    let mut tx = fleet.sql.begin().await.unwrap();
    let end = "update brigade.orders set status = 'cancelled', reason = 'late', version = 2,
               parts = '{\"core\": 2, \"payments\": 1}' where id = 'o1'";
    sqlx::query(end).execute(&mut *tx).await.unwrap();
    place(&producer, "o3").await;
    screen.poll(&producer).await;
    tx.commit().await.unwrap();
    screen.poll(&producer).await;
    assert_eq!((screen.orders(), screen.resets), (vec!["o3", "o2", "o0"], 0));
}

#[tokio::test]
async fn a_long_list_shows_the_newest_thousand_and_where_the_next_page_begins() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for hundred in 0..11 {
        let names: Vec<_> = (0..100).map(|n| format!("o{:04}", hundred * 100 + n)).collect();
        join_all(names.iter().map(|name| place(&producer, name))).await;
    }
    let all = rows_in_sql(&fleet).await;
    let all = all.as_array().unwrap();
    until("memory to have all", || async {
        let brought = fleet.edge_metrics().list_watched.with_label_values(&["row"]).get();
        (brought >= 1100).then_some(())
    })
    .await;
    let list = producer.active_orders(&[]).await;
    let body = list.body();
    assert_eq!((all.len(), &body["more"]), (1100, &json!(true)));
    assert_eq!(body["rows"].as_array().unwrap()[..], all[..1000]);
    let next = body["next"].as_str().unwrap();
    let rest = producer.active_orders(&[("After", next)]).await.body();
    assert_eq!(rest["rows"].as_array().unwrap()[..], all[1000..]);
    assert_eq!((&rest["next"], &rest["more"]), (&Value::Null, &Value::Null));
    let etag = list.etag.unwrap();
    assert_eq!(producer.active_orders(&[("If-None-Match", &etag)]).await.status, 304);
    let metric = |from: &str| fleet.edge_metrics().list_rows.with_label_values(&[from]).get();
    assert_eq!((metric("memory"), metric("sql")), (1100, 0));
    // Where one goes, one that nothing happened to comes into view.
    let newest = all[0]["order"].as_str().unwrap();
    step(&producer, newest, "cancel").await;
    let resume = body["resume"].as_str().unwrap();
    let reset = producer.active_orders(&[("Resume", resume)]).await.body();
    assert_eq!((&reset["reset"], &reset["more"]), (&json!(true), &json!(true)));
    assert_eq!(reset["rows"].as_array().unwrap()[..], all[1..1001]);
    assert_eq!((metric("memory"), metric("sql")), (2100, 0));
    // Who has read all pages is told what changed since the first one.
    let resume = rest["resume"].as_str().unwrap();
    let changes = producer.active_orders(&[("Resume", resume)]).await.body();
    assert_eq!(changes["reset"], Value::Null);
    let changed: Vec<&Value> = changes["changes"].as_array().unwrap().iter().collect();
    assert!(changed.iter().any(|row| row["order"] == newest), "{changed:?}");
}

#[tokio::test]
async fn a_list_takes_no_more_than_900_kilobytes() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let item =
        json!({"sku": "s", "name": "n", "unit_price": 1, "quantity": 1, "note": "x".repeat(500)});
    // As large as a row may be, with nothing left out.
    let large = json!({"currency": "EUR", "items": vec![item; 12]});
    let placed = join_all((0..150).map(async |n| {
        let reply = producer.send(&format!("order.o{n}.place"), large.clone()).await;
        assert_eq!(reply.status, 201, "{}", reply.body());
    }));
    placed.await;
    let list = producer.active_orders(&[]).await;
    let all = rows_in_sql(&fleet).await;
    let all = all.as_array().unwrap();
    let shown = list.body()["rows"].as_array().unwrap().len();
    assert!(list.bytes.len() <= 900_000 && (100..150).contains(&shown), "{shown}");
    assert_eq!(list.body()["more"], true);
    assert_eq!(list.body()["rows"].as_array().unwrap()[..], all[..shown]);
    let next = list.body()["next"].as_str().unwrap().to_owned();
    let rest = producer.active_orders(&[("After", &next)]).await.body();
    assert_eq!(rest["rows"].as_array().unwrap()[..], all[shown..]);
    let mut screen = PolledOrders::default();
    screen.apply(&list);
    screen.poll(&producer).await;
    assert_eq!((screen.resets, screen.rows.len()), (1, shown));
    fleet.finish().await;
}

/// An operation on the orders of a restaurant, or a fault of the list.
#[derive(Clone, Copy, Debug)]
enum Step {
    Place,
    Forward(usize),
    Cancel(usize),
    Look,
    Poll,
    PauseProjector,
    GoOn,
    LoseRows,
    RestartEdge,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Place),
        12 => (0..30_usize).prop_map(Step::Forward),
        3 => (0..30_usize).prop_map(Step::Cancel),
        6 => Just(Step::Look),
        4 => Just(Step::Poll),
        1 => Just(Step::PauseProjector),
        1 => Just(Step::GoOn),
        1 => Just(Step::LoseRows),
        1 => Just(Step::RestartEdge),
    ]
}

#[tokio::test]
async fn s4_04_the_list_is_what_sql_says_after_any_sequence_of_operations() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let steps = prop::collection::vec(any_step(), 80);
    for _ in 0..4 {
        operate(&steps.new_tree(&mut runner).unwrap().current()).await;
    }
}

async fn operate(steps: &[Step]) {
    const VERBS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    // By order: how many steps it has made; the screen keeps up by changes, the poll by ETag.
    let mut orders: Vec<usize> = Vec::new();
    let (mut screen, mut poll) = (PolledOrders::default(), PolledOrders::default());
    screen.apply(&producer.active_orders(&[]).await);
    for step in steps {
        match *step {
            Step::Place => {
                place(&producer, &format!("o{}", orders.len())).await;
                orders.push(0);
            }
            Step::Forward(n) if n < orders.len() && orders[n] < VERBS.len() => {
                self::step(&producer, &format!("o{n}"), VERBS[orders[n]]).await;
                orders[n] += 1;
            }
            Step::Cancel(n) if n < orders.len() && orders[n] < 4 => {
                self::step(&producer, &format!("o{n}"), "cancel").await;
                orders[n] = VERBS.len();
            }
            Step::Forward(_) | Step::Cancel(_) => {}
            Step::Look => {
                screen.poll(&producer).await;
                assert_eq!(json!(screen.rows), rows_in_sql(&fleet).await);
            }
            Step::Poll => poll_once(&producer, &mut poll, &fleet).await,
            Step::PauseProjector => drop(fleet.fail.arm("payment-projector.before_projection")),
            Step::GoOn => fleet.fail.disarm("payment-projector.before_projection"),
            Step::LoseRows => lose_rows(&fleet).await,
            Step::RestartEdge => {
                fleet.take(WorkerName::Edge).kill().await;
                fleet.run(WorkerName::Edge).await;
            }
        }
    }
    screen.poll(&producer).await;
    poll_once(&producer, &mut poll, &fleet).await;
    let warm = producer.active_orders(&[]).await;
    assert_eq!(json!(screen.rows), rows_in_sql(&fleet).await);
    assert_eq!((screen.resets, &screen.rows, &screen.etag), (0, &poll.rows, &poll.etag));
    // From memory and from SQL: the same bytes.
    fleet.take(WorkerName::Edge).kill().await;
    fleet.run(WorkerName::Edge).await;
    let cold = producer.active_orders(&[]).await;
    assert_eq!((without_position(&warm), &warm.etag), (without_position(&cold), &cold.etag));
    fleet.fail.disarm("payment-projector.before_projection");
}

async fn poll_once(producer: &Producer, poll: &mut PolledOrders, fleet: &TestFleet) {
    let known = [("If-None-Match", poll.etag.as_str())];
    let known = if poll.etag.is_empty() { &[][..] } else { &known[..] };
    let reply = producer.active_orders(known).await;
    if reply.status != 304 {
        poll.apply(&reply);
    }
    assert_eq!(json!(poll.rows), rows_in_sql(fleet).await);
}
