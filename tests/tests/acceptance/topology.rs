//! The topology on a real server: `brigade provision` a second time, and after changes by hand.

use std::collections::{BTreeMap, BTreeSet};

use brigade::operations::provision::{self, ProvisionReport};
use brigade_contracts::{
    Address, Aggregate, Timestamp, Token, WorkerName, event::Envelope, shard_of, subject,
    topology::Topology,
};
use brigade_tests::{TestFleet, check};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::Row;

async fn provision(fleet: &TestFleet) -> ProvisionReport {
    provision::run(&fleet.nats_url("operator"), 1).await.expect("provisioned")
}

/// Changes a stream or consumer, as an operator does with the `nats` CLI.
async fn edit(fleet: &TestFleet, info: &str, update: &str, change: impl FnOnce(&mut Value)) {
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    let found: Value = js.request(info.to_owned(), &json!({})).await.expect("info");
    let mut config = found["config"].clone();
    change(&mut config);
    let request = match found["stream_name"].as_str() {
        Some(stream) => json!({"stream_name": stream, "config": config, "action": "update"}),
        None => config,
    };
    let answer: Value = js.request(update.to_owned(), &request).await.expect("an answer");
    assert!(answer["error"].is_null(), "{answer}");
}

async fn edit_events(fleet: &TestFleet, change: impl FnOnce(&mut Value)) {
    edit(fleet, "STREAM.INFO.EVENTS", "STREAM.UPDATE.EVENTS", change).await;
}

async fn edit_projector(fleet: &TestFleet, change: impl FnOnce(&mut Value)) {
    let [info, update] =
        ["INFO", "CREATE"].map(|verb| format!("CONSUMER.{verb}.EVENTS.payment-projector"));
    edit(fleet, &info, &update, change).await;
}

