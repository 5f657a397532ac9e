//! Faults that every worker has to survive. The tests run over the registry's names, so a new
//! worker is tested as soon as it is registered; [`points`] lists the steps at which it is killed.

use std::{sync::atomic::Ordering, time::Duration};

use brigade::{
    fleet::registry,
    infra::fail::{KILLS, PANICS},
    runtime::ConsumeMetrics,
    workers::command_handler::CommandHandlerMetrics,
};
use brigade_contracts::{
    Address, Aggregate, Body, Door, WorkerName,
    client::{Client, Send},
    topology::Topology,
};
use brigade_tests::{
    SUPERUSER, TestFleet, check, process::Process, producer::placed, until, workload,
};
use futures::{StreamExt, stream};
use serde_json::json;

/// Returns the steps of a worker at which a crash must do no harm.
fn points(worker: WorkerName) -> &'static [&'static str] {
    match worker {
        WorkerName::CommandHandler => &[
            "command-handler.before_write",
            "command-handler.before_commit",
            "command-handler.after_commit",
            "command-handler.after_projection",
            "command-handler.before_answer",
            "command-handler.before_ack",
        ],
        WorkerName::OutboxRelay => &["outbox-relay.before_publish", "outbox-relay.after_publish"],
        WorkerName::PaymentProjector => &[
            "payment-projector.before_projection",
            "payment-projector.after_projection",
            "payment-projector.before_ack",
        ],
        WorkerName::UserStateProjector => &[
            "user-state-projector.before_projection",
            "user-state-projector.after_projection",
            "user-state-projector.before_ack",
        ],
        WorkerName::CartLockExpiry => &[
            "cart-lock-expiry.before_send",
            "cart-lock-expiry.after_send",
            "cart-lock-expiry.before_ack",
        ],
        WorkerName::TableStatusReconciler => {
            &["table-status-reconciler.before_send", "table-status-reconciler.after_send"]
        }
        WorkerName::CacheVerifier => &[
            "cache-verifier.before_heal",
            "cache-verifier.after_batch",
            "cache-verifier.after_heal",
            "cache-verifier.before_verify",
            "cache-verifier.after_verify",
            "cache-verifier.before_ack",
        ],
        WorkerName::Edge => &["edge.after_confirm"],
    }
}

/// Returns the stream that a worker consumes and a subject that it receives.
fn consumes(worker: WorkerName) -> Option<(&'static str, &'static str)> {
    match worker {
        WorkerName::CommandHandler => Some(("command-handler", "cmd.t1.cart.poison.open")),
        WorkerName::PaymentProjector => Some(("outbox-relay", "evt.t1.cart.opened.00")),
        WorkerName::UserStateProjector => Some(("outbox-relay", "evt.t1.user.roles_changed.00")),
        WorkerName::CartLockExpiry => Some(("command-handler", "due.lock.t1.poison.7")),
        WorkerName::CacheVerifier => Some(("outbox-relay", "evt.t1.user.logged_out.00")),
        WorkerName::OutboxRelay | WorkerName::TableStatusReconciler | WorkerName::Edge => None,
    }
}

/// Makes a worker reach its steps that ordinary commands give nothing to do.
async fn provoke(fleet: &TestFleet, worker: WorkerName) {
    if worker == WorkerName::CacheVerifier {
        // It knows the bucket as it was before.
        until("a checkpoint", || async {
            let known = "select taken_at from brigade.stream_checkpoints where stream = 'KV_views'";
            sqlx::query(known).fetch_optional(&fleet.sql).await.ok()?.map(drop)
        })
        .await;
        let js = async_nats::jetstream::new(fleet.connect("operator").await);
        js.delete_stream("KV_views").await.unwrap();
    }
    if worker == WorkerName::TableStatusReconciler {
        // As a faulty program leaves it: occupied, and nobody sits there.
        let producer = fleet.producer().await;
        let register = json!({"label": "1", "seats": 4});
        assert_eq!(producer.send("table.ghost.register", register).await.status, 201);
        let spoil = "update brigade.tables set status = 'occupied' where id = 'ghost'";
        sqlx::query(spoil).execute(&fleet.sql).await.unwrap();
    }
    if worker == WorkerName::CartLockExpiry {
        let producer = fleet.producer().await;
        producer.cart_of("locked", "menu", "lena", &[("i1", 100, 1)]).await;
        producer.lock("locked").await;
    }
}

#[tokio::test]
async fn the_normal_way_leaves_nothing_behind() {
    let fleet = TestFleet::start().await;
    workload::run(&fleet, "a", 4).await;
    fleet.finish().await;
}

