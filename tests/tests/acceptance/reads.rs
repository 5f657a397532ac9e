//! S0: reads after a payment are never stale.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use brigade_contracts::{
    Address, Aggregate, Body, WorkerName,
    cart::{self, Verb},
    client::{Client, Send},
};
use brigade_tests::{Producer, Reply, TestFleet, check, producer::item, until};
use futures::StreamExt;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

#[tokio::test]
async fn s0_03_the_etag_is_the_aggregates_version_from_sql() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.send("cart.c1.add_item", item("i1", 1250, 2)).await;
    let committed = producer.send("cart.c1.commit_cod", json!({"user": "bob"})).await.body();
    let view = producer.view("cart.c1", None).await;
    let in_sql: i64 = sqlx::query_scalar("select version from brigade.carts where id = 'c1'")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!((view.status, view.etag.as_deref()), (200, Some("\"4\"")));
    assert_eq!(view.body()["version"], in_sql);
    assert_eq!(committed["etag"], "\"4\"");
    // The last change touched payments only: the ETag rises although the core stays.
    assert_eq!(view.body()["core"]["version"], 3);
    assert_eq!(view.body()["payments"]["version"], 4);
    assert_eq!(view.body()["due"], 2500);
    // The projection has seen three of the four events, and counts nothing by itself.
    fleet.until_idle().await;
    assert_eq!(producer.view("cart.c1", Some("\"4\"")).await.status, 304);
    assert_eq!(producer.view("cart.c1", Some("\"3\"")).await.status, 200);
    fleet.finish().await;
}

/// The reported sequence, while everything between database and client is stopped.
async fn poll_right_after_the_answer(stopped: &[&str]) {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let before = producer.view("cart.c1", None).await;
    let _stopped: Vec<_> = stopped.iter().map(|point| fleet.fail.arm(point)).collect();
    let answer = producer.send("cart.c1.commit_cod", json!({"user": "bob"})).await;
    let poll = producer.view("cart.c1", before.etag.as_deref()).await;
    assert_eq!(poll.status, 200, "never 304");
    assert_eq!(poll.body()["version"], answer.body()["version"]);
    assert_eq!(poll.body()["payments"]["members"][1]["committed"], "cod");
    assert_eq!(producer.view("cart.c1", poll.etag.as_deref()).await.status, 304);
    for point in stopped {
        fleet.fail.disarm(point);
    }
    assert_eq!(fleet.edge_metrics().stale_304.get(), 0);
    fleet.finish().await;
}

#[tokio::test]
async fn s0_04_poll_right_after_cod_commit_is_never_304() {
    poll_right_after_the_answer(&[]).await;
}

#[tokio::test]
async fn s0_04_poll_with_the_relay_paused() {
    poll_right_after_the_answer(&["outbox-relay.before_publish"]).await;
}

#[tokio::test]
async fn s0_04_poll_with_the_projector_paused() {
    poll_right_after_the_answer(&["payment-projector.before_projection"]).await;
}

/// A step between two polls.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize),
    AddItem(usize),
    Commit(usize),
    Poll(usize),
    PauseRelay,
    PauseProjector,
    GoOn,
    KillRelay,
    KillProjector,
    KillEdge,
    KillHandlerBetweenCommitAndShow(usize),
    LoseKeys(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let cart = 0..3_usize;
    prop_oneof![
        3 => cart.clone().prop_map(Step::Join),
        3 => cart.clone().prop_map(Step::AddItem),
        4 => cart.clone().prop_map(Step::Commit),
        12 => cart.clone().prop_map(Step::Poll),
        1 => Just(Step::PauseRelay),
        1 => Just(Step::PauseProjector),
        2 => Just(Step::GoOn),
        1 => Just(Step::KillRelay),
        1 => Just(Step::KillProjector),
        1 => Just(Step::KillEdge),
        1 => cart.clone().prop_map(Step::KillHandlerBetweenCommitAndShow),
        1 => cart.prop_map(Step::LoseKeys),
    ]
}

/// A client that polls some carts, and what it must get at least.
#[derive(Default)]
struct Phone {
    etags: HashMap<usize, String>,
    /// The version of the last answer by cart, and the members who had committed by then.
    answered: HashMap<usize, (u64, HashSet<String>)>,
    sent: usize,
}