fn said(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn provisioning_again_finds_nothing_to_do() {
    // The fleet has provisioned once, and workers run on it.
    let fleet = TestFleet::start().await;
    let report = provision(&fleet).await;
    assert_eq!(said(&report.created), Vec::<String>::new());
    assert_eq!(said(&report.updated), Vec::<String>::new());
    assert_eq!(said(&report.drift), Vec::<String>::new());
    fleet.finish().await;
}

#[tokio::test]
async fn what_could_lose_messages_is_reported_and_left_alone() {
    let fleet = TestFleet::empty().await;
    edit_events(&fleet, |config| {
        config["max_age"] = json!(3_600_000_000_000_u64);
        config["max_msgs"] = json!(10);
    })
    .await;
    edit_projector(&fleet, |config| {
        config["max_ack_pending"] = json!(7);
        config["filter_subjects"].as_array_mut().unwrap().push(json!("evt.*.table.*.*"));
    })
    .await;
    for _ in 0..2 {
        let report = provision(&fleet).await;
        assert_eq!(said(&report.updated), Vec::<String>::new());
        let drift = said(&report.drift);
        assert_eq!(drift.len(), 4, "{drift:#?}");
        let events = "stream EVENTS: max_age is 1h, declared is 7d; \
                      to mend it: `nats stream edit EVENTS --max-age 7d`; \
                      or declare it so in nats/topology.toml";
        assert!(drift.iter().any(|line| line == events), "{drift:#?}");
        for start in [
            "stream EVENTS: max_msgs is 10, declared is the server's default; ",
            "consumer payment-projector of EVENTS: max_ack_pending is 7, declared is 4096; ",
            "consumer payment-projector of EVENTS: filter_subjects is [",
        ] {
            assert!(drift.iter().any(|line| line.starts_with(start)), "{start} {drift:#?}");
        }
    }
}

#[tokio::test]
async fn what_is_safe_is_mended_and_what_is_missing_is_made() {
    let fleet = TestFleet::empty().await;
    edit_events(&fleet, |config| {
        config["description"] = json!("mine");
        config["metadata"]["note"] = json!("x");
    })
    .await;
    edit_projector(&fleet, |config| {
        config["description"] = json!("mine");
        config["filter_subjects"].as_array_mut().unwrap().pop();
    })
    .await;
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    for gone in ["CONSUMER.DELETE.COMMANDS.command-handler", "STREAM.DELETE.DLQ"] {
        let _done: Value = js.request(gone.to_owned(), &json!({})).await.expect("deleted");
    }
    let report = provision(&fleet).await;
    assert_eq!(said(&report.created), ["stream DLQ", "consumer command-handler of COMMANDS"]);
    assert_eq!(said(&report.updated), ["stream EVENTS", "consumer payment-projector of EVENTS"]);
    assert_eq!(said(&report.drift), Vec::<String>::new());
    let again = provision(&fleet).await;
    assert!(again.created.is_empty() && again.updated.is_empty(), "{again:?}");
}

const OF_EVENTS: [WorkerName; 3] =
    [WorkerName::PaymentProjector, WorkerName::UserStateProjector, WorkerName::CacheVerifier];

/// Returns the filters with which a consumer of `EVENTS` is declared.
fn declared(worker: WorkerName) -> Vec<String> {
    let consumer = Topology::compiled_in().consumer("EVENTS", worker.as_str()).unwrap();
    serde_json::from_value(consumer["filter_subjects"].clone()).unwrap()
}

async fn consumer(fleet: &TestFleet, worker: WorkerName) -> Value {
    let js = async_nats::jetstream::new(fleet.connect("operator").await);
    js.request(format!("CONSUMER.INFO.EVENTS.{worker}"), &json!({})).await.unwrap()
}

/// Counts the events of the stream that each consumer has to take.
async fn matching(fleet: &TestFleet) -> Vec<usize> {
    let events = check::events_in_stream(fleet).await;
    let matching = |worker: &WorkerName| {
        let filters = declared(*worker);
        let kinds = events.iter().map(|(a, name, _)| subject::events(a.aggregate, name.as_str()));
        kinds.filter(|kind| filters.contains(kind)).count()
    };
    OF_EVENTS.iter().map(matching).collect()
}

/// Gives the consumers the filters that they had when ids stood in the subjects of events.
async fn back_to_the_former_filters(fleet: &TestFleet) {
    for worker in OF_EVENTS {
        let filters = declared(worker);
        let former = filters.iter().map(|filter| {
            let [aggregate, event] = [2, 3].map(|at| filter.split('.').nth(at).unwrap());
            format!("evt.*.{aggregate}.*.{event}")
        });
        let former: Vec<_> = former.collect();
        let info = format!("CONSUMER.INFO.EVENTS.{worker}");
        let update = format!("CONSUMER.CREATE.EVENTS.{worker}");
        edit(fleet, &info, &update, |config| config["filter_subjects"] = json!(former)).await;
    }
}

/// Relays everything in the outbox as a relay of that time did.
async fn relay_with_former_subjects(fleet: &TestFleet) {
    let rows = "select e.event_id::text as event_id, e.tenant, e.aggregate, e.id, e.type as name,
                       e.version, e.payload::text as payload, e.at, e.command_id
                from brigade.outbox o join brigade.events e on e.seq = o.event_seq order by o.seq";
    let js = async_nats::jetstream::new(fleet.connect("outbox-relay").await);
    for row in sqlx::query(rows).fetch_all(&fleet.sql).await.unwrap() {
        let text = |name: &str| row.get::<String, _>(name);
        let aggregate = Aggregate::parse(&text("aggregate")).unwrap();
        let envelope = Envelope {
            event_id: text("event_id"),
            republication: 0,
            address: Address::new(&text("tenant"), aggregate, &text("id")).unwrap(),
            name: Token::new(&text("name")).unwrap(),
            version: row.get::<i64, _>("version").cast_unsigned(),
            at: Timestamp::from(row.get::<time::OffsetDateTime, _>("at")),
            command_id: Token::new(&text("command_id")).unwrap(),
            actor: None,
            via: None,
            traceparent: None,
        };
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in envelope.headers() {
            headers.insert(name, value);
        }
        let subject = format!("evt.{}.{}", envelope.address, envelope.name);
        let sent = js.publish_with_headers(subject, headers, text("payload").into());
        sent.await.unwrap().await.unwrap();
    }
    sqlx::query("delete from brigade.outbox").execute(&fleet.sql).await.unwrap();
}

/// Servers of the time when ids stood in the subjects of events, with events that nobody has taken
/// yet, are upgraded while they are used: each consumer gets each event once.
#[tokio::test]
async fn s5_07_consumers_of_former_subjects_pass_over_nothing_and_get_nothing_twice() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet.run(WorkerName::Edge).await;
    back_to_the_former_filters(&fleet).await;
    let producer = fleet.producer().await;
    let register = async |user: &str| {
        let said = json!({"email": format!("{user}@example.org"), "profile_id": "p1",
                          "password": "correct-horse-battery-staple"});
        assert_eq!(producer.send(&format!("user.{user}.register"), said).await.status, 201);
    };
    // Taken, not yet taken, and published anew. Ids that are called like events and shards, too.
    producer.team_cart("opened", "ada", &["bob"]).await;
    producer.team_cart("07", "ada", &["bob"]).await;
    register("eve").await;
    relay_with_former_subjects(&fleet).await;
    for worker in OF_EVENTS {
        fleet.run(worker).await;
    }
    fleet.until_idle().await;
    for worker in OF_EVENTS {
        fleet.take(worker).stop().await;
    }
    let taken = matching(&fleet).await;
    producer.done("cart.opened.join", json!({"user": "cleo"})).await;
    producer.team_cart("member_joined", "ada", &["bob"]).await;
    register("mia").await;
    relay_with_former_subjects(&fleet).await;
    let report = provision(&fleet).await;
    let updated = OF_EVENTS.map(|worker| format!("consumer {worker} of EVENTS"));
    assert_eq!(said(&report.updated).into_iter().collect::<BTreeSet<_>>(), updated.into());
    assert_eq!(said(&report.drift), Vec::<String>::new());
    fleet.run(WorkerName::OutboxRelay).await;
    producer.done("cart.opened.join", json!({"user": "dan"})).await;
    producer.done("cart.07.join", json!({"user": "dan"})).await;
    producer.team_cart("registered", "ada", &["bob"]).await;
    register("zoe").await;
    fleet.until_relayed().await;
    let report = provision(&fleet).await;
    assert!(report.updated.is_empty() && report.drift.is_empty(), "{report:?}");
    for (worker, (taken, all)) in
        OF_EVENTS.into_iter().zip(taken.into_iter().zip(matching(&fleet).await))
    {
        let info = consumer(&fleet, worker).await;
        assert!(taken > 0 && all > taken, "{worker}");
        assert_eq!(info["num_pending"], json!(all - taken), "{worker}");
        assert_eq!(info["num_ack_pending"], 0, "{worker}");
    }
    for worker in OF_EVENTS {
        fleet.run(worker).await;
    }
    fleet.until_idle().await;
    let users: i64 = sqlx::query_scalar("select count(*) from brigade.user_activity")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(users, 3);
    fleet.finish().await;
}

