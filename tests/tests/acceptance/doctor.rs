//! S8-02: `brigade doctor` finds what is set wrong.

use async_nats::jetstream;
use brigade::{
    fleet::Servers,
    infra::NatsOptions,
    operations::{
        OperatorServers,
        doctor::{Examined, examine},
        finding::{Finding, Severity},
        migrate,
    },
    testing::nats_server,
};
use brigade_contracts::{Token, WorkerName};
use brigade_dev::{LocalStack, Ports};
use brigade_servers::{Binaries, NatsServer, StackConfig, port::free_port};
use brigade_tests::{
    TestFleet,
    operators::examined,
    process::{printed, refused},
    tls::Authority,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::dead_letters::shrink;

/// Returns what is wrong.
async fn wrong(examined: &Examined) -> Vec<Finding> {
    let all = examine(examined).await.findings;
    all.into_iter().filter(|finding| finding.severity != Severity::Fine).collect()
}

/// Asserts that a doctor finds this and nothing else, and says how to mend it.
async fn finds(examined: &Examined, severity: Severity, what: &str, mend: &str) {
    let found = wrong(examined).await;
    let [finding] = &found[..] else { panic!("{what}: {found:?}") };
    assert_eq!(finding.severity, severity, "{found:?}");
    assert!(format!("{}: {}", finding.subject, finding.what).contains(what), "{found:?}");
    assert!(finding.mend.contains(mend), "{found:?}");
}

/// Returns what there is to examine of a fleet, with the monitoring of a server that syncs always.
async fn all_well(fleet: &TestFleet) -> (Examined, (NatsServer, TempDir)) {
    let port = free_port().unwrap();
    let server = nats_server(&format!("http: \"127.0.0.1:{port}\"")).await.unwrap();
    let monitoring = Some(format!("http://127.0.0.1:{port}"));
    (Examined { monitoring, ..examined(fleet) }, server)
}

#[tokio::test]
async fn s8_02_doctor_finds_each_wrong_setting_of_postgres_and_says_how_to_mend_it() {
    let fleet = TestFleet::empty_with_own_postgres().await;
    let (examined, _server) = all_well(&fleet).await;
    assert_eq!(wrong(&examined).await, []);
    let run = async |statement: &str| fleet.database.run(statement).await.unwrap();
    // What the server was started with is changed by no statement: of `synchronous_commit` a
    // database overrides it, and `fsync` stands in the same table.
    let database: String =
        sqlx::query_scalar("select current_database()").fetch_one(&fleet.sql).await.unwrap();
    let in_database = format!("database \"{database}\"");
    for (place, setting) in [
        ("system", "full_page_writes"),
        ("system", "autovacuum"),
        ("system", "track_counts"),
        (&*in_database, "synchronous_commit"),
    ] {
        run(&format!("alter {place} set {setting} = 'off'")).await;
        run("select pg_reload_conf()").await;
        let what = format!("postgres: {setting} is off");
        // A reload takes effect a moment later.
        brigade_tests::until(&what, || async {
            wrong(&examined).await.iter().any(|f| f.what.contains(setting)).then_some(())
        })
        .await;
        finds(&examined, Severity::Error, &what, &format!("alter system set {setting} = 'on'"))
            .await;
        run(&format!("alter {place} reset {setting}")).await;
        run("select pg_reload_conf()").await;
        brigade_tests::until("it to be mended", || async {
            wrong(&examined).await.is_empty().then_some(())
        })
        .await;
    }
    for (spoil, what) in [
        (
            "alter role edge reset lock_timeout",
            "role edge: it lacks the settings lock_timeout=500ms",
        ),
        ("alter role edge nologin", "role edge: it may not log in"),
        (
            "revoke delete on brigade.outbox from \"outbox-relay\"",
            "role outbox-relay: it lacks DELETE on outbox",
        ),
        (
            "revoke execute on function brigade.beat(jsonb) from edge",
            "role edge: it lacks EXECUTE on beat(jsonb)",
        ),
        ("delete from _sqlx_migrations where version = 93", "schema: migration 93 is not done"),
    ] {
        run("create table if not exists public.kept as select * from _sqlx_migrations").await;
        run(spoil).await;
        finds(&examined, Severity::Error, what, "`brigade migrate`").await;
        run("insert into _sqlx_migrations select * from public.kept on conflict do nothing").await;
        run("alter role edge login").await;
        migrate::run(&fleet.database.url, "", |_| None).await.unwrap();
        assert_eq!(wrong(&examined).await, [], "{spoil}");
    }
}

#[tokio::test]
async fn s8_02_doctor_finds_each_wrong_setting_of_nats_and_says_how_to_mend_it() {
    let fleet = TestFleet::empty().await;
    let (examined, _server) = all_well(&fleet).await;
    assert_eq!(wrong(&examined).await, []);
    // A stream that is smaller than declared, and one of which a consumer is gone.
    shrink(&fleet, "DLQ", 1_000_000).await;
    let edit = "`nats stream edit DLQ --max-bytes 1073741824`";
    finds(&examined, Severity::Error, "topology: stream DLQ: max_bytes is 1000000", edit).await;
    shrink(&fleet, "DLQ", 1_073_741_824).await;
    let js = jetstream::new(fleet.connect("operator").await);
    let gone: Value =
        js.request("CONSUMER.DELETE.TIMERS.cart-lock-expiry".to_owned(), &json!({})).await.unwrap();
    assert!(gone["error"].is_null(), "{gone}");
    let what = "topology: there is no consumer cart-lock-expiry of TIMERS";
    finds(&examined, Severity::Error, what, "`brigade provision`").await;
    brigade::operations::provision::run_with(&fleet.nats_url("operator"), &fleet.nats_options(), 1)
        .await
        .unwrap();
    assert_eq!(wrong(&examined).await, []);

    // A worker whose password is another one's, and one that the server does not know any more.
    let mut spoiled = examined.clone();
    let edge = spoiled.workers.iter_mut().find(|(worker, ..)| *worker == WorkerName::Edge).unwrap();
    edge.1 = edge.1.replacen("edge:", "edge:wrong", 1);
    finds(&spoiled, Severity::Error, "NATS user edge: ", "`brigade tenants sync").await;
    let mut spoiled = examined.clone();
    spoiled.workers =
        vec![(WorkerName::OutboxRelay, fleet.nats_url("outbox-relay"), fleet.nats_options())];
    spoiled.workers[0].0 = WorkerName::CommandHandler;
    let found = wrong(&spoiled).await;
    assert!(found.iter().any(|f| f.subject == "NATS user command-handler"), "{found:?}");

    let mut spoiled = examined.clone();
    spoiled.servers.replicas = 3;
    let found = wrong(&spoiled).await;
    let of_replicas = |f: &&Finding| f.what.contains("BRIGADE_REPLICAS is 3");
    assert!(found.iter().find(of_replicas).is_some_and(|f| f.mend.contains("=1")), "{found:?}");

    // Whether it syncs is told on the monitoring port alone.
    let (late, _server) = all_well(&fleet).await;
    let unknown = Examined { monitoring: None, ..late.clone() };
    finds(&unknown, Severity::Warning, "whether it syncs", "--nats-monitoring").await;
    let elsewhere = Examined { monitoring: Some("http://127.0.0.1:1".to_owned()), ..late };
    finds(&elsewhere, Severity::Unreachable, "its monitoring at", "port").await;
}

#[tokio::test]
async fn s8_02_doctor_finds_certificates_that_end_and_servers_that_are_away() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    let (examined, _server) = all_well(&fleet).await;
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new().issue(folder.path(), "old", "127.0.0.1", true);
    let certificates = vec![files.certificate, files.authority];
    let with_old = Examined { certificates, ..examined.clone() };
    finds(&with_old, Severity::Error, "it ended on 2020-01-01", "put a new one in its place").await;
    fleet.nats.stop().await;
    fleet.postgres_mut().stop().await;
    let found = wrong(&examined).await;
    for server in ["nats", "postgres"] {
        let finding = found.iter().find(|finding| finding.subject == server).unwrap();
        assert_eq!(finding.severity, Severity::Unreachable, "{found:?}");
    }
    assert_eq!(found[0].severity, Severity::Unreachable);
}