impl Phone {
    async fn send(&mut self, producer: &Producer, cart: usize, verb: &str, payload: Value) {
        self.sent += 1;
        let what = format!("cart.c{cart}.{verb}");
        let reply = producer.send_until_decided(&format!("k{}", self.sent), &what, payload).await;
        self.note(cart, &reply);
    }

    fn note(&mut self, cart: usize, reply: &Reply) {
        if reply.status < 300 {
            let (version, committed) = self.answered.entry(cart).or_default();
            *version = reply.body()["version"].as_u64().unwrap();
            let members = reply.body()["data"]["payments"]["members"].clone();
            for member in
                members.as_array().into_iter().flatten().filter(|m| m["committed"] == "cod")
            {
                committed.insert(member["user"].as_str().unwrap().to_owned());
            }
        }
    }

    async fn poll(&mut self, producer: &Producer, cart: usize) {
        let etag = self.etags.get(&cart).cloned();
        let reply = until("an answer to the poll", || async {
            let subject = format!("q.t1.view.cart.c{cart}");
            let headers: Vec<_> = etag.iter().map(|tag| ("If-None-Match", tag.as_str())).collect();
            let reply = producer.request(&subject, &headers, b"").await?;
            (reply.status != 503).then_some(reply)
        })
        .await;
        let (version, committed) = self.answered.get(&cart).cloned().unwrap_or_default();
        match reply.status {
            304 => assert_eq!(etag, Some(format!("\"{version}\"")), "a stale 304"),
            200 => {
                assert!(reply.body()["version"].as_u64().unwrap() >= version, "a stale body");
                for user in &committed {
                    let members = reply.body()["payments"]["members"].clone();
                    let shown = members.as_array().unwrap().iter().find(|m| m["user"] == **user);
                    assert_eq!(shown.unwrap()["committed"], "cod", "{user} has committed");
                }
                self.etags.insert(cart, reply.etag.unwrap());
            }
            status => panic!("{status}: {}", reply.body()),
        }
    }
}

#[tokio::test]
async fn s0_04_any_interleaving_of_commits_pauses_kills_and_polls_shows_nothing_stale() {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let steps = prop::collection::vec(any_step(), 40);
    for _ in 0..5 {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        interleave(&steps).await;
    }
}

async fn interleave(steps: &[Step]) {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let mut phone = Phone::default();
    for cart in 0..3 {
        let open = json!({"kind": "team", "owner": "m0", "currency": "EUR"});
        phone.send(&producer, cart, "open", open).await;
    }
    for (at, step) in steps.iter().enumerate() {
        match *step {
            Step::Join(cart) => {
                phone.send(&producer, cart, "join", json!({"user": format!("m{at}")})).await;
            }
            Step::AddItem(cart) => {
                phone.send(&producer, cart, "add_item", item(&format!("i{at}"), 100, 1)).await;
            }
            Step::Commit(cart) => {
                let user = format!("m{}", if at % 2 == 0 { 0 } else { at / 2 });
                phone.send(&producer, cart, "commit_cod", json!({"user": user})).await;
            }
            Step::Poll(cart) => phone.poll(&producer, cart).await,
            Step::PauseRelay => drop(fleet.fail.arm("outbox-relay.before_publish")),
            Step::PauseProjector => drop(fleet.fail.arm("payment-projector.before_projection")),
            Step::GoOn => go_on(&fleet),
            Step::KillRelay => restart(&mut fleet, WorkerName::OutboxRelay).await,
            Step::KillProjector => restart(&mut fleet, WorkerName::PaymentProjector).await,
            Step::KillEdge => restart(&mut fleet, WorkerName::Edge).await,
            Step::KillHandlerBetweenCommitAndShow(cart) => {
                let armed = fleet.fail.arm("command-handler.after_commit");
                let (sender, user) = (producer.clone(), json!({"user": format!("x{at}")}));
                let what = format!("cart.c{cart}.join");
                let sent = tokio::spawn(async move {
                    sender.send_until_decided(&format!("x{at}"), &what, user).await
                });
                armed.reached().await;
                fleet.take(WorkerName::CommandHandler).kill().await;
                fleet.fail.disarm("command-handler.after_commit");
                fleet.run(WorkerName::CommandHandler).await;
                let reply = sent.await.unwrap();
                assert_eq!(reply.status, 200);
                phone.note(cart, &reply);
            }
            Step::LoseKeys(cart) => lose_keys(&fleet, cart).await,
        }
    }
    go_on(&fleet);
    for cart in 0..3 {
        phone.poll(&producer, cart).await;
    }
    assert_eq!(fleet.edge_metrics().stale_304.get(), 0);
    // Keys that were lost are the verifier's to bring back: here it is only said that no answer
    // needed them. So the fleet is not asked whether KV equals SQL.
    fleet.until_relayed().await;
    check::events_are_in_the_stream_in_order(&fleet).await;
}

