//! S8-06: each alert of `deploy/prometheus/alerts.yml` fires on its fault, in a real Prometheus that
//! scrapes real processes, and resolves by itself when the fault is mended.
//!
//! Here are the faults, many at a time, since alerts mind their own; in `files` what the files say.

mod files;

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream;
use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, Producer, TestFleet,
    operators::Watch,
    paying::age_lock,
    process::{Process, printed},
    producer::placed,
    prometheus::{Alert, Prometheus},
    promql::documented,
    until,
};
use serde_json::json;

use super::{
    dead_letters::{held, kill_a_command, shrink},
    settling::{late_money, settle, task},
    status::processes,
};

/// Those that tell of single workers, of what is late and of what waits for a person.
const OF_WORK: [&str; 12] = [
    "BrigadeAuditOld",
    "BrigadeConsumerLags",
    "BrigadeDeadLetters",
    "BrigadeDutyWithoutHolder",
    "BrigadeLocksOverdue",
    "BrigadeOutboxLags",
    "BrigadePaymentUnknown",
    "BrigadeProjectionLags",
    "BrigadeRefundWaits",
    "BrigadeStreamFillsUp",
    "BrigadeWorkerDown",
    "BrigadeWorkerNotReady",
];
/// Those that tell of servers that are away.
const OF_SERVERS: [&str; 3] =
    ["BrigadeFleetUnwatched", "BrigadeNatsUnreachable", "BrigadePostgresUnreachable"];

/// A fleet of processes, and a Prometheus that scrapes them.
struct Alarmed {
    running: BTreeMap<WorkerName, Process>,
    prometheus: Prometheus,
}

impl Alarmed {
    /// Starts all workers and waits until no alert fires.
    async fn start(fleet: &TestFleet, prometheus: Prometheus) -> Self {
        let alarmed = Self { running: processes(fleet).await, prometheus };
        alarmed.scrape();
        let looked = "count(brigade_fleet_looked_time_seconds)";
        until("the fleet to be scraped", || async {
            (!alarmed.prometheus.query(looked).await.is_empty()).then_some(())
        })
        .await;
        alarmed.until_quiet().await;
        alarmed
    }

    fn scrape(&self) {
        self.prometheus.scrape(self.running.values().map(Process::admin));
    }

    /// Replaces the process of a worker by one that stops at a fail point, if at any.
    async fn replace(&mut self, fleet: &TestFleet, worker: WorkerName, stop_at: Option<&str>) {
        if let Some(old) = self.running.remove(&worker) {
            old.kill().await;
        }
        self.running.insert(worker, Process::start(fleet, &[worker], stop_at).await);
        self.scrape();
    }

    async fn until_quiet(&self) {
        until("no alert", || async { self.prometheus.alerts().await.is_empty().then_some(()) })
            .await;
    }

    /// Waits until all of these alerts fire, and returns everything that fires.
    async fn until_firing(&self, expected: &[&str]) -> Vec<Alert> {
        until(&format!("{expected:?} to fire"), || async {
            let mut alerts = self.prometheus.alerts().await;
            alerts.retain(|alert| alert.is_firing);
            let fires = |name: &&str| alerts.iter().any(|alert| alert.name == *name);
            expected.iter().all(fires).then_some(alerts)
        })
        .await
    }
}

fn labels(alerts: &[Alert], name: &str, label: &str) -> BTreeSet<String> {
    let of_name = alerts.iter().filter(|alert| alert.name == name);
    of_name.map(|alert| alert.labels[label].clone()).collect()
}

