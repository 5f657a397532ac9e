//! The same promises on a cluster of three nats-servers, every stream with three replicas.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use brigade::{
    fleet::{Instance, Servers},
    infra::connect_options,
};
use brigade_contracts::{
    Address, Aggregate, Body, Door, WorkerName,
    client::{Client, Send},
};
use brigade_tests::{Town, check, producer::item, town::ready, until, workload::Load};
use serde_json::{Value, json};

#[tokio::test]
async fn a_node_of_a_cluster_may_die_and_come_back_twice_under_load() {
    let mut town = Town::empty_on_a_cluster().await;
    town.run_all().await;
    let js = async_nats::jetstream::new(town.connect("operator").await);
    let views = js.get_stream("KV_views").await.unwrap();
    assert_eq!(views.cached_info().config.num_replicas, 3);
    let load = Load::start(&town, 4).await;
    for node in [0, 1] {
        load.until_done(load.done.load(Ordering::SeqCst) + 2).await;
        kill(&mut town, node).await;
        load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
        restart(&mut town, node).await;
    }
    load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
    load.stop().await;
    town.until_idle().await;
    check::invariants(&town).await;
}

async fn kill(town: &mut Town, node: usize) {
    match node {
        0 => town.nats.kill().await,
        node => town.others[node - 1].kill().await,
    }
}

async fn restart(town: &mut Town, node: usize) {
    let server = if node == 0 { &mut town.nats } else { &mut town.others[node - 1] };
    server.restart().await.expect("it comes back");
}

/// The node that nobody but the other nodes is connected to.
const ALONE: usize = 2;

/// A URL without the node that nobody connects to. What the servers tell of it is only tried when
/// a connection is lost.
fn to_others(url: &str) -> String {
    url.split(',').take(ALONE).collect::<Vec<_>>().join(",")
}

/// A connection of a user that knows these servers.
async fn connect(url: &str) -> async_nats::Client {
    let (options, servers) = connect_options(url).expect("a URL");
    options.connect(servers).await.expect("connected")
}

/// Makes a node the leader of the consumer that commands are taken from.
async fn leads_the_commands(town: &Town, node: usize) {
    let url = town.nats_url("superuser");
    let of_node = connect(url.split(',').nth(node).expect("a node")).await;
    let name = of_node.server_info().server_name;
    drop(of_node);
    let client = connect(&to_others(&url)).await;
    let ask = async |api: &str| {
        let subject = format!("$JS.API.CONSUMER.{api}.COMMANDS.command-handler");
        let answer = client.request(subject, "".into()).await.ok()?;
        serde_json::from_slice::<Value>(&answer.payload).ok()
    };
    until("the node to lead the consumer", || async {
        let info = ask("INFO").await?;
        let leader = info["cluster"]["leader"].as_str()?;
        if leader != name {
            let _elects = ask("LEADER.STEPDOWN").await;
            return None;
        }
        Some(())
    })
    .await;
}

/// Commands on the durable door: adds to carts, until it is told to stop. Returns how many.
async fn adds(client: Arc<Client>, lane: usize, stop: Arc<AtomicBool>, done: Done) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let id = format!("c{lane}-{sent}");
        let cart = Address::new("t1", Aggregate::Cart, &id).expect("tokens");
        let open = json!({"kind": "menu", "owner": format!("u-{id}"), "currency": "EUR"});
        let items = (0..9).map(|n| ("add_item", item(&format!("i{n}"), 100, 1)));
        for (verb, payload) in std::iter::once(("open", open)).chain(items) {
            let body = Body::decode(Aggregate::Cart, verb, payload.to_string().as_bytes());
            let send = Send::new(cart.clone(), body.expect("a payload")).through(Door::Durable);
            let outcome = client.send(&send).await.expect("an outcome");
            assert!(outcome.status < 300, "{verb}: {} {}", outcome.status, outcome.code);
            done.lock().expect("not poisoned").push(Instant::now());
            sent += 1;
        }
    }
    sent
}

/// When each command was decided.
type Done = Arc<Mutex<Vec<Instant>>>;

#[tokio::test]
async fn the_node_that_leads_the_commands_may_die_though_no_worker_is_connected_to_it() {
    let mut town = Town::empty_on_a_cluster().await;
    for worker in WorkerName::ALL {
        let servers = town.servers(worker);
        let servers = Servers { nats_url: to_others(&servers.nats_url), ..servers };
        let instance = Instance::start(worker, servers, town.metrics.clone(), town.fail.clone());
        ready(&instance).await;
        town.adopt(instance);
    }
    leads_the_commands(&town, ALONE).await;
    let client = Client::new(
        connect(&to_others(&town.nats_url("t1-producer"))).await,
        Duration::from_secs(60),
    );
    let (client, stop) = (Arc::new(client), Arc::new(AtomicBool::new(false)));
    let done = Done::default();
    let lane = |lane| tokio::spawn(adds(client.clone(), lane, stop.clone(), done.clone()));
    let lanes: Vec<_> = (0..4).map(lane).collect();
    let count = || done.lock().expect("not poisoned").len();
    let until_more = async |more: usize| {
        let enough = count() + more;
        until("more commands to be decided", || async { (count() >= enough).then_some(()) }).await;
    };
    until_more(100).await;
    leads_the_commands(&town, ALONE).await;
    kill(&mut town, ALONE).await;
    let killed = Instant::now();
    until_more(200).await;
    restart(&mut town, ALONE).await;
    until_more(100).await;
    stop.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for lane in lanes {
        sent += lane.await.expect("no refusal");
    }
    let done = done.lock().expect("not poisoned").clone();
    let gap = |from: &[Instant]| from.windows(2).map(|two| two[1] - two[0]).max();
    let (before, after): (Vec<_>, Vec<_>) = done.iter().partition(|at| **at < killed);
    println!("longest gap: {:?} before the kill, {:?} after it", gap(&before), gap(&after));
    println!("first one decided {:?} after the kill", after.first().map(|at| *at - killed));
    // As many events as commands: each was done once.
    let events = "select count(*) from brigade.events where aggregate = 'cart'";
    let events: i64 = sqlx::query_scalar(events).fetch_one(&town.sql).await.expect("sql");
    assert_eq!(usize::try_from(events).expect("fits"), sent);
    // Nothing is dead: that is one of the invariants.
    town.finish().await;
}
