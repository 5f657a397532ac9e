//! S5-12: connections to nats-server that are encrypted.

use brigade_contracts::WorkerName;
use brigade_tests::{
    Town, check,
    process::Process,
    producer::{item, placed},
    tls::{Authority, Trust},
    until,
};
use serde_json::json;

/// A town that trusts this authority, and has no worker yet.
async fn town_that_trusts(authority: &Authority) -> Town {
    let mut town = Town::empty().await;
    let path = town.nats_dir().join("trusted.pem");
    authority.write(&path);
    town.trust = Some(Trust { scheme: "tls", authority: path });
    town
}

/// What a producer does by both doors, and asks.
async fn everything_is_done(town: &Town, name: &str) {
    let producer = town.producer().await;
    let open = json!({"kind": "menu", "owner": format!("u{name}"), "currency": "EUR"});
    let sent = producer.insist(&format!("{name}-1"), &format!("cart.{name}.open"), open).await;
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
    town.until_idle().await;
}

async fn readiness(process: &Process) -> (u16, String) {
    let page = reqwest::get(format!("{}/readyz", process.http())).await.expect("an answer");
    (page.status().as_u16(), page.text().await.expect("text"))
}

#[tokio::test]
async fn s5_12_a_fleet_works_over_tls() {
    let authority = Authority::new();
    let mut town = town_that_trusts(&authority).await;
    let forms =
        [("asked", "tls", ""), ("told", "nats", ""), ("either", "tls", "handshake_first: auto")];
    for (name, scheme, more) in forms {
        town.encrypt(&authority, false, more).await;
        town.trust.as_mut().expect("it trusts").scheme = scheme;
        let process = Process::start(&town, &WorkerName::ALL, None).await;
        everything_is_done(&town, name).await;
        // The connections are lost, and come again; so does another certificate.
        town.encrypt(&authority, false, more).await;
        everything_is_done(&town, &format!("{name}-again")).await;
        process.kill().await;
    }
    check::invariants(&town).await;
}

/// edge reads by its own connection besides the library's, outbox-relay by the library's alone.
const BOTH: [WorkerName; 2] = [WorkerName::Edge, WorkerName::OutboxRelay];

#[tokio::test]
async fn s5_12_a_certificate_that_nobody_vouches_for_is_said_so() {
    let authority = Authority::new();
    let mut town = town_that_trusts(&authority).await;
    let mut processes = Vec::new();
    for (at, expired, why) in
        [(Authority::new(), false, "UnknownIssuer"), (authority, true, "expired")]
    {
        town.encrypt(&at, expired, "").await;
        if processes.is_empty() {
            processes = BOTH.map(|worker| Process::spawn(&town, &[worker], None)).into();
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
            town.encrypt(&at, false, "").await;
        }
    }
    for process in &processes {
        process.until_logged(&["\"message\":\"ready\""]).await;
        assert_eq!(readiness(process).await.0, 200);
        // A server that is away is no reason to start again.
        assert_eq!(process.log().matches("\"message\":\"started\"").count(), 1);
    }
}