#[tokio::test]
async fn kill_9_at_each_step_of_each_worker_heals_without_a_hand() {
    let cases =
        WorkerName::ALL.iter().flat_map(|worker| points(*worker).iter().map(|p| (*worker, *p)));
    let crash = |(worker, point): (WorkerName, &'static str)| async move {
        let mut fleet = TestFleet::empty().await;
        // So that there is something to expire.
        fleet.settings.lock_policy.card = std::time::Duration::from_millis(100);
        for other in WorkerName::ALL.into_iter().filter(|other| *other != worker) {
            fleet.run(other).await;
        }
        let mut dying = Process::start(&fleet, &[worker], Some(point)).await;
        fleet.expects_findings = worker == WorkerName::TableStatusReconciler;
        provoke(&fleet, worker).await;
        let work = async { workload::run(&fleet, "a", 2).await };
        let replace = async {
            assert!(!dying.ended().await.success(), "it dies at {point}");
            let instance = fleet.instance(worker);
            brigade_tests::until_ready(&instance).await;
            instance
        };
        let ((), instance) = tokio::join!(work, replace);
        fleet.adopt(instance);
        if fleet.expects_findings {
            // When the lease of the one that died has run out.
            until("the ghost to be repaired", || async {
                let repaired = "select status = 'available' from brigade.tables where id = 'ghost'";
                sqlx::query_scalar::<_, bool>(repaired)
                    .fetch_one(&fleet.sql)
                    .await
                    .ok()?
                    .then_some(())
            })
            .await;
        }
        fleet.finish().await;
    };
    stream::iter(cases).map(crash).buffer_unordered(3).collect::<()>().await;
}

#[tokio::test]
async fn a_worker_may_be_started_and_stopped_at_any_moment() {
    let fleet = TestFleet::empty().await;
    for entry in registry::WORKERS {
        // Stopped before it is connected, right after, and twice.
        fleet.instance(entry.name).stop().await;
        let instance = fleet.instance(entry.name);
        brigade_tests::until_ready(&instance).await;
        instance.drain();
        instance.drain();
        instance.stop().await;
        let again = fleet.instance(entry.name);
        brigade_tests::until_ready(&again).await;
        assert!(again.health.violations().is_empty(), "{}", entry.name);
        again.stop().await;
    }
}

#[tokio::test]
async fn a_drain_under_load_redelivers_nothing() {
    let mut fleet = TestFleet::start().await;
    fleet.run_all().await;
    let work = workload::run(&fleet, "a", 40);
    let drain = async {
        for worker in WorkerName::ALL {
            // One of the two, in the middle of the work.
            let done = fleet
                .metrics
                .group::<CommandHandlerMetrics>()
                .commands
                .with_label_values(&["201"])
                .get();
            until("some more work", || async {
                let now = fleet
                    .metrics
                    .group::<CommandHandlerMetrics>()
                    .commands
                    .with_label_values(&["201"])
                    .get();
                (now > done || now >= 40).then_some(())
            })
            .await;
            fleet.stop_one(worker).await;
        }
    };
    tokio::join!(work, drain);
    for worker in WorkerName::ALL {
        let redelivered = fleet
            .metrics
            .group::<ConsumeMetrics>()
            .redelivered
            .with_label_values(&[worker.as_str()])
            .get();
        assert_eq!(redelivered, 0, "{worker}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn both_servers_may_die_and_come_back_under_load() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let load = workload::Load::start(&fleet, 6).await;
    for _ in 0..2 {
        load.until_done(load.done.load(Ordering::SeqCst) + 3).await;
        fleet.nats.kill().await;
        fleet.nats.restart().await.unwrap();
        load.until_done(load.done.load(Ordering::SeqCst) + 3).await;
        let postgres = fleet.postgres_mut();
        postgres.kill().await;
        postgres.restart().await.unwrap();
    }
    load.until_done(load.done.load(Ordering::SeqCst) + 6).await;
    load.stop().await;
    fleet.until_relayed().await;
    check::events_are_in_the_stream_in_order(&fleet).await;
}

#[tokio::test]
async fn an_outage_of_postgres_makes_no_dead_letters() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    fleet.postgres_mut().stop().await;
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let what = format!("order.o{n}.place");
                producer.publish(&format!("k{n}"), &what, placed(&[("Soup", 500, 1)])).await
            })
        })
        .collect();
    // Far more tries than a message may fail.
    let away = fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["command-handler", "away"]);
    until("many tries", || async { (away.get() > 200).then_some(()) }).await;
    let refused =
        producer.send("cart.c1.open", json!({"kind": "menu", "owner": "a", "currency": "EUR"}));
    assert_eq!(refused.await.status, 503);
    let unconfirmed = producer.request("q.t1.view.cart.c1", &[], b"").await.unwrap();
    assert_eq!(unconfirmed.code(), "unconfirmed");
    fleet.postgres_mut().restart().await.unwrap();
    for outcome in waiting {
        assert_eq!(outcome.await.unwrap()["status"], 201);
    }
    fleet.finish().await;
}

