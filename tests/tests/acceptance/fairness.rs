//! S5-08: no tenant waits behind the durable commands of another.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use brigade::{infra::nats::ConnectionMetrics, runtime::ConsumeMetrics};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, check, until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::interval;

fn open(owner: &str) -> Value {
    json!({"kind": "menu", "owner": owner, "currency": "EUR"})
}

async fn producer(fleet: &TestFleet, tenant: &str) -> Producer {
    Producer::new(fleet.connect(&format!("{tenant}-producer")).await, tenant)
}

/// Publishes commands that open carts `<name>0`, `<name>1` … without waiting for outcomes.
async fn flood(client: &async_nats::Client, tenant: &str, name: &str, count: usize) {
    for n in 0..count {
        let id = format!("{name}{n}");
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", id.as_str());
        let subject = format!("cmd.{tenant}.cart.{id}.open");
        let payload = open(&id).to_string().into();
        client.publish_with_headers(subject, headers, payload).await.unwrap();
    }
    client.flush().await.unwrap();
}

/// Waits until the stream has stored this many commands.
async fn until_stored(fleet: &TestFleet, count: u64) {
    let js = jetstream::new(fleet.connect("operator").await);
    until("the commands to be stored", async || {
        let info: Value = js.request("STREAM.INFO.COMMANDS", &json!({})).await.ok()?;
        (info["state"]["last_seq"].as_u64()? >= count).then_some(())
    })
    .await;
}

async fn count(fleet: &TestFleet, tenant: &str) -> i64 {
    sqlx::query_scalar("select count(*) from brigade.command_inbox where tenant = $1")
        .bind(tenant)
        .fetch_one(&fleet.sql)
        .await
        .unwrap()
}

async fn until_decided(fleet: &TestFleet, tenant: &str, all: i64) {
    let mut decided = 0;
    while decided < all {
        // A flood takes its time on a machine that is busy; it only must not stand still.
        decided = until("more of a tenant to be decided", async || {
            Some(count(fleet, tenant).await).filter(|now| *now > decided)
        })
        .await;
    }
}

/// Counts the commands of a tenant that were decided before the last one of another.
async fn decided_before_the_last_of(fleet: &TestFleet, other: &str, tenant: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from brigade.command_inbox where tenant = $1 and decided_at <= (
             select max(decided_at) from brigade.command_inbox where tenant = $2)",
    )
    .bind(tenant)
    .bind(other)
    .fetch_one(&fleet.sql)
    .await
    .unwrap()
}

/// Ends a test: all of each tenant was decided, each command once, and only the shared consumer is
/// left.
async fn finish(fleet: TestFleet, all: &[(&str, i64)]) {
    for (tenant, all) in all {
        until_decided(&fleet, tenant, *all).await;
    }
    until_acknowledged(&fleet).await;
    until("nothing to overtake", async || (consumers(&fleet).await.len() == 1).then_some(())).await;
    for (tenant, all) in all {
        let opened: i64 = sqlx::query_scalar(
            "select count(*) from brigade.events where tenant = $1 and type = 'opened'",
        )
        .bind(tenant)
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
        assert_eq!((count(&fleet, tenant).await, opened), (*all, *all), "{tenant}");
    }
    assert!(check::dead_letters(&fleet).await.is_empty());
    assert_eq!(
        fleet
            .metrics
            .group::<ConnectionMetrics>()
            .violations
            .with_label_values(&["command-handler"])
            .get(),
        0
    );
}

/// Waits until the shared consumer has nothing left.
async fn until_acknowledged(fleet: &TestFleet) {
    let js = jetstream::new(fleet.connect("operator").await);
    until("all to be acknowledged", async || {
        let info: Result<Value, _> =
            js.request("CONSUMER.INFO.COMMANDS.command-handler", &json!({})).await;
        let info = info.ok()?;
        (info["num_pending"] == 0 && info["num_ack_pending"] == 0).then_some(())
    })
    .await;
}

