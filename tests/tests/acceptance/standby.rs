//! S6-01: a server in recovery confirms nothing.

use brigade::workers::outbox_relay::RelayMetrics;
use std::{fs, path::PathBuf, process::Command};

use brigade_contracts::{EraVersion, WorkerName};
use brigade_tests::{Reply, TestFleet, producer::placed, until, until_ready};
use serde_json::json;

use super::http::team_cart;

/// Makes a stopped Postgres start as a standby, as a demoted primary does.
pub fn demote(fleet: &TestFleet) {
    let log: PathBuf = fleet.postgres().log();
    let data = log.parent().expect("a folder").join("data");
    // A copy of a file of its own, so that it belongs to whom the server runs as.
    let (any, signal) = (data.join("PG_VERSION"), data.join("standby.signal"));
    let copied = Command::new("cp").arg("-p").args([&any, &signal]).status().expect("cp");
    assert!(copied.success() && fs::exists(&signal).expect("looked"));
}

#[tokio::test]
async fn s6_01_a_server_in_recovery_confirms_nothing() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    team_cart(&http, "c1").await;
    let ada = http.register_and_log_in("ada").await;
    let placed_as = producer.send_as("k1", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    assert_eq!(placed_as.status, 201);
    let seen = producer.view("cart.c1", None).await;
    let etag = seen.etag.clone().expect("a tag");
    // An event that waits to be relayed.
    fleet.until_idle().await;
    fleet.stop_one(WorkerName::OutboxRelay).await;
    producer.done("order.o2.place", placed(&[("Soup", 500, 1)])).await;
    let relayed = fleet.metrics.group::<RelayMetrics>().relayed.get();

    fleet.postgres_mut().stop().await;
    demote(&fleet);
    fleet.postgres_mut().restart().await.expect("a standby");
    let standby: bool = until("the standby", || async {
        sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&fleet.sql).await.ok()
    })
    .await;
    assert!(standby);
    let relay = fleet.instance(WorkerName::OutboxRelay);
    let queries = [
        ("q.t1.view.cart.c1", vec![]),
        ("q.t1.view.cart.c1", vec![("If-None-Match", etag.as_str())]),
        ("q.t1.view.cart.nobodys", vec![]),
        ("q.t1.active_orders", vec![]),
        ("q.t1.outcome.k1", vec![]),
        ("q.t1.outcome.never", vec![]),
        ("q.t1.lock.ada", vec![]),
        ("q.t1.lock_history.ada", vec![]),
        ("q.t1.user.ada.state", vec![]),
    ];
    let token = json!({"access_token": "x"}).to_string();
    for _ in 0..5 {
        for (query, headers) in &queries {
            let answer = producer.request(query, headers, b"").await.expect("an answer");
            assert_eq!((answer.status, answer.code().as_str()), (503, "unconfirmed"), "{query}");
        }
        let valid = producer.request("q.t1.user.ada.validate", &[], token.as_bytes()).await;
        assert_eq!(valid.expect("an answer").code(), "unconfirmed");
        for http in [&http, &ada] {
            for path in ["cart/c1", "active-orders", "outcomes/k1"] {
                let response = http.get(path, &[]).await;
                assert_eq!(
                    (response.status, response.code().as_str()),
                    (503, "unconfirmed"),
                    "{path}"
                );
            }
        }
    }
    assert!(relay.health.ready().is_err());
    assert_eq!(
        fleet.metrics.group::<RelayMetrics>().relayed.get(),
        relayed,
        "nothing is relayed from a standby"
    );

    sqlx::query("select pg_promote()").execute(&fleet.sql).await.expect("promoted");
    let again = until("an answer", || async {
        let answer = producer.request("q.t1.view.cart.c1", &[], b"").await?;
        (answer.status == 200).then_some(answer)
    })
    .await;
    // A promoted server begins an era: what it says is said anew.
    let tag = |reply: &Reply| EraVersion::of_etag(reply.etag.as_deref()?);
    let (before, after) = (tag(&seen).expect("a tag"), tag(&again).expect("a tag"));
    assert_eq!((after.version, after.era > before.era), (before.version, true));
    assert_eq!(again.bytes, seen.bytes);
    // HTTP is served a moment later than NATS.
    let response = until("an answer", || async {
        let response = ada.get("active-orders", &[]).await;
        (response.status != 503).then_some(response)
    })
    .await;
    assert_ne!(response.status, 401, "the token is believed again: {}", response.body());
    until_ready(&relay).await;
    fleet.adopt(relay);
    fleet.finish().await;
}
