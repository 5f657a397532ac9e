//! S5-12: encrypted connections to nats-server.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
};

use brigade::infra::connect_options;
use brigade_contracts::{WorkerName, topology::Topology};
use brigade_tests::{
    SUPERUSER, TestFleet, Trust, check,
    process::{Process, printed},
    producer::{item, placed},
    tls::Authority,
    until,
};
use futures::StreamExt;
use serde_json::json;

/// Starts a fleet that trusts this authority, and no worker.
async fn fleet_that_trusts(authority: &Authority) -> TestFleet {
    let mut fleet = TestFleet::empty().await;
    let path = fleet.nats_dir().join("trusted.pem");
    authority.write(&path);
    fleet.trust = Some(Trust { scheme: "tls", authority: path, certificate: None });
    fleet
}

/// Sends commands by both doors and queries as a producer.
async fn everything_is_done(fleet: &TestFleet, name: &str) {
    let producer = fleet.producer().await;
    let open = json!({"kind": "menu", "owner": format!("u{name}"), "currency": "EUR"});
    let sent =
        producer.send_until_decided(&format!("{name}-1"), &format!("cart.{name}.open"), open).await;
    assert_eq!(sent.status, 201, "{}", sent.body());
    let add = format!("cart.{name}.add_item");
    let outcome = producer.publish(&format!("{name}-2"), &add, item("i1", 100, 2)).await;
    assert_eq!(outcome["status"], 200, "{outcome}");
    let order = format!("order.{name}.place");
    let place = placed(&[("Soup", 500, 1)]);
    let outcome = producer.publish(&format!("{name}-3"), &order, place).await;
    assert_eq!(outcome["status"], 201, "{outcome}");
    let view = producer.view(&format!("cart.{name}"), None).await;
    assert_eq!((view.status, &view.body()["core"]["total"]), (200, &json!(200)), "{}", view.body());
}

async fn readiness(process: &Process) -> (u16, String) {
    let response = reqwest::get(format!("{}/readyz", process.admin())).await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("text"))
}

#[tokio::test]
async fn s5_12_a_fleet_works_over_tls() {
    let authority = Authority::new();
    let mut fleet = fleet_that_trusts(&authority).await;
    let forms =
        [("asked", "tls", ""), ("told", "nats", ""), ("either", "tls", "handshake_first: auto")];
    for (name, scheme, more) in forms {
        fleet.encrypt(&authority, false, more).await;
        fleet.trust.as_mut().expect("it trusts").scheme = scheme;
        let process = Process::start(&fleet, &WorkerName::ALL, None).await;
        everything_is_done(&fleet, name).await;
        fleet.until_idle().await;
        // The connections are lost, and come again; so does another certificate.
        fleet.encrypt(&authority, false, more).await;
        everything_is_done(&fleet, &format!("{name}-again")).await;
        fleet.until_idle().await;
        process.kill().await;
    }
    check::invariants(&fleet).await;
}

/// edge reads by its own connection and the library's, outbox-relay by the library's alone.
const BOTH: [WorkerName; 2] = [WorkerName::Edge, WorkerName::OutboxRelay];

#[tokio::test]
async fn s5_12_a_certificate_that_nobody_vouches_for_is_said_so() {
    let authority = Authority::new();
    let mut fleet = fleet_that_trusts(&authority).await;
    let mut processes = Vec::new();
    for (at, expired, why) in
        [(Authority::new(), false, "UnknownIssuer"), (authority, true, "expired")]
    {
        fleet.encrypt(&at, expired, "").await;
        if processes.is_empty() {
            processes = BOTH.map(|worker| Process::spawn(&fleet, &[worker], None)).into();
        }
        for process in &processes {
            process.until_logged(&["WARN", "dependency away", why]).await;
            let unready = until("the reason to be told", || async {
                let (status, text) = readiness(process).await;
                (status == 503 && text.contains(why)).then_some(text)
            })
            .await;
            assert!(unready.contains("is away"), "{unready}");
            assert!(!process.log().contains("panicked"), "{}", process.log());
        }
        if expired {
            fleet.encrypt(&at, false, "").await;
        }
    }
    for process in &processes {
        process.until_logged(&["\"message\":\"ready\""]).await;
        assert_eq!(readiness(process).await.0, 200);
        // A server that is away is no reason to start again.
        assert_eq!(process.log().matches("\"message\":\"started\"").count(), 1);
    }
}

/// Returns an address of this machine that is not of loopback.
fn other_address() -> IpAddr {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
    // Nothing is sent: the system only chooses where it would go out.
    socket.connect(("192.0.2.1", 9)).expect("a route");
    socket.local_addr().expect("an address").ip()
}