/// Returns the consumers of `COMMANDS`.
async fn consumers(fleet: &TestFleet) -> BTreeSet<String> {
    let js = jetstream::new(fleet.connect("operator").await);
    let names: Value = js.request("CONSUMER.NAMES.COMMANDS", &json!({})).await.unwrap();
    let names = names["consumers"].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Sends durable commands and waits for the outcome of each.
async fn served(producer: &Producer, name: &str, count: usize) {
    let asked = (0..count).map(async |n| {
        let id = format!("{name}{n}");
        let outcome = producer.publish(&id, &format!("cart.{id}.open"), open(&id)).await;
        assert_eq!(outcome["status"], 201, "{outcome}");
    });
    join_all(asked).await;
}

/// Starts a fleet where these tenants stored this many commands each, one tenant after the other,
/// while no command-handler ran. They and `t3` are known by then, by a request of each.
async fn flooded(floods: &[(&str, usize)]) -> (TestFleet, Producer) {
    let mut fleet = TestFleet::empty().await;
    let t3 = third(&fleet).await;
    fleet.run(WorkerName::CommandHandler).await;
    assert_eq!(t3.send("cart.before.open", open("before")).await.status, 201);
    let mut stored = 0;
    for (tenant, _) in floods {
        let producer = producer(&fleet, tenant).await;
        assert_eq!(producer.send("cart.before.open", open("before")).await.status, 201);
    }
    fleet.stop_one(WorkerName::CommandHandler).await;
    for (tenant, count) in floods {
        flood(&producer(&fleet, tenant).await.client, tenant, "f", *count).await;
        stored += count;
        until_stored(&fleet, stored as u64).await;
    }
    (fleet, t3)
}

/// Returns a producer of the restaurant `t3`, with the credentials of an operator.
async fn third(fleet: &TestFleet) -> Producer {
    Producer::new(fleet.connect("operator").await, "t3")
}

/// Waits until this many consumers overtake the shared one.
async fn until_overtaken(fleet: &TestFleet, count: usize) {
    let made = async || (consumers(fleet).await.len() > count).then_some(());
    until("consumers that overtake", made).await;
}

#[tokio::test]
async fn s5_08_durable_commands_of_others_overtake_a_flood() {
    const FLOOD: usize = 20_000;
    let (mut fleet, t3) = flooded(&[("t1", FLOOD)]).await;
    flood(&t3.client, "t3", "x", 50).await;
    until_stored(&fleet, FLOOD as u64 + 50).await;
    fleet.run(WorkerName::CommandHandler).await;
    until_decided(&fleet, "t3", 51).await;
    served(&t3, "y", 50).await;
    assert_eq!(t3.send("cart.z.open", open("z")).await.status, 201);
    // One that has sent nothing before overtakes as well.
    let t2 = producer(&fleet, "t2").await;
    assert_eq!(t2.send("cart.z.open", open("z")).await.status, 201);
    served(&t2, "x", 50).await;
    for (tenant, bound) in [("t3", 6_000), ("t2", 12_000)] {
        let before = decided_before_the_last_of(&fleet, tenant, "t1").await;
        println!("{before} of {FLOOD} came before the last of {tenant}");
        assert!(before < bound, "{before} of the flood came before the last of {tenant}");
    }
    assert!(fleet.metrics.group::<ConsumeMetrics>().overtaking.get() >= 150);
    finish(fleet, &[("t1", 20_001), ("t2", 51), ("t3", 102)]).await;
}

#[tokio::test]
async fn s5_08_the_lesser_flood_overtakes_the_greater_and_others_overtake_both() {
    let (mut fleet, t3) = flooded(&[("t1", 12_000), ("t2", 4000)]).await;
    fleet.run(WorkerName::CommandHandler).await;
    until_overtaken(&fleet, 2).await;
    served(&t3, "x", 50).await;
    until_decided(&fleet, "t2", 4001).await;
    for (other, tenant, bound) in [("t3", "t2", 3_000), ("t2", "t1", 10_000)] {
        let before = decided_before_the_last_of(&fleet, other, tenant).await;
        println!("{before} of {tenant} came before the last of {other}");
        assert!(before < bound, "{before} of {tenant} came before the last of {other}");
    }
    finish(fleet, &[("t1", 12_001), ("t2", 4001), ("t3", 51)]).await;
}

#[tokio::test]
async fn s5_08_each_command_is_decided_once_whatever_happens_while_it_overtakes() {
    let (mut fleet, t3) = flooded(&[("t1", 5000)]).await;
    // Nothing is decided while all this happens.
    let armed = fleet.fail.arm("command-handler.before_write");
    let first = fleet.instance(WorkerName::CommandHandler);
    fleet.run(WorkerName::CommandHandler).await;
    armed.reached().await;
    flood(&t3.client, "t3", "x", 50).await;
    until_overtaken(&fleet, 1).await;
    let js = jetstream::new(fleet.connect("operator").await);
    let consumer = "CONSUMER.DELETE.COMMANDS.command-handler-overtaking-1";
    let deleted: Value = js.request(consumer, &json!({})).await.unwrap();
    assert_eq!(deleted["success"], true);
    until_overtaken(&fleet, 1).await;
    first.kill().await;
    until_overtaken(&fleet, 1).await;
    fleet.nats.restart().await.unwrap();
    until_overtaken(&fleet, 1).await;
    fleet.fail.disarm("command-handler.before_write");
    until_decided(&fleet, "t3", 51).await;
    fleet.run(WorkerName::CommandHandler).await;
    finish(fleet, &[("t1", 5001), ("t3", 51)]).await;
}

#[tokio::test]
async fn what_fails_ahead_of_its_turn_is_buried_once_and_in_its_turn() {
    let (mut fleet, t3) = flooded(&[("t1", 5000)]).await;
    // It has no Command-Id.
    t3.client.publish("cmd.t3.cart.bad.open", "{}".into()).await.unwrap();
    flood(&t3.client, "t3", "x", 10).await;
    until_stored(&fleet, 5011).await;
    fleet.run(WorkerName::CommandHandler).await;
    until_decided(&fleet, "t3", 11).await;
    let verdict = |verdict| {
        fleet
            .metrics
            .group::<ConsumeMetrics>()
            .verdicts
            .with_label_values(&["command-handler", verdict])
    };
    until("the bad one to be left", async || (verdict("left").get() > 0).then_some(())).await;
    until_acknowledged(&fleet).await;
    assert_eq!((verdict("dead").get(), check::dead_letters(&fleet).await.len()), (1, 1));
}

/// A measurement: prints how long durable commands of `t2` take when all is quiet, in a flood, and
/// in a flood that is not overtaken.
#[tokio::test]
#[ignore = "prints figures, for people"]
async fn times_of_a_flood() {
    const FLOOD: usize = 15_000;
    for overtakes in [true, false] {
        let mut fleet = TestFleet::empty().await;
        if !overtakes {
            let taken = "insert into brigade.leases (name, holder, until)
                         values ('command-handler.overtaking', 'nobody', 'infinity')";
            sqlx::raw_sql(taken).execute(&fleet.sql).await.unwrap();
        }
        fleet.run(WorkerName::CommandHandler).await;
        let (t1, t2) = (producer(&fleet, "t1").await, producer(&fleet, "t2").await);
        // One each 50 ms, whether the last one was decided or not.
        let times = async |name: &str, count: usize| {
            let mut tick = interval(Duration::from_millis(50));
            let mut asked = Vec::new();
            for n in 0..count {
                tick.tick().await;
                let (t2, name) = (t2.clone(), format!("{name}{n}-"));
                asked.push(tokio::spawn(async move {
                    let began = Instant::now();
                    served(&t2, &name, 1).await;
                    began.elapsed()
                }));
            }
            let mut times: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
            times.sort();
            let (p50, p99) = (times[count / 2], times[count * 99 / 100]);
            println!("overtaking {overtakes}, {name}: p50 {p50:?}, p99 {p99:?}");
        };
        times("quiet", 100).await;
        fleet.stop_one(WorkerName::CommandHandler).await;
        flood(&t1.client, "t1", "f", FLOOD).await;
        until_stored(&fleet, FLOOD as u64 + 100).await;
        let began = Instant::now();
        fleet.run(WorkerName::CommandHandler).await;
        times("flood", 150).await;
        until_decided(&fleet, "t1", FLOOD as i64).await;
        println!("the flood took {:?}", began.elapsed());
    }
}