fn go_on(fleet: &TestFleet) {
    fleet.fail.disarm("outbox-relay.before_publish");
    fleet.fail.disarm("payment-projector.before_projection");
}

async fn restart(fleet: &mut TestFleet, worker: WorkerName) {
    fleet.take(worker).kill().await;
    fleet.run(worker).await;
}

/// Purges the view and the versions of a cart.
async fn lose_keys(fleet: &TestFleet, cart: usize) {
    let operator = fleet.connect("operator").await;
    for bucket in ["versions", "views"] {
        let filter = format!("$KV.{bucket}.t1.cart.c{cart}.>");
        let filter =
            if bucket == "versions" { filter.trim_end_matches(".>").to_owned() } else { filter };
        let purge = json!({"filter": filter}).to_string();
        let subject = format!("$JS.API.STREAM.PURGE.KV_{bucket}");
        operator.request(subject, purge.into()).await.unwrap();
    }
}

#[tokio::test]
async fn s0_05_waits_for_the_version_from_the_answer() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob", "cid"]).await;
    // Two members commit at once: each waits for the version of its own answer.
    let commit = |user: &'static str| {
        let producer = producer.clone();
        async move {
            let answer = producer.send("cart.c1.commit_cod", json!({"user": user})).await;
            let version = answer.body()["version"].to_string();
            let headers = [("Min-Version", version.as_str()), ("Wait-Ms", "5000")];
            let view = producer.request("q.t1.view.cart.c1", &headers, b"").await.unwrap();
            let members = view.body()["payments"]["members"].clone();
            let own =
                members.as_array().unwrap().iter().find(|m| m["user"] == user).unwrap().clone();
            (view.status, own["committed"].clone())
        }
    };
    let (bob, cid) = tokio::join!(commit("bob"), commit("cid"));
    assert_eq!((bob, cid), ((200, json!("cod")), (200, json!("cod"))));
    // One that is not there yet is waited for, and answered when it comes.
    let waiting = {
        let producer = producer.clone();
        tokio::spawn(async move {
            let headers = [("Min-Version", "6"), ("Wait-Ms", "30000")];
            producer.request("q.t1.view.cart.c1", &headers, b"").await.unwrap()
        })
    };
    producer.send("cart.c1.add_item", item("i1", 100, 1)).await;
    assert_eq!(waiting.await.unwrap().body()["version"], 6);
    // One that does not come is 504, with the version that is there.
    let headers = [("Min-Version", "99"), ("Wait-Ms", "20")];
    let late = producer.request("q.t1.view.cart.c1", &headers, b"").await.unwrap();
    assert_eq!((late.status, late.body()["version"].as_u64()), (504, Some(6)));
    fleet.finish().await;
}

