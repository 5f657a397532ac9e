//! Messages that wait for their next attempt, or for a locked row, hold up no other, and fill
//! neither the stream nor the log.

use async_nats::{HeaderMap, jetstream};
use brigade::runtime::ConsumeMetrics;
use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet, check,
    paying::result,
    process::Process,
    producer::{item, placed},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};

/// Stores results of payments that were never begun; each is retried until it is dead-lettered.
async fn flood(fleet: &TestFleet, count: usize) {
    let client = fleet.producer().await.client;
    let said = result("captured", "g1", 1000).to_string();
    for n in 0..count {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", format!("f{n}"));
        let subject = format!("cmd.t1.payment.f{n}.record_result");
        client.publish_with_headers(subject, headers, said.clone().into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

async fn asked(fleet: &TestFleet, subject: &str, request: Value) -> Option<Value> {
    let js = jetstream::new(fleet.connect("operator").await);
    js.request(subject.to_owned(), &request).await.ok()
}

/// Returns the state of the shared consumer.
async fn shared(fleet: &TestFleet) -> Option<Value> {
    asked(fleet, "CONSUMER.INFO.COMMANDS.command-handler", json!({})).await
}

async fn held(fleet: &TestFleet) -> (u64, u64) {
    let info = asked(fleet, "STREAM.INFO.COMMANDS", json!({})).await.unwrap();
    let number = |field: &str| info["state"][field].as_u64().unwrap();
    (number("messages"), number("bytes"))
}

fn verdicts(fleet: &TestFleet, verdict: &str) -> u64 {
    fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["command-handler", verdict])
        .get()
}

async fn second(fleet: &TestFleet) -> Producer {
    Producer::new(fleet.connect("t2-producer").await, "t2")
}

/// Sends results of `t2` so long before their payments that they are tried alone, and ordinary
/// commands. Requests of `t2` are the clock: they show that its commands do not merely wait.
async fn served(fleet: &TestFleet, t2: &Producer, rounds: usize) {
    for n in 0..rounds {
        let cart = format!("early{n}");
        t2.cart_of(&cart, "menu", &format!("ada{n}"), &[("i1", 1000, 1)]).await;
        let said = result("captured", "g1", 1000).to_string();
        t2.store(&format!("r{n}"), &format!("payment.p{n}.record_result"), &said).await;
        let info = asked(fleet, "STREAM.INFO.COMMANDS", json!({})).await.unwrap();
        let tries = format!("command-handler.COMMANDS.{}", info["state"]["last_seq"]);
        let mut ticks = 0;
        while check::kv(fleet, "attempts", &tries).await.is_none() {
            tick(t2, &format!("before{n}-{ticks}")).await;
            ticks += 1;
            assert!(ticks < 1000, "nobody tries r{n}");
        }
        let open = json!({"kind": "menu", "owner": format!("bob{n}"), "currency": "EUR"});
        let opened = t2.publish(&format!("o{n}"), &format!("cart.o{n}.open"), open).await;
        assert_eq!(opened["status"], 201, "{opened}");
        t2.initiate(&format!("p{n}"), &cart).await;
        let query = format!("q.t2.outcome.r{n}");
        let outcome = loop {
            let reply = t2.request(&query, &[], b"").await.unwrap();
            if reply.status == 200 {
                break reply.body();
            }
            tick(t2, &format!("tick{n}-{ticks}")).await;
            ticks += 1;
            assert!(ticks < 1000, "nobody tries r{n}");
        };
        println!("{ticks} commands were decided until r{n} was");
        assert_eq!(outcome["code"], "ok");
    }
}

async fn tick(t2: &Producer, id: &str) {
    let open = json!({"kind": "menu", "owner": id, "currency": "EUR"});
    assert_eq!(t2.send_until_decided(id, &format!("cart.{id}.open"), open).await.status, 201);
}

#[tokio::test]
async fn s5_08_results_without_a_payment_hold_up_no_other_tenant() {
    const FLOOD: usize = 4000;
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet.run(WorkerName::Edge).await;
    let t2 = second(&fleet).await;
    t2.team_cart("before", "ada", &[]).await;
    flood(&fleet, FLOOD).await;
    until("all of them to wait for their next try", || async {
        let tried = verdicts(&fleet, "retry") >= 2 * FLOOD as u64;
        (tried && shared(&fleet).await?["num_pending"] == 0).then_some(())
    })
    .await;
    served(&fleet, &t2, 3).await;
    let dead = check::dead_letters(&fleet).await.len();
    println!("{dead} of {FLOOD} were dead by then");
    assert!(dead < FLOOD / 2, "{dead} of {FLOOD} came first");
}

/// As many messages are retried as the consumer may have pending.
#[tokio::test]
async fn s5_08_a_tenant_of_whom_all_is_pending_holds_up_no_other() {
    const FLOOD: usize = 4000;
    const MOST: u64 = 400;
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet.run(WorkerName::Edge).await;
    let t2 = second(&fleet).await;
    t2.team_cart("before", "ada", &[]).await;
    let mut config = shared(&fleet).await.unwrap()["config"].clone();
    config["max_ack_pending"] = json!(MOST);
    let update = json!({"stream_name": "COMMANDS", "config": config, "action": "update"});
    let updated = asked(&fleet, "CONSUMER.CREATE.COMMANDS.command-handler", update).await.unwrap();
    assert_eq!(updated["config"]["max_ack_pending"], MOST);
    flood(&fleet, FLOOD).await;
    until("a consumer that delivers nothing new", || async {
        let is_stored = held(&fleet).await.0 == FLOOD as u64;
        (is_stored && shared(&fleet).await?["num_ack_pending"] == MOST).then_some(())
    })
    .await;
    served(&fleet, &t2, 3).await;
    let shared = shared(&fleet).await.unwrap();
    let reached = shared["delivered"]["stream_seq"].as_u64().unwrap();
    println!("the consumer has reached {reached}");
    assert!(reached < FLOOD as u64, "it has reached {reached}");
}

/// Two commands that cannot be decided are in the stream, and more are decided than it holds.
#[tokio::test]
async fn s5_07_decided_commands_leave_a_stream_however_long_others_are_not_decided() {
    const MOST: u64 = 256 * 1024;
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet.run(WorkerName::Edge).await;
    let (t1, t2) = (fleet.producer().await, second(&fleet).await);
    t1.team_cart("c1", "ada", &[]).await;
    let js = jetstream::new(fleet.connect("operator").await);
    let found: Value = js.request("STREAM.INFO.COMMANDS", &json!({})).await.unwrap();
    let mut config = found["config"].clone();
    config["max_bytes"] = json!(MOST);
    let shrunk: Value = js.request("STREAM.UPDATE.COMMANDS", &config).await.unwrap();
    assert_eq!(shrunk["config"]["max_bytes"], MOST, "{shrunk}");
    let mut by_hand = fleet.sql.begin().await.unwrap();
    sqlx::raw_sql("select from brigade.carts where id = 'c1' for update")
        .execute(&mut *by_hand)
        .await
        .unwrap();
    let add = async |id: &str| {
        t1.store(id, "cart.c1.add_item", &item(id, 100, 1).to_string()).await;
    };
    add("k1").await;
    let name = "Soup of the day ".repeat(12);
    let items: Vec<_> = (0..16).map(|_| (name.as_str(), 500, 1)).collect();
    let place = placed(&items);
    for window in 0..24 {
        if window == 4 {
            add("k2").await;
        }
        let sent = (0..12).map(|n| {
            let (id, what) = (format!("k{window}-{n}"), format!("order.o{window}-{n}.place"));
            let (t2, place) = (t2.clone(), place.clone());
            async move { t2.publish(&id, &what, place).await["status"] == 201 }
        });
        assert!(join_all(sent).await.into_iter().all(|placed| placed));
        until("room", || async { (held(&fleet).await.1 < MOST / 2).then_some(()) }).await;
    }
    assert!(held(&fleet).await.0 >= 2);
    assert_eq!(shared(&fleet).await.unwrap()["ack_floor"]["stream_seq"], 0);
    by_hand.rollback().await.unwrap();
    for id in ["k1", "k2"] {
        let query = format!("q.t1.outcome.{id}");
        let outcome = t1.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap();
        assert_eq!(outcome.body()["status"], 200, "{id}");
    }
}

/// More commands need a locked row than are kept in hand. The commands that `t2` sends meanwhile,
/// one after the other, are the clock.
#[tokio::test]
async fn s5_05_commands_on_a_row_that_was_locked_are_decided_soon_after() {
    const WAITING: u64 = 3000;
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    let (t1, t2) = (fleet.producer().await, second(&fleet).await);
    t1.team_cart("c1", "ada", &[]).await;
    let mut by_hand = fleet.sql.begin().await.unwrap();
    sqlx::raw_sql("select from brigade.carts where id = 'c1' for update")
        .execute(&mut *by_hand)
        .await
        .unwrap();
    for n in 0..WAITING {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", format!("k{n}"));
        let join = json!({"user": "bob"}).to_string().into();
        t1.client.publish_with_headers("cmd.t1.cart.c1.join", headers, join).await.unwrap();
    }
    t1.client.flush().await.unwrap();
    until("all of them to be held up", || async {
        let shared = shared(&fleet).await?;
        let delivered = shared["delivered"]["stream_seq"].as_u64()?;
        (delivered >= WAITING && verdicts(&fleet, "held") >= WAITING).then_some(())
    })
    .await;
    by_hand.rollback().await.unwrap();
    let mut ticks = 0;
    let decided = async || -> i64 {
        let count = "select count(*) from brigade.command_inbox where command_id like 'k%'";
        sqlx::query_scalar(count).fetch_one(&fleet.sql).await.unwrap()
    };
    while decided().await < WAITING.cast_signed() {
        tick(&t2, &format!("tick{ticks}")).await;
        ticks += 1;
        assert!(ticks < 1000, "{} of {WAITING} were decided since", decided().await);
    }
    println!("{ticks} commands of another were decided meanwhile");
}

#[tokio::test]
async fn s5_08_what_is_tried_again_and_again_is_told_once_a_second() {
    let fleet = TestFleet::empty().await;
    let handler = Process::start(&fleet, &[WorkerName::CommandHandler], None).await;
    flood(&fleet, 100).await;
    until("all to be dead", || async {
        (check::dead_letters(&fleet).await.len() == 100).then_some(())
    })
    .await;
    let log = handler.log();
    let told: Vec<_> = log
        .lines()
        .filter(|line| line.contains("will be retried") && line.contains("\"level\":\"WARN\""))
        .collect();
    assert!((1..100).contains(&told.len()), "{} lines", told.len());
    assert!(told[0].contains("payment_not_there_yet"), "{}", told[0]);
    handler.kill().await;
}