#[tokio::test]
async fn s8_02_doctor_finds_nothing_wrong_with_a_stack_of_this_machine() {
    let binaries = Binaries::find(&StackConfig::from_env()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports { monitoring: Some(free_port().unwrap()), ..Ports::default() };
    let tenants = vec![Token::new("t1").unwrap()];
    let stack = LocalStack::start(&binaries, dir.path(), tenants, ports).await.unwrap();
    let worker = |worker: WorkerName| {
        let Servers { nats_url, nats, .. } = stack.servers(worker);
        (worker, nats_url, nats)
    };
    let examined = Examined {
        servers: OperatorServers {
            nats_url: stack.nats_url("operator"),
            nats: NatsOptions::default(),
            database_url: stack.superuser_url(),
            replicas: stack.replicas(),
        },
        role_prefix: String::new(),
        workers: WorkerName::ALL.map(worker).to_vec(),
        certificates: Vec::new(),
        monitoring: stack.monitoring_url(),
    };
    assert_eq!(wrong(&examined).await, []);
    stack.stop().await;
}

#[tokio::test]
async fn s8_02_the_command_prints_what_it_looked_at_with_the_mends() {
    let fleet = TestFleet::empty().await;
    let port = free_port().unwrap();
    let server = nats_server(&format!("http: \"127.0.0.1:{port}\"")).await.unwrap();
    let monitored = format!("doctor --nats-monitoring http://127.0.0.1:{port}");
    let shown = printed(&fleet, &monitored).await;
    for part in ["fsync is on", "as declared", "all migrations are done", "syncs what it"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    drop(server);
    // A warning is no success.
    refused(&fleet, "doctor --json").await;
}
