//! `brigade rebuild`: buckets are written anew from SQL while the fleet runs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::jetstream;
use brigade_contracts::{EraVersion, WorkerName};
use brigade_tests::{
    Producer, Reply, SUPERUSER, TestFleet, check,
    process::{printed, refused, started},
    producer::{item, placed},
    until,
};
use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};

use crate::{
    eras::{Backup, until_reset, view},
    healing::until_healed,
};

/// Returns the sequence of each key of a tenant: another one means that it was written again.
async fn sequences(fleet: &TestFleet, tenant: &str) -> HashMap<String, u64> {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut found = HashMap::new();
    for bucket in ["versions", "views", "active_orders", "cart_locks", "user_state"] {
        let stream = js.get_stream(format!("KV_{bucket}")).await.expect("the bucket");
        let mut subjects =
            stream.info_with_subjects(format!("$KV.{bucket}.{tenant}.>")).await.expect("subjects");
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.expect("a subject");
            let last = stream.get_last_raw_message_by_subject(&subject).await.expect("a key");
            found.insert(subject, last.sequence);
        }
    }
    found
}

/// A cart with a payment on it, an order and a user.
async fn some_of_each(producer: &Producer) {
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.done("cart.c1.add_item", item("i1", 100, 1)).await;
    producer.initiate("p1", "c1").await;
    producer.done("order.o1.place", placed(&[("Soup", 500, 1)])).await;
    let user = json!({"email": "ada@example.org", "profile_id": "p1", "password": "correct horse"});
    producer.done("user.ada.register", user).await;
}

#[tokio::test]
async fn a_rebuild_of_a_tenant_touches_no_other() {
    let fleet = TestFleet::start().await;
    let t2 = Producer::new(fleet.connect("t2-producer").await, "t2");
    some_of_each(&fleet.producer().await).await;
    some_of_each(&t2).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    // A version that SQL never had, and a key of nothing that there is.
    let forger = jetstream::new(fleet.connect(SUPERUSER).await);
    for (key, value) in [
        ("views.t1.cart.c1.core", json!({ "version": 99 })),
        ("views.t1.cart.ghost.core", json!({ "version": 1 })),
    ] {
        let subject = format!("$KV.{key}");
        forger.publish(subject, value.to_string().into()).await.expect("sent").await.expect("put");
    }
    let (before, others) = (sequences(&fleet, "t1").await, sequences(&fleet, "t2").await);
    assert_eq!((before.len(), others.len()), (16, 15), "{before:#?}");

    let said = printed(&fleet, "rebuild --tenant t1").await;
    // A cart, a payment, an order, the lock of ada and ada; the parts of cart, order and ada.
    assert!(said.contains("written anew: 5 aggregates, 3 of their parts by events"), "{said}");
    fleet.until_idle().await;
    assert_eq!(sequences(&fleet, "t2").await, others);
    let after = sequences(&fleet, "t1").await;
    assert_eq!(after.len(), 15, "the ghost is gone");
    assert!(after.iter().all(|(key, sequence)| before[key] < *sequence), "{after:#?}");
    assert_eq!(check::kv(&fleet, "views", "t1.cart.ghost.core").await, None);

    // One bucket, and no other.
    let said = printed(&fleet, "rebuild --tenant t1 --bucket cart_locks").await;
    assert!(said.contains("written anew: 1 aggregates, 0 of their parts"), "{said}");
    let changed = |all: HashMap<String, u64>| {
        let changed = all.into_iter().filter(|(key, at)| after[key] != *at).map(|(key, _)| key);
        changed.collect::<Vec<_>>()
    };
    assert_eq!(changed(sequences(&fleet, "t1").await), ["$KV.cart_locks.t1.ada"]);
    // That was asked for, and is no loss.
    let counted = fleet.metrics.render();
    let mut heals = counted.lines().filter(|line| line.starts_with("brigade_heals_total"));
    assert!(heals.all(|line| line.ends_with(" 0")), "{counted}");
    fleet.finish().await;
}

#[tokio::test]
async fn a_rebuild_goes_on_without_who_asked_for_it_and_is_joined_by_the_next() {
    let mut fleet = TestFleet::start().await;
    some_of_each(&fleet.producer().await).await;
    fleet.until_idle().await;
    fleet.stop_one(WorkerName::CacheVerifier).await;
    let mut interrupted = started(&fleet, "rebuild --bucket views --bucket versions");
    let sql = fleet.sql.clone();
    let rebuilds = async || -> i64 {
        let count = sqlx::query_scalar("select count(*) from brigade.heals");
        count.fetch_one(&sql).await.expect("sql")
    };
    until("the rebuild to be stored", || async { (rebuilds().await == 1).then_some(()) }).await;
    interrupted.kill().await.expect("killed");
    let again = started(&fleet, "rebuild --bucket versions --bucket views");
    let why = refused(&fleet, "rebuild --tenant nobody").await;
    assert!(why.contains("there is no tenant nobody"), "{why}");
    fleet.run(WorkerName::CacheVerifier).await;
    let again = again.wait_with_output().await.expect("it ends");
    assert!(again.status.success(), "{again:?}");
    let lines = String::from_utf8(again.stderr).expect("UTF-8");
    assert!(lines.contains("] 100 %") && !lines.contains('\r'), "{lines}");
    assert_eq!(rebuilds().await, 1);
    fleet.finish().await;
}

