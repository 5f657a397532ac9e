//! S5-12: encrypted connections to nats-server.

use brigade_contracts::WorkerName;
use brigade_tests::{
    TestFleet, Trust, check,
    process::Process,
    producer::{item, placed},
    tls::Authority,
    until,
};
use serde_json::json;

/// Starts a fleet that trusts this authority, and no worker.
async fn fleet_that_trusts(authority: &Authority) -> TestFleet {
    let mut fleet = TestFleet::empty().await;
    let path = fleet.nats_dir().join("trusted.pem");
    authority.write(&path);
    fleet.trust = Some(Trust { scheme: "tls", authority: path });
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
    fleet.until_idle().await;
}

async fn readiness(process: &Process) -> (u16, String) {
    let response = reqwest::get(format!("{}/readyz", process.http())).await.expect("an answer");
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
        // The connections are lost, and come again; so does another certificate.
        fleet.encrypt(&authority, false, more).await;
        everything_is_done(&fleet, &format!("{name}-again")).await;
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
