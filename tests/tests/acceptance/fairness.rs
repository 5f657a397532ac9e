//! S5-08: what one tenant stores on the durable door is not what another waits for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Town, until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::interval;

fn open(owner: &str) -> Value {
    json!({"kind": "menu", "owner": owner, "currency": "EUR"})
}

async fn producer(town: &Town, tenant: &str) -> Producer {
    Producer::new(town.connect(&format!("{tenant}-producer")).await, tenant)
}

/// Puts commands into the stream that open carts `<name>0`, `<name>1` …, waiting for none of them.
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

/// Waits until the stream has taken so many commands.
async fn until_stored(town: &Town, count: u64) {
    let js = jetstream::new(town.connect("operator").await);
    until("the commands to be stored", async || {
        let info: Value = js.request("STREAM.INFO.COMMANDS", &json!({})).await.ok()?;
        (info["state"]["last_seq"].as_u64()? >= count).then_some(())
    })
    .await;
}

async fn count(town: &Town, tenant: &str) -> i64 {
    sqlx::query_scalar("select count(*) from brigade.command_inbox where tenant = $1")
        .bind(tenant)
        .fetch_one(&town.sql)
        .await
        .unwrap()
}

async fn until_decided(town: &Town, tenant: &str, all: i64) {
    until("all of a tenant to be decided", async || {
        (count(town, tenant).await >= all).then_some(())
    })
    .await;
}

/// How many commands of a tenant were decided before the last one of another.
async fn decided_before_the_last_of(town: &Town, other: &str, tenant: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from brigade.command_inbox where tenant = $1 and decided_at <= (
             select max(decided_at) from brigade.command_inbox where tenant = $2)",
    )
    .bind(tenant)
    .bind(other)
    .fetch_one(&town.sql)
    .await
    .unwrap()
}

/// Ends a test: all of each tenant was decided, each command once, and only the shared consumer is
/// left.
async fn finish(town: Town, all: &[(&str, i64)]) {
    for (tenant, all) in all {
        until_decided(&town, tenant, *all).await;
    }
    town.until_idle().await;
    until("nothing to overtake", async || (consumers(&town).await.len() == 1).then_some(())).await;
    for (tenant, all) in all {
        let opened: i64 = sqlx::query_scalar(
            "select count(*) from brigade.events where tenant = $1 and type = 'opened'",
        )
        .bind(tenant)
        .fetch_one(&town.sql)
        .await
        .unwrap();
        assert_eq!((count(&town, tenant).await, opened), (*all, *all), "{tenant}");
    }
    town.finish().await;
}

/// The consumers of `COMMANDS`.
async fn consumers(town: &Town) -> BTreeSet<String> {
    let js = jetstream::new(town.connect("operator").await);
    let names: Value = js.request("CONSUMER.NAMES.COMMANDS", &json!({})).await.unwrap();
    let names = names["consumers"].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Commands on the durable door of another tenant, each with its outcome.
async fn served(producer: &Producer, name: &str, count: usize) {
    let asked = (0..count).map(async |n| {
        let id = format!("{name}{n}");
        let outcome = producer.publish(&id, &format!("cart.{id}.open"), open(&id)).await;
        assert_eq!(outcome["status"], 201, "{outcome}");
    });
    join_all(asked).await;
}

#[tokio::test]
async fn s5_08_durable_commands_of_others_overtake_a_flood() {
    const FLOOD: usize = 20_000;
    let mut town = Town::start_without(WorkerName::CommandHandler).await;
    let others = [producer(&town, "t2").await, producer(&town, "t1").await];
    let [t2, t1] = &others;
    town.run(WorkerName::CommandHandler).await;
    // They are known from then on.
    assert_eq!(t2.send("cart.before.open", open("before")).await.status, 201);
    assert_eq!(t1.send("cart.before.open", open("before")).await.status, 201);
    town.stop_one(WorkerName::CommandHandler).await;
    flood(&t1.client, "t1", "f", FLOOD).await;
    flood(&t2.client, "t2", "x", 50).await;
    until_stored(&town, 20_050).await;
    town.run(WorkerName::CommandHandler).await;
    until_decided(&town, "t2", 51).await;
    served(t2, "y", 50).await;
    let before = decided_before_the_last_of(&town, "t2", "t1").await;
    println!("{before} of {FLOOD} came first");
    assert!(before < 10_000, "{before} of the flood came first");
    assert_eq!(t2.send("cart.z.open", open("z")).await.status, 201);
    finish(town, &[("t1", 20_001), ("t2", 102)]).await;
}

/// Not a test: prints how long commands of `t2` take on the durable door, quiet and in a flood.
#[tokio::test]
#[ignore = "prints figures, for people"]
async fn times_of_a_flood() {
    const FLOOD: usize = 30_000;
    let mut town = Town::empty().await;
    town.run(WorkerName::CommandHandler).await;
    town.run(WorkerName::OutboxRelay).await;
    let (t1, t2) = (producer(&town, "t1").await, producer(&town, "t2").await);
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
        println!("{name}: {count}, p50 {:?}, p99 {:?}", times[count / 2], times[count * 99 / 100]);
    };
    times("quiet", 200).await;
    town.stop_one(WorkerName::CommandHandler).await;
    flood(&t1.client, "t1", "f", FLOOD).await;
    until_stored(&town, FLOOD as u64 + 200).await;
    let began = Instant::now();
    town.run(WorkerName::CommandHandler).await;
    times("flood", 200).await;
    until_decided(&town, "t1", FLOOD as i64).await;
    println!("the flood took {:?}", began.elapsed());
    town.until_idle().await;
}