/// Commands of clients who do not care what becomes of them.
struct Crowd {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    async fn start(fleet: &TestFleet) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for customer in 0..6 {
            let producer = fleet.producer().await;
            let (stop, sent) = (stop.clone(), sent.clone());
            tasks.push(tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    dinner(&producer, &format!("{customer}-{n}")).await;
                    sent.fetch_add(1, SeqCst);
                }
            }));
        }
        Self { stop, sent, tasks }
    }

    async fn until_more(&self, dinners: u64) {
        let until_then = self.sent.load(SeqCst) + dinners;
        until("more dinners", || async { (self.sent.load(SeqCst) >= until_then).then_some(()) })
            .await;
    }

    async fn stop(self) {
        self.stop.store(true, SeqCst);
        join_all(self.tasks).await.into_iter().for_each(|ended| ended.expect("it ends"));
    }
}

async fn dinner(producer: &Producer, name: &str) {
    let open = json!({"kind": "team", "owner": format!("owner-{name}"), "currency": "EUR"});
    let pay = json!({ "target": { "cart": name }, "method": "card" });
    let steps: [(String, Value); 5] = [
        (format!("cart.{name}.open"), open),
        (format!("cart.{name}.add_item"), item("i1", 100, 2)),
        (format!("order.{name}.place"), placed(&[("Soup", 500, 1)])),
        (format!("order.{name}.accept"), json!({})),
        (format!("payment.{name}.initiate"), pay),
    ];
    for (what, payload) in steps {
        let (id, subject) = (what.replace('.', "-"), format!("req.t1.{what}"));
        let headers = [("Command-Id", id.as_str())];
        let (within, payload) = (Duration::from_secs(2), payload.to_string());
        let _decided =
            producer.request_within(within, &subject, &headers, payload.as_bytes()).await;
    }
}

/// Sends a command until it is decided, however long an answer takes on a machine that is busy.
async fn decided(producer: &Producer, id: &str, what: &str, payload: Value) -> Reply {
    let (subject, payload) = (format!("req.t1.{what}"), payload.to_string());
    until("a decision", || async {
        let headers = [("Command-Id", id)];
        let reply = producer.request(&subject, &headers, payload.as_bytes()).await?;
        (reply.status != 503).then_some(reply)
    })
    .await
}

/// What is pushed to screens, the last of each key.
async fn pushes(fleet: &TestFleet) -> Arc<Mutex<HashMap<String, Value>>> {
    let last = Arc::new(Mutex::new(HashMap::new()));
    let client = fleet.connect("t1-watcher").await;
    let mut pushed = client.subscribe("live.views.t1.>").await.expect("subscribed");
    client.flush().await.expect("flushed");
    let kept = last.clone();
    tokio::spawn(async move {
        while let Some(message) = pushed.next().await {
            let value = serde_json::from_slice(&message.payload).unwrap_or_default();
            kept.lock().expect("not poisoned").insert(message.subject.to_string(), value);
        }
    });
    last
}

#[tokio::test]
async fn s6_02_a_restore_under_load_and_a_rebuild_end_with_kv_as_sql_says() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    producer.team_cart("c1", "ada", &["bob"]).await;
    let crowd = Crowd::start(&fleet).await;
    crowd.until_more(12).await;
    let backup = Backup::take(&mut fleet).await;
    let pushed = pushes(&fleet).await;
    let lost = decided(&producer, "k1", "cart.c1.join", json!({"user": "eve"})).await;
    assert_eq!(lost.status, 200, "{}", lost.body());
    let known = view(&producer, "cart.c1", &[]).await.etag.expect("a tag");
    crowd.until_more(12).await;
    backup.restore(&mut fleet).await;
    crowd.until_more(6).await;
    until_reset(&fleet).await;
    // As an operator who does not rely on that.
    let said = printed(&fleet, "rebuild").await;
    assert!(said.contains("written anew: "), "{said}");
    crowd.until_more(6).await;
    let joined = decided(&producer, "k2", "cart.c1.join", json!({"user": "zoe"})).await;
    assert_eq!(joined.status, 200, "{}", joined.body());
    crowd.stop().await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    check::kv_equals_sql(&fleet).await;

    // Every screen: by query, with what was known before, by stream, by push.
    let shown = view(&producer, "cart.c1", &[("If-None-Match", &known)]).await;
    assert_eq!(shown.status, 200);
    let members = shown.body()["core"]["members"].to_string();
    assert!(members.contains("zoe") && !members.contains("eve"), "{members}");
    let etag = shown.etag.clone().expect("a tag");
    assert!(!EraVersion::of_etag(&etag).expect("a version").era.is_first());
    assert_eq!(view(&producer, "cart.c1", &[("If-None-Match", &etag)]).await.status, 304);
    let mut screen = http.stream("cart/c1/stream", None).await.expect("a stream");
    let snapshot = screen.next().await.expect("an event");
    assert_eq!(snapshot.data["core"], shown.body()["core"], "{}", snapshot.kind);
    let stored: Vec<(String, i64)> =
        sqlx::query_as("select id, version from brigade.carts where tenant = 't1'")
            .fetch_all(&fleet.sql)
            .await
            .expect("sql");
    assert!(stored.len() > 20, "{}", stored.len());
    for (id, version) in stored {
        let shown = view(&producer, &format!("cart.{id}"), &[]).await;
        let version_shown = EraVersion::of_etag(&shown.etag.expect("a tag")).expect("a version");
        assert_eq!(version_shown.version, version.unsigned_abs(), "{id}");
        let key = format!("t1.cart.{id}.core");
        let in_kv = check::kv(&fleet, "views", &key).await.expect("a value");
        until("its push", || async {
            let pushed = pushed.lock().expect("not poisoned");
            (pushed.get(&format!("live.views.{key}")) == Some(&in_kv)).then_some(())
        })
        .await;
    }
}
