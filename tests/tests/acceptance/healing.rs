//! Streams and buckets that JetStream loses are rebuilt from SQL, under load, without an operator.

pub mod at_scale;
mod backlog;

use brigade::workers::cache_verifier::VerifierMetrics;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use brigade::{operations::provision, runtime::ConsumeMetrics};
use brigade_contracts::{WorkerName, topology::Topology};
use brigade_tests::{
    Producer, TestFleet, check,
    locks::Lock,
    producer::{item, placed},
    until,
    workload::Load,
};
use serde_json::json;

/// A loss of a stream's messages.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Purged(&'static str),
    Deleted(&'static str),
    /// All streams and buckets at once.
    AllDeleted,
    ServerKilled,
}

impl Fault {
    async fn strike(self, fleet: &mut TestFleet) {
        let js = jetstream::new(fleet.connect("operator").await);
        match self {
            Self::Purged(stream) => {
                let purged = js.get_stream(stream).await.unwrap().purge().await.unwrap();
                assert!(purged.purged > 0, "{stream} held nothing");
            }
            Self::Deleted(stream) => drop(js.delete_stream(stream).await.unwrap()),
            Self::AllDeleted => {
                for stream in
                    ["EVENTS", "KV_versions", "KV_views", "KV_active_orders", "KV_user_state"]
                {
                    js.delete_stream(stream).await.unwrap();
                }
            }
            Self::ServerKilled => {
                fleet.nats.kill().await;
                fleet.nats.restart().await.unwrap();
            }
        }
    }
}

/// Waits until every stream was found intact after now, or what it lost is healed.
pub async fn until_healed(fleet: &TestFleet) {
    let now: time::OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&fleet.sql).await.unwrap();
    let declared = i64::try_from(Topology::compiled_in().streams.len()).unwrap();
    until("checkpoints of all streams, and no heal", || async {
        let taken: i64 = sqlx::query_scalar(
            "select count(distinct stream) from brigade.stream_checkpoints
             where taken_at > $1
               and not exists (select from brigade.heals where finished_at is null)",
        )
        .bind(now)
        .fetch_one(&fleet.sql)
        .await
        .ok()?;
        (taken == declared).then_some(())
    })
    .await;
}