#[tokio::test]
async fn a_frozen_postgres_is_answered_503_and_holds_up_nobody_for_ever() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    fleet.until_idle().await;
    let backends: Vec<i32> =
        sqlx::query_scalar("select pid from pg_stat_activity where usename = 'command-handler'")
            .fetch_all(&fleet.sql)
            .await
            .unwrap();
    let postmaster = i32::try_from(fleet.postgres().pid()).unwrap();
    let signal = |name: &str| {
        let mut kill = std::process::Command::new("kill");
        kill.arg(name).args(backends.iter().chain([&postmaster]).map(ToString::to_string));
        assert!(kill.status().unwrap().success());
    };
    signal("-STOP");
    // Longer than the handler waits for a statement, and again for the next connection.
    let payload = json!({"user": "bob"}).to_string();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Command-Id", "k");
    let request = async_nats::Request::new()
        .headers(headers)
        .payload(payload.into())
        .timeout(Some(Duration::from_secs(30)));
    let refused = producer.client.send_request("req.t1.cart.c1.join", request).await;
    signal("-CONT");
    let refused = refused.unwrap();
    assert_eq!(refused.headers.unwrap().get("Brigade-Status").unwrap().as_str(), "503");
    let done = producer.send_until_decided("k", "cart.c1.join", json!({"user": "bob"})).await;
    assert_eq!(done.status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn a_postgres_that_only_reads_makes_no_dead_letters() {
    let fleet = TestFleet::start().await;
    let database: String =
        sqlx::query_scalar("select current_database()::text").fetch_one(&fleet.sql).await.unwrap();
    let read_only = async |on: bool| {
        for worker in WorkerName::ALL {
            let set = format!(
                "alter role \"{worker}\" in database {database} set default_transaction_read_only = {on};
                 select pg_terminate_backend(pid) from pg_stat_activity
                 where usename = '{worker}' and datname = '{database}'"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&fleet.sql).await.unwrap();
        }
    };
    read_only(true).await;
    let producer = fleet.producer().await;
    producer.store("k1", "order.o1.place", &placed(&[("Soup", 500, 1)]).to_string()).await;
    let away = fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["command-handler", "away"]);
    until("more tries than a message has", || async { (away.get() > 20).then_some(()) }).await;
    read_only(false).await;
    // Edge's sessions were ended as well.
    let outcome = until("the outcome", || async {
        let reply = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await?;
        (reply.status != 503).then_some(reply)
    });
    assert_eq!(outcome.await.body()["status"], 201);
    fleet.finish().await;
}

#[tokio::test]
async fn poison_becomes_a_whole_dead_letter_and_the_next_message_is_served() {
    for worker in WorkerName::ALL {
        let Some((_, subject)) = consumes(worker) else { continue };
        let fleet = TestFleet::start().await;
        let letter = poison(&fleet, subject, b"\xff not JSON").await;
        let producer = fleet.producer().await;
        producer.team_cart("after", "ada", &[]).await;
        let found =
            until("the dead letter", || async { check::dead_letters(&fleet).await.pop() }).await;
        assert_eq!(found.subject.as_str(), format!("dlq.{worker}.{subject}"));
        assert_eq!(&found.payload[..], b"\xff not JSON");
        let headers = found.headers.unwrap();
        let header = |name: &str| headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header("Origin-Subject"), subject);
        assert_eq!(header("X-Mark"), "kept");
        assert_eq!(header("Dead-Nats-Msg-Id"), letter);
        assert_eq!(header("Dead-Deliveries"), "1");
        fleet.until_idle().await;
    }
}