#[tokio::test]
async fn s5_12_nothing_leaves_the_machine_in_clear_text() {
    let fleet = TestFleet::empty().await;
    let relay = WorkerName::OutboxRelay;
    let (servers, elsewhere) = (fleet.servers(relay), other_address());
    let away = |url: &str| url.replace("127.0.0.1", &elsewhere.to_string());
    let (nats, database) = (away(&servers.nats_url), away(&servers.postgres_url));
    let plain = |url: String| url.split('?').next().expect("a URL").to_owned();
    let trusts_nobody =
        [("BRIGADE_NATS_CA", ""), ("BRIGADE_NATS_CERT", ""), ("BRIGADE_NATS_KEY", "")];
    for (variable, url, what_to_do) in [
        ("BRIGADE_NATS_URL_OUTBOX_RELAY", nats.clone(), "tls://"),
        ("BRIGADE_DATABASE_URL_OUTBOX_RELAY", plain(database.clone()), "sslmode=verify-full"),
    ] {
        let set = [&trusts_nobody[..], &[(variable, url.as_str())]].concat();
        let mut process = Process::spawn_with(&fleet, &[relay], None, &set);
        process.ended().await;
        process.until_logged(&[what_to_do, "BRIGADE_ALLOW_PLAINTEXT=1"]).await;
        assert!(!process.log().contains("outbox-relay-secret"), "{}", process.log());
    }
    // Whoever says so may do it. Nobody listens there.
    let says_so = ("BRIGADE_ALLOW_PLAINTEXT", "1");
    let set = [&trusts_nobody[..], &[says_so, ("BRIGADE_NATS_URL_OUTBOX_RELAY", &nats)]].concat();
    let process = Process::spawn_with(&fleet, &[relay], None, &set);
    process.until_logged(&["dependency away", &elsewhere.to_string()]).await;
    process.kill().await;
}

#[tokio::test]
async fn s5_12_urls_come_from_files_and_a_hangup_ends_nothing() {
    let fleet = TestFleet::empty().await;
    let relay = WorkerName::OutboxRelay;
    let servers = fleet.servers(relay);
    let dir = fleet.nats_dir();
    let [nats, database] =
        [("nats", &servers.nats_url), ("database", &servers.postgres_url)].map(|(name, url)| {
            let path = dir.join(format!("{name}-url"));
            fs::write(&path, format!("{url}\n")).expect("written");
            path.display().to_string()
        });
    let set = [
        ("BRIGADE_NATS_URL_OUTBOX_RELAY", ""),
        ("BRIGADE_DATABASE_URL_OUTBOX_RELAY", ""),
        ("BRIGADE_NATS_URL_OUTBOX_RELAY_FILE", &nats),
        ("BRIGADE_DATABASE_URL_FILE", &database),
    ];
    let process = Process::spawn_with(&fleet, &[relay], None, &set);
    process.until_logged(&["\"message\":\"ready\""]).await;
    process.signal("HUP").await;
    process.until_logged(&["SIGHUP"]).await;
    assert_eq!(readiness(&process).await.0, 200);
    process.kill().await;
    // A file that is not there is told at once, by the name of its variable.
    fs::remove_file(&nats).expect("removed");
    let mut process = Process::spawn_with(&fleet, &[relay], None, &set);
    process.ended().await;
    process.until_logged(&["BRIGADE_NATS_URL_OUTBOX_RELAY_FILE", &nats]).await;
}

#[tokio::test]
async fn s5_12_a_fleet_works_with_client_certificates() {
    let authority = Authority::new();
    let mut fleet = fleet_that_trusts(&authority).await;
    let files = authority.certify_client(&fleet.nats_dir());
    let trust = fleet.trust.as_mut().expect("it trusts");
    (trust.authority, trust.certificate) = (files.authority.clone(), Some(files));
    fleet.encrypt(&authority, false, "verify: true").await;
    let process = Process::start(&fleet, &WorkerName::ALL, None).await;
    everything_is_done(&fleet, "shown").await;
    fleet.until_idle().await;
    // Those of operators too.
    printed(&fleet, "provision").await;
    printed(&fleet, "dlq ls").await;
    // Another certificate is shown by the connections that come next.
    authority.certify_client(&fleet.nats_dir());
    fleet.encrypt(&authority, false, "verify: true").await;
    everything_is_done(&fleet, "shown-again").await;
    fleet.until_idle().await;
    process.kill().await;
    check::invariants(&fleet).await;
}

#[tokio::test]
async fn s5_12_a_fleet_works_with_the_jetstream_of_another_domain() {
    let mut fleet = TestFleet::empty_on_a_domain().await;
    fleet.run_all().await;
    everything_is_done(&fleet, "far").await;
    let hub = fleet.hub.as_ref().expect("a hub").port();
    let (options, hub) = connect_options(&format!("nats://leaf:leaf@127.0.0.1:{hub}")).unwrap();
    let at_hub = async_nats::jetstream::new(options.connect(hub).await.expect("connected"));
    // Each worker has done its part there: decided, projected, published, acknowledged.
    until("the streams of the hub to be done with", || async {
        let mut done = true;
        for (stream, consumers) in &Topology::with_replicas(1).consumers {
            let stream = at_hub.get_stream(stream).await.ok()?;
            for consumer in consumers.keys() {
                let info = stream.consumer_info(consumer).await.ok()?;
                done &= info.num_pending == 0 && info.num_ack_pending == 0;
            }
        }
        let views = at_hub.get_stream("KV_views").await.ok()?.cached_info().state.messages;
        let events = at_hub.get_stream("EVENTS").await.ok()?.cached_info().state.messages;
        (done && views > 0 && events > 2).then_some(())
    })
    .await;
    // There is none elsewhere, and nobody was refused anything.
    let here = async_nats::jetstream::new(fleet.connect(SUPERUSER).await);
    let names: Vec<_> = here.stream_names().collect().await;
    assert!(names.is_empty(), "{names:?}");
    for worker in WorkerName::ALL {
        let worker = fleet.take(worker);
        assert_eq!(worker.health.violations(), Vec::<String>::new(), "{}", worker.worker);
        worker.stop().await;
    }
}