#[tokio::test]
async fn s5_07_former_filters_go_when_the_stream_holds_no_former_subject() {
    let fleet = TestFleet::empty().await;
    back_to_the_former_filters(&fleet).await;
    assert_eq!(provision(&fleet).await.updated.len(), 3);
    let js = async_nats::jetstream::new(fleet.connect("outbox-relay").await);
    for subject in ["evt.t1.cart.opened.03", "evt.t1.cart.c1.opened", "evt.t1.cart.item_added.03"] {
        js.publish(subject, "{}".into()).await.unwrap().await.unwrap();
    }
    let report = provision(&fleet).await;
    // Others have none of theirs there.
    assert_eq!(report.updated.len(), 2, "{report:?}");
    let events = async_nats::jetstream::new(fleet.connect("operator").await);
    let events = events.get_stream("EVENTS").await.unwrap();
    events.purge().filter("evt.t1.cart.c1.opened").await.unwrap();
    let report = provision(&fleet).await;
    assert_eq!(said(&report.updated), ["consumer payment-projector of EVENTS"]);
    assert_eq!(said(&report.drift), Vec::<String>::new());
    let projector = consumer(&fleet, WorkerName::PaymentProjector).await;
    assert_eq!(
        projector["config"]["filter_subjects"],
        json!(declared(WorkerName::PaymentProjector))
    );
    assert_eq!(projector["num_pending"], 1);
    let report = provision(&fleet).await;
    assert!(report.updated.is_empty() && report.drift.is_empty(), "{report:?}");
}

/// nats-server keeps memory for each distinct subject.
#[tokio::test]
async fn s5_07_subjects_of_events_do_not_grow_with_the_aggregates() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let subjects = async || {
        fleet.until_relayed().await;
        let js = async_nats::jetstream::new(fleet.connect("operator").await);
        let events = js.get_stream("EVENTS").await.unwrap();
        events.cached_info().state.subjects_count
    };
    let open = |n: usize| {
        let producer = &producer;
        async move { producer.team_cart(&format!("c{n}"), &format!("ada{n}"), &["bob"]).await }
    };
    stream::iter(0..200).map(open).buffer_unordered(32).collect::<()>().await;
    // Two events in all shards.
    assert_eq!(subjects().await, 32);
    stream::iter(200..1200).map(open).buffer_unordered(32).collect::<()>().await;
    assert_eq!(subjects().await, 32);
    // Who takes a whole shard gets all of an aggregate.
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in check::raw_events(&fleet).await {
        let id = event.headers.as_ref().unwrap().get("ce-subject").unwrap().to_string();
        let shard = event.subject.rsplit('.').next().unwrap().to_owned();
        shards.entry(id).or_default().insert(shard);
    }
    assert_eq!(shards.len(), 1200);
    for (id, shards) in shards {
        let cart = Address::new("t1", Aggregate::Cart, &id).unwrap();
        assert_eq!(shards, BTreeSet::from([format!("{:02}", shard_of(&cart))]));
    }
    fleet.finish().await;
}