#[tokio::test]
async fn s0_06_a_fetch_on_a_push_is_fresh() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let watcher = Producer::new(fleet.connect("t1-watcher").await, "t1");
    let mut pushes = watcher.client.subscribe("live.views.t1.>").await.unwrap();
    watcher.client.flush().await.unwrap();
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.send("cart.c1.commit_cod", json!({"user": "bob"})).await;
    let mut last: HashMap<String, u64> = HashMap::new();
    while last.get("payments") != Some(&3) {
        let push = pushes.next().await.unwrap();
        let part = push.subject.rsplit('.').next().unwrap().to_owned();
        let pushed: Value = serde_json::from_slice(&push.payload).unwrap();
        let version = pushed["version"].as_u64().unwrap();
        let view = watcher.view("cart.c1", None).await.body();
        assert!(view[part.as_str()]["version"].as_u64().unwrap() >= version, "{part} {version}");
        let before = last.insert(part, version);
        assert!(before.is_none_or(|before| before <= version), "a push went back");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s0_07_a_304_below_the_known_version_is_no_answer() {
    let fleet = TestFleet::start().await;
    let client = Client::new(fleet.connect("t1-producer").await, Duration::from_secs(20));
    let cart = Address::new("t1", Aggregate::Cart, "c1").unwrap();
    let send = async |verb| client.send(&Send::new(cart.clone(), Body::Cart(verb))).await.unwrap();
    let open = serde_json::from_value(json!({"kind": "team", "owner": "ada", "currency": "EUR"}));
    assert_eq!(send(Verb::Open(open.unwrap())).await.status, 201);
    assert_eq!(client.view(&cart).await.unwrap().version.version, 1);
    assert_eq!(client.view(&cart).await.unwrap().version.version, 1, "304, from what it has");
    let _paused = fleet.fail.arm("payment-projector.before_projection");
    let ada = cart::Member { user: "ada".parse().unwrap() };
    let outcome = send(Verb::CommitCod(ada)).await;
    assert_eq!(outcome.version, Some(2));
    let view = client.view(&cart).await.unwrap();
    assert_eq!(view.version.version, 2);
    assert_eq!(view.body["payments"]["members"][0]["committed"], "cod");
    // A push told it of a version that nobody has yet: it waits instead of showing the old one.
    client.heard(&cart, 3);
    let (view, _) = tokio::join!(client.view(&cart), async {
        let bob = cart::Join { user: "bob".parse().unwrap(), secret: None };
        send(Verb::Join(bob)).await
    });
    assert_eq!(view.unwrap().version.version, 3);
    fleet.fail.disarm("payment-projector.before_projection");
    fleet.finish().await;
}

#[tokio::test]
async fn s0_08_duplicates_and_replays_in_any_order_leave_the_same_view() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob", "cid", "dan"]).await;
    for user in ["bob", "ada", "dan"] {
        producer.send("cart.c1.commit_cod", json!({"user": user})).await;
    }
    fleet.until_idle().await;
    let before = check::kv(&fleet, "views", "t1.cart.c1.payments").await.unwrap();
    let watcher = fleet.connect("t1-watcher").await;
    let mut pushes = watcher.subscribe("live.views.t1.cart.c1.payments").await.unwrap();
    watcher.flush().await.unwrap();
    // Everything once more, backwards, then in an order of its own; as the relay might, had it
    // been told so.
    let mut events = check::raw_events(&fleet).await;
    let relay = async_nats::jetstream::new(fleet.connect("outbox-relay").await);
    for round in 0..2 {
        events.reverse();
        if round == 1 {
            events.sort_by_key(|event| event.payload.len() % 3);
        }
        for event in &events {
            let mut headers = event.headers.clone().unwrap();
            headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string());
            let sent =
                relay.publish_with_headers(event.subject.clone(), headers, event.payload.clone());
            sent.await.unwrap().await.unwrap();
        }
    }
    fleet.until_idle().await;
    assert_eq!(check::kv(&fleet, "views", "t1.cart.c1.payments").await.unwrap(), before);
    let pushed = futures::FutureExt::now_or_never(pushes.next());
    assert!(pushed.is_none(), "nothing was written again");
}

#[tokio::test]
async fn s0_10_staleness_is_measured() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    for _ in 0..3 {
        producer.view("cart.c1", Some("\"2\"")).await;
    }
    fleet.until_idle().await;
    let text = fleet.metrics.render();
    for line in [
        "brigade_stale_304_total 0",
        "brigade_commit_to_visible_seconds_count{part=\"core\"} 2",
        "brigade_queries_total{query=\"view\",status=\"304\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let payments = text
        .lines()
        .find(|l| l.starts_with("brigade_commit_to_visible_seconds_count{part=\"payments\"}"));
    assert!(payments.is_some_and(|line| !line.ends_with(" 0")), "{payments:?}");
    fleet.take(WorkerName::Edge).stop().await;
    fleet.finish().await;
}