/// What a person reads of an alert is whole.
fn is_readable(alert: &Alert) {
    assert!(alert.annotations["summary"].len() < 100, "{alert:?}");
    for text in ["summary", "description"].map(|part| &alert.annotations[part]) {
        println!("{}: {text}", alert.name);
        for broken in ["<no value>", "{{", "error", "  "] {
            assert!(!text.contains(broken), "{alert:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_06_each_alert_of_work_fires_on_its_fault_and_resolves() {
    let Some(prometheus) = Prometheus::start().await else { return };
    let fleet = TestFleet::empty().await;
    let mut alarmed = Alarmed::start(&fleet, prometheus).await;
    files::each_panel_is_answered(&alarmed.prometheus).await;
    labels_are_those_of_the_reference(&alarmed).await;

    let producer = fleet.producer().await;
    money_waits(&fleet, &producer).await;
    let letter = kill_a_command(&fleet).await;
    let (room, held) = (room_of_letters(&fleet).await, held(&fleet, "DLQ").await.1);
    shrink(&fleet, "DLQ", held.cast_signed() * 3 / 2).await;
    a_lock_is_overdue(&fleet, &producer, &alarmed.running[&WorkerName::CartLockExpiry]).await;
    rights(&fleet, REVOKED).await;
    alarmed.running.remove(&WorkerName::Edge).expect("it runs").kill().await;
    alarmed.running[&WorkerName::OutboxRelay].signal("STOP").await;
    alarmed
        .replace(&fleet, WorkerName::CommandHandler, Some("stop:command-handler.after_commit"))
        .await;
    producer.store("k9", "order.o9.place", &placed(&[("Soup", 500, 1)]).to_string()).await;
    alarmed.running[&WorkerName::CommandHandler].stopped().await;

    let alerts = alarmed.until_firing(&OF_WORK).await;
    alerts.iter().for_each(is_readable);
    let mut workers = labels(&alerts, "BrigadeWorkerDown", "worker");
    assert!(workers.remove("edge") && !workers.contains("payment-projector"), "{workers:?}");
    let duties = labels(&alerts, "BrigadeDutyWithoutHolder", "lease");
    assert_eq!(duties, ["table-status-reconciler.round".to_owned()].into());
    let late = labels(&alerts, "BrigadeConsumerLags", "consumer");
    assert_eq!(late, ["command-handler".to_owned()].into());
    let dead = labels(&alerts, "BrigadeDeadLetters", "worker");
    assert_eq!(dead, ["command-handler".to_owned()].into());
    assert_eq!(labels(&alerts, "BrigadeStreamFillsUp", "stream"), ["DLQ".to_owned()].into());

    for stopped in [WorkerName::CommandHandler, WorkerName::OutboxRelay, WorkerName::CartLockExpiry]
    {
        alarmed.running[&stopped].resume().await;
    }
    alarmed.replace(&fleet, WorkerName::Edge, None).await;
    rights(&fleet, GRANTED).await;
    shrink(&fleet, "DLQ", room).await;
    printed(&fleet, &format!("dlq drop {} --because mended", letter.number)).await;
    for (id, payload) in [("p1", task("p1.1")), ("p2", settle(json!("failed")))] {
        let what = format!("payment.{id}.settle");
        let settled = producer.send_until_decided(&format!("settle-{id}"), &what, payload).await;
        assert_eq!(settled.code(), "ok", "{}", settled.body());
    }
    alarmed.until_quiet().await;
    Watch::of(&fleet).until_fine().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_06_each_alert_of_servers_fires_on_its_fault_and_resolves() {
    let Some(prometheus) = Prometheus::start().await else { return };
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    let alarmed = Alarmed::start(&fleet, prometheus).await;
    fleet.nats.stop().await;
    fleet.postgres_mut().stop().await;
    let alerts = alarmed.until_firing(&OF_SERVERS).await;
    alerts.iter().for_each(is_readable);
    let of_nats = alerts.iter().find(|alert| alert.name == "BrigadeNatsUnreachable");
    let summary = &of_nats.expect("it fires").annotations["summary"];
    assert_eq!(summary, "brigade has no connection to NATS: 8 of its processes");
    // Nobody is taken for dead because nobody can be asked.
    assert_eq!(labels(&alerts, "BrigadeWorkerDown", "worker"), BTreeSet::new());
    fleet.nats.restart().await.expect("it comes back");
    fleet.postgres_mut().restart().await.expect("it comes back");
    alarmed.until_quiet().await;
    Watch::of(&fleet).until_fine().await;
}

/// A refund task of `p1`, and `p2`, of which the gateway has said for two minutes that it does not
/// know.
async fn money_waits(fleet: &TestFleet, producer: &Producer) {
    late_money(producer).await;
    producer.cart_of("c2", "menu", "bob", &[("i1", 1000, 1)]).await;
    producer.initiate("p2", "c2").await;
    assert_eq!(producer.result("p2", "unknown", "g2", 0).await.status, 200);
    let aged = "update brigade.payments set updated_at = updated_at - interval '2 minutes'
                where id = 'p2'";
    sqlx::query(aged).execute(&fleet.sql).await.expect("sql");
}

/// A lock whose deadline has passed, and the worker that would end it hangs.
async fn a_lock_is_overdue(fleet: &TestFleet, producer: &Producer, expiry: &Process) {
    expiry.signal("STOP").await;
    producer.cart_of("c3", "menu", "cid", &[("i1", 1000, 1)]).await;
    producer.lock("c3").await;
    age_lock(fleet, "cid", 11).await;
}

/// Somebody takes rights away: one worker cannot renew its lease, and another one cannot save how
/// far its audit is, which ended a round two days ago.
const REVOKED: &str = r#"
    revoke all on brigade.leases from "table-status-reconciler";
    revoke insert, update on brigade.audit_rounds from "cache-verifier";
    update brigade.audit_rounds set last_finished_at = last_finished_at - interval '2 days'"#;
const GRANTED: &str = r#"
    grant select, insert, update, delete on brigade.leases to "table-status-reconciler";
    grant insert, update on brigade.audit_rounds to "cache-verifier""#;

async fn rights(fleet: &TestFleet, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&fleet.sql).await.expect("sql");
}

/// Returns the room that the stream of dead letters has.
async fn room_of_letters(fleet: &TestFleet) -> i64 {
    let js = jetstream::new(fleet.connect("operator").await);
    js.get_stream("DLQ").await.expect("the stream").cached_info().config.max_bytes
}

/// Each series that the processes serve is in the reference with its labels.
async fn labels_are_those_of_the_reference(alarmed: &Alarmed) {
    let reference = documented();
    let mut seen = BTreeSet::new();
    for process in alarmed.running.values() {
        let text = HttpClient::new(process.admin(), "t1").text("/metrics").await;
        for line in text.lines().filter(|line| line.starts_with("brigade_")) {
            let series = line.split([' ', '{']).next().expect("a name");
            let labels = brigade_tests::promql::names(line.rsplit_once(' ').expect("a value").0);
            let known = reference.get(series).unwrap_or_else(|| panic!("{series} is served"));
            assert_eq!(labels.selected, [(series.to_owned(), known.clone())]);
            seen.insert(series.to_owned());
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

/// What an instance showed while it led would keep an alert from resolving.
#[tokio::test(flavor = "multi_thread")]
async fn s8_06_one_that_leads_no_longer_shows_no_figure_of_before() {
    let fleet = TestFleet::empty().await;
    let mut verifiers = Vec::new();
    for _ in 0..2 {
        verifiers.push(Process::start(&fleet, &[WorkerName::CacheVerifier], None).await);
    }
    let shows = async |verifier: &Process| {
        let text = HttpClient::new(verifier.admin(), "t1").text("/metrics").await;
        text.contains("brigade_stream_filled_percent{stream=\"DLQ\"}")
    };
    let leader = until("one to lead", || async {
        let both = [shows(&verifiers[0]).await, shows(&verifiers[1]).await];
        both.iter().position(|shows| *shows)
    })
    .await;
    verifiers[leader].signal("STOP").await;
    let other = &verifiers[1 - leader];
    until("the other one to lead", || async { shows(other).await.then_some(()) }).await;
    verifiers[leader].resume().await;
    until("nothing of before", || async { (!shows(&verifiers[leader]).await).then_some(()) }).await;
    assert!(shows(other).await);
}

/// Every alert is made to fire by a test.
#[test]
fn s8_06_each_alert_has_its_fault() {
    let caused: BTreeSet<_> =
        OF_WORK.into_iter().chain(OF_SERVERS).map(ToOwned::to_owned).collect();
    let rules = files::rules();
    let named = rules.iter().map(|rule| rule["alert"].as_str().expect("a name").to_owned());
    assert_eq!(named.collect::<BTreeSet<_>>(), caused);
}