#[tokio::test]
async fn a_message_that_kills_its_process_each_time_harms_no_other() {
    for worker in WorkerName::ALL {
        let Some((_, subject)) = consumes(worker) else { continue };
        let mut fleet = TestFleet::empty().await;
        for other in WorkerName::ALL.into_iter().filter(|other| *other != worker) {
            fleet.run(other).await;
        }
        let producer = fleet.producer().await;
        poison(&fleet, subject, format!("{{\"x\":\"{KILLS}\"}}").as_bytes()).await;
        let others = tokio::spawn({
            let producer = producer.clone();
            async move {
                for n in 0..5 {
                    let what = format!("order.o{n}.place");
                    producer.publish(&format!("k{n}"), &what, placed(&[("Tea", 300, 1)])).await;
                }
            }
        });
        // Whoever runs the fleet starts a process again when it dies; here it is this loop.
        let mut deaths = 0;
        let letter = loop {
            let mut process = Process::start(&fleet, &[worker], None).await;
            tokio::select! {
                _ = process.ended() => deaths += 1,
                letter = until("the dead letter", || async { check::dead_letters(&fleet).await.pop() }) => {
                    break letter;
                }
            }
            assert!(deaths < 12, "{worker} dies for ever");
        };
        assert!(letter.subject.ends_with(subject), "{}", letter.subject);
        assert!(
            deaths >= 5,
            "a message may fail five times alone, and {worker} died {deaths} times"
        );
        fleet.run(worker).await;
        others.await.unwrap();
        fleet.until_idle().await;
        assert_eq!(check::dead_letters(&fleet).await.len(), 1, "no other became one");
        check::kv_equals_sql(&fleet).await;
    }
}

#[tokio::test]
async fn a_message_that_panics_is_tried_five_times_alone() {
    for worker in WorkerName::ALL {
        let Some((_, subject)) = consumes(worker) else { continue };
        let fleet = TestFleet::start().await;
        poison(&fleet, subject, format!("{{\"x\":\"{PANICS}\"}}").as_bytes()).await;
        let producer = fleet.producer().await;
        producer.team_cart("beside", "ada", &["bob"]).await;
        until("the dead letter", || async { check::dead_letters(&fleet).await.pop() }).await;
        fleet.until_idle().await;
        assert_eq!(check::dead_letters(&fleet).await.len(), 1);
        check::kv_equals_sql(&fleet).await;
    }
}

/// Publishes a message into the stream of this subject as a user that may: fired timers come from
/// the server alone. Returns its id.
async fn poison(fleet: &TestFleet, subject: &str, payload: &[u8]) -> String {
    let user = match subject.split('.').next() {
        Some("cmd") => "t1-producer",
        Some("evt") => "outbox-relay",
        _ => SUPERUSER,
    };
    let js = async_nats::jetstream::new(fleet.connect(user).await);
    let id = uuid::Uuid::now_v7().to_string();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("X-Mark", "kept");
    // A command that has an outcome may not have the other id.
    let name = if payload.starts_with(b"\xff") { "Nats-Msg-Id" } else { "Command-Id" };
    headers.insert(name, id.as_str());
    let sent = js.publish_with_headers(subject.to_owned(), headers, payload.to_vec().into()).await;
    sent.unwrap().await.unwrap();
    id
}

#[test]
fn the_signs_of_life_fit_the_shortest_ack_wait() {
    let shortest = Topology::compiled_in()
        .consumers
        .values()
        .flat_map(|consumers| consumers.values())
        .map(|config| config["ack_wait"].as_u64().unwrap())
        .min()
        .unwrap();
    assert_eq!(Duration::from_nanos(shortest), brigade::runtime::consume::ACK_WAIT);
}

#[tokio::test]
async fn the_client_gets_one_outcome_through_either_door_whatever_dies() {
    let mut fleet = TestFleet::start().await;
    let client = Client::new(fleet.connect("t1-producer").await, Duration::from_secs(25));
    for (at, door) in [Door::Request, Door::Durable].into_iter().enumerate() {
        let order = Address::new("t1", Aggregate::Order, &format!("o{at}")).unwrap();
        let payload = placed(&[("Soup", 500, 1)]).to_string();
        let body = Body::decode(Aggregate::Order, "place", payload.as_bytes()).unwrap();
        let send = Send::new(order.clone(), body).through(door);
        let armed = fleet.fail.arm("command-handler.after_commit");
        let asked = client.send(&send);
        let kill = async {
            armed.reached().await;
            fleet.take(WorkerName::CommandHandler).kill().await;
            fleet.fail.disarm("command-handler.after_commit");
            fleet.run(WorkerName::CommandHandler).await;
        };
        let (outcome, ()) = tokio::join!(asked, kill);
        assert_eq!(outcome.unwrap().status, 201);
        assert_eq!(client.view(&order).await.unwrap().version.version, 1);
    }
    fleet.finish().await;
}