/// One fault after the other under load through both doors. The load itself checks that no answer
/// is stale and nothing refused.
async fn under_load(faults: &[Fault]) {
    let mut fleet = TestFleet::start().await;
    // Any number of each may run.
    fleet.run(WorkerName::CacheVerifier).await;
    for (round, fault) in faults.iter().enumerate() {
        let load = Load::named(&fleet, &format!("{round}x"), 10).await;
        load.until_done(4).await;
        until_healed(&fleet).await;
        fault.strike(&mut fleet).await;
        let struck = Instant::now();
        load.until_done(load.done.load(Ordering::SeqCst) + 6).await;
        load.stop().await;
        until_healed(&fleet).await;
        fleet.until_idle().await;
        println!("{fault:?}: complete after {:.1} s", struck.elapsed().as_secs_f64());
        check::kv_equals_sql(&fleet).await;
        check::kv_equals_sql_of_users(&fleet).await;
        check::events_are_in_the_stream_at_least_once(&fleet).await;
        assert_eq!(check::dead_letters(&fleet).await.len(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn s0_09_kv_may_be_deleted_at_any_time_and_is_rebuilt_from_sql() {
    let buckets = ["KV_versions", "KV_views", "KV_active_orders"];
    let faults: Vec<_> =
        buckets.into_iter().flat_map(|b| [Fault::Purged(b), Fault::Deleted(b)]).collect();
    under_load(&faults).await;
}

#[tokio::test]
async fn events_may_be_deleted_at_any_time_and_are_published_again() {
    under_load(&[Fault::Purged("EVENTS"), Fault::Deleted("EVENTS")]).await;
}

#[tokio::test]
async fn all_that_is_no_truth_may_be_deleted_at_once() {
    under_load(&[Fault::AllDeleted]).await;
}

#[tokio::test]
async fn what_a_killed_server_loses_is_made_again() {
    under_load(&[Fault::ServerKilled, Fault::ServerKilled]).await;
}

fn heals(fleet: &TestFleet, stream: &str) -> u64 {
    let heals = |loss| {
        fleet.metrics.group::<VerifierMetrics>().heals.with_label_values(&[stream, loss]).get()
    };
    ["missing", "made_again", "purged", "holed", "behind"].into_iter().map(heals).sum()
}

#[tokio::test]
async fn a_bucket_whose_keys_were_all_overwritten_was_not_purged() {
    const BUCKETS: [&str; 3] = ["KV_versions", "KV_cart_locks", "KV_attempts"];
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.cart_of("c1", "menu", "ada", &[("i1", 100, 1)]).await;
    for _ in 0..3 {
        until_healed(&fleet).await;
        // The only cart, and its lock, twice each.
        let token = producer.lock("c1").await["token"].clone();
        let unlock = json!({"token": token, "reason": "changed my mind"});
        producer.done("cart.c1.unlock", unlock).await;
        // The record of the tries of a message that fails alone is overwritten.
        let handler = jetstream::new(fleet.connect("command-handler").await);
        let attempts = "$KV.attempts.command-handler.COMMANDS.1";
        handler.publish(attempts, "1".into()).await.unwrap().await.unwrap();
    }
    until_healed(&fleet).await;
    until_healed(&fleet).await;
    assert_eq!(BUCKETS.map(|bucket| heals(&fleet, bucket)), [0, 0, 0]);
    // With as many keys afterwards as before, which no number of messages tells.
    let js = jetstream::new(fleet.connect("operator").await);
    js.get_stream("KV_versions").await.unwrap().purge().await.unwrap();
    producer.done("cart.c1.add_item", item("i2", 100, 1)).await;
    until("the purge to be found", || async { (heals(&fleet, "KV_versions") == 1).then_some(()) })
        .await;
    until_healed(&fleet).await;
    until_healed(&fleet).await;
    assert_eq!(BUCKETS.map(|bucket| heals(&fleet, bucket)), [1, 0, 0]);
    fleet.finish().await;
}

#[tokio::test]
async fn a_server_that_was_started_again_is_no_loss() {
    let mut fleet = TestFleet::start().await;
    fleet.producer().await.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    fleet.nats.stop().await;
    fleet.nats.restart().await.unwrap();
    until("the start to be noticed", || async {
        let restarts = "brigade_server_restarts_total 1\n";
        fleet.metrics.render().contains(restarts).then_some(())
    })
    .await;
    until_healed(&fleet).await;
    let counted = fleet.metrics.render();
    let heals: Vec<_> =
        counted.lines().filter(|line| line.starts_with("brigade_heals_total")).collect();
    assert!(!heals.is_empty() && heals.iter().all(|line| line.ends_with(" 0")), "{heals:?}");
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
    fleet.finish().await;
}

#[tokio::test]
async fn events_that_went_by_age_are_not_published_again() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    let js = jetstream::new(fleet.connect("operator").await);
    let mut events = js.get_stream("EVENTS").await.unwrap();
    let config = jetstream::stream::Config {
        max_age: Duration::from_secs(1),
        duplicate_window: Duration::from_secs(1),
        ..events.info().await.unwrap().config.clone()
    };
    js.update_stream(config).await.unwrap();
    for cart in ["c2", "c3"] {
        until("the events to be gone", || async {
            let left = js.get_stream("EVENTS").await.ok()?.cached_info().state.messages;
            (left == 0).then_some(())
        })
        .await;
        until_healed(&fleet).await;
        until_healed(&fleet).await;
        assert_eq!(heals(&fleet, "EVENTS"), 0, "before {cart}");
        producer.team_cart(cart, "ada", &[]).await;
        fleet.until_relayed().await;
    }
    until_healed(&fleet).await;
    assert_eq!(heals(&fleet, "EVENTS"), 0);
}

#[tokio::test]
async fn a_consumer_goes_on_when_its_stream_was_made_again() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("before", "ada", &[]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    for stream in ["EVENTS", "COMMANDS", "DLQ", "KV_attempts"] {
        jetstream::new(fleet.connect("operator").await).delete_stream(stream).await.unwrap();
    }
    let deleted = Instant::now();
    producer.team_cart("after", "ada", &["bob"]).await;
    until("the projection of what was done meanwhile", || async {
        let view = check::kv(&fleet, "views", "t1.cart.after.payments").await?;
        (view["version"] == 2).then_some(())
    })
    .await;
    println!("consumers went on after {:.1} s", deleted.elapsed().as_secs_f64());
    until_healed(&fleet).await;
    producer.publish("k1", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    fleet.finish().await;
}

/// Longer than all attempts of a message take, which were over in six seconds; healing may take as
/// long where a server dies repeatedly.
#[tokio::test]
async fn an_event_waits_for_lost_versions_and_is_no_dead_letter() {
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let js = jetstream::new(fleet.connect("operator").await);
    for bucket in ["KV_versions", "KV_views"] {
        js.get_stream(bucket).await.unwrap().purge().await.unwrap();
    }
    // As repair sends an event again.
    let events = check::raw_events(&fleet).await;
    let joined = events.iter().find(|event| event.subject.contains(".member_joined.")).unwrap();
    let mut headers = joined.headers.clone().unwrap();
    headers.insert("Nats-Msg-Id", "again.1");
    let relay = jetstream::new(fleet.connect("outbox-relay").await);
    let sent = relay.publish_with_headers(joined.subject.clone(), headers, joined.payload.clone());
    sent.await.unwrap().await.unwrap();
    let waited = fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["payment-projector", "away"]);
    until("the event to have waited", || async { (waited.get() >= 40).then_some(()) }).await;
    let operator = Producer::new(fleet.connect("operator").await, "t1");
    assert_eq!(operator.send("cart.c1.rebuild_cache", json!({})).await.status, 200);
    // Nothing is dead, and KV is what SQL says.
    fleet.finish().await;
}

/// Returns the owners whose locks are in the heal backlog.
async fn locks_in_backlog(fleet: &TestFleet) -> Vec<String> {
    let entries = "select id from brigade.heal_backlog where aggregate = 'lock' order by id";
    sqlx::query_scalar(entries).fetch_all(&fleet.sql).await.unwrap()
}

#[tokio::test]
async fn lost_locks_and_timers_enter_the_backlog() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CacheVerifier).await;
    for owner in ["ada", "bob", "cleo"] {
        Lock::hold(&fleet, owner, owner, 600.0).await;
    }
    // Bob's key has expired, Cleo's has not.
    sqlx::raw_sql(
        "update brigade.cart_locks set state = 'released' where owner <> 'ada';
         update brigade.cart_locks set updated_at = now() - interval '11 minutes' where owner = 'bob'",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    let js = jetstream::new(fleet.connect("operator").await);
    for stream in ["KV_cart_locks", "TIMERS"] {
        until_healed(&fleet).await;
        assert_eq!(locks_in_backlog(&fleet).await, [""; 0]);
        js.delete_stream(stream).await.unwrap();
        until_healed(&fleet).await;
        assert_eq!(locks_in_backlog(&fleet).await, ["ada", "cleo"], "{stream}");
        assert!(js.get_stream(stream).await.is_ok(), "{stream} is made again");
        sqlx::query("delete from brigade.heal_backlog").execute(&fleet.sql).await.unwrap();
    }
}

#[tokio::test]
async fn the_locks_that_a_killed_server_may_have_lost_enter_the_backlog_too() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for owner in ["ada", "bob"] {
        producer.team_cart(owner, owner, &[]).await;
    }
    fleet.until_idle().await;
    // Nobody takes entries away.
    fleet.stop_one(WorkerName::CommandHandler).await;
    Lock::hold(&fleet, "ada", "ada", 600.0).await;
    until_healed(&fleet).await;
    fleet.nats.kill().await;
    fleet.nats.restart().await.unwrap();
    until_healed(&fleet).await;
    assert_eq!(locks_in_backlog(&fleet).await, ["ada"]);
}

#[tokio::test]
async fn the_audit_finds_and_heals_single_keys() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.send("cart.c1.add_item", item("i1", 100, 1)).await;
    producer.send("order.o1.place", placed(&[("Soup", 500, 1)])).await;
    producer.send("order.o1.accept", json!({})).await;
    fleet.until_idle().await;
    let operator = jetstream::new(fleet.connect("operator").await);
    let purge = async |bucket: &str, key: &str| {
        let stream = operator.get_stream(format!("KV_{bucket}")).await.unwrap();
        let purged = stream.purge().filter(format!("$KV.{bucket}.{key}")).await.unwrap();
        assert_eq!(purged.purged, 1, "{key}");
    };
    let (handler, projector) = (
        jetstream::new(fleet.connect(WorkerName::CommandHandler.as_str()).await),
        jetstream::new(fleet.connect(WorkerName::PaymentProjector.as_str()).await),
    );
    let spoil = async |js: &jetstream::Context, subject: &'static str, value: &'static str| {
        js.publish(subject, value.into()).await.unwrap().await.unwrap();
    };
    purge("versions", "t1.cart.c1").await;
    purge("views", "t1.order.o1.payments").await;
    spoil(&handler, "$KV.views.t1.cart.c1.core", r#"{"version":3,"spoiled":true}"#).await;
    spoil(&projector, "$KV.views.t1.cart.c1.payments", "not JSON").await;
    spoil(&handler, "$KV.views.t1.order.o1.core", r#"{"version":99}"#).await;
    spoil(&projector, "$KV.active_orders.t1.o1.payment", r#"{"version":1,"paid":7}"#).await;
    let findings = |bucket: &str, finding: &str| {
        fleet
            .metrics
            .group::<VerifierMetrics>()
            .audit_findings
            .with_label_values(&[bucket, finding])
            .get()
    };
    until("the key ahead of SQL to be reported", || async {
        (findings("views", "ahead") > 0).then_some(())
    })
    .await;
    // It stays: no writer lowers a version. Once it is gone it is one more missing key.
    purge("views", "t1.order.o1.core").await;
    for (bucket, finding) in [
        ("versions", "missing"),
        ("views", "missing"),
        ("views", "different"),
        ("views", "stale"),
        ("active_orders", "different"),
    ] {
        until(&format!("{finding} in {bucket}"), || async {
            (findings(bucket, finding) > 0).then_some(())
        })
        .await;
    }
    until("the purged key", || async {
        check::kv(&fleet, "views", "t1.order.o1.core").await.map(drop)
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn ten_thousand_aggregates_are_projected_again() {
    const CARTS: u64 = 10_000;
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c", "ada", &["bob"]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    sqlx::raw_sql(
        "insert into brigade.carts select (jsonb_populate_record(c, jsonb_build_object('id', 'c' || n))).*
         from brigade.carts c, generate_series(1, 10000) n;
         insert into brigade.events (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), tenant, aggregate, 'c' || n, version, type, payload, at, command_id
         from brigade.events e, generate_series(1, 10000) n order by n, version;
         analyze;",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    let js = jetstream::new(fleet.connect("operator").await);
    for bucket in ["KV_versions", "KV_views"] {
        js.delete_stream(bucket).await.unwrap();
    }
    let deleted = Instant::now();
    // And a canary each.
    for (bucket, keys) in [("KV_versions", CARTS + 2), ("KV_views", 2 * (CARTS + 1) + 1)] {
        until(&format!("all keys of {bucket}"), || async {
            let mut stream = js.get_stream(bucket).await.ok()?;
            let found = stream.info().await.ok()?.state.messages;
            tokio::time::sleep(Duration::from_millis(50)).await;
            (found == keys).then_some(())
        })
        .await;
        println!("{bucket}: {keys} keys after {:.1} s", deleted.elapsed().as_secs_f64());
    }
    fleet.until_idle().await;
    assert_eq!(check::dead_letters(&fleet).await.len(), 0);
}

/// A bucket that was unavailable is probed by one write: by hundreds of large ones it would seem
/// unavailable still.
#[tokio::test]
async fn much_that_is_large_is_projected_again_in_a_bucket_that_was_away() {
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    producer.team_cart("c", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let js = jetstream::new(fleet.connect("operator").await);
    js.delete_stream("KV_views").await.unwrap();
    // Nobody waits for it any more from here on.
    assert_eq!(producer.send("cart.c.join", json!({"user": "eve"})).await.status, 200);
    sqlx::raw_sql(
        "update brigade.carts set items = (
             select jsonb_agg(jsonb_build_object('item_id', 'i' || n, 'sku', repeat('s', 64),
                 'name', repeat('n', 200), 'unit_price', 100, 'quantity', 1, 'user', 'ada') order by n)
             from generate_series(100, 299) n);
         insert into brigade.carts select (jsonb_populate_record(c, jsonb_build_object('id', 'c' || n))).*
         from brigade.carts c, generate_series(1, 499) n;
         insert into brigade.projection_backlog (tenant, aggregate, id, version, at)
         select tenant, 'cart', id, version, clock_timestamp() - interval '1 hour'
         from brigade.carts on conflict do nothing;",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    provision::run(&fleet.nats_url("operator"), 1).await.unwrap();
    until("all carts to be projected", || async {
        let left = sqlx::query_scalar("select count(*) from brigade.projection_backlog");
        let left: i64 = left.fetch_one(&fleet.sql).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    let views = js.get_stream("KV_views").await.unwrap();
    let projected = views.cached_info().state.messages;
    assert!(projected >= 500, "{projected} keys");
    assert_eq!(check::dead_letters(&fleet).await.len(), 0);
}

#[tokio::test]
async fn postgres_and_all_instances_of_each_worker_may_die_under_load() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    fleet.run_all().await;
    let load = Load::start(&fleet, 16).await;
    load.until_done(16).await;
    let (from, since) = (load.done.load(Ordering::SeqCst), Instant::now());
    load.until_done(from + 48).await;
    // Eight commands a party, four through each door, and as many reads.
    let rate = 8.0 * 48.0 / since.elapsed().as_secs_f64();
    println!("load: {rate:.0} commands/s");
    let postgres = fleet.postgres_mut();
    postgres.kill().await;
    postgres.restart().await.unwrap();
    load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
    for worker in WorkerName::ALL {
        for instances in [1, 2] {
            for _ in 0..instances {
                fleet.take(worker).kill().await;
            }
            let killed = Instant::now();
            for _ in 0..instances {
                fleet.run(worker).await;
            }
            let ready = killed.elapsed().as_secs_f64();
            load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
            let done = killed.elapsed().as_secs_f64();
            println!("{instances} {worker}: ready after {ready:.1} s, 4 parties after {done:.1} s");
        }
    }
    load.stop().await;
    until_healed(&fleet).await;
    fleet.finish().await;
}
