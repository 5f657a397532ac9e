//! Streams while a server is unavailable, or their edge drains or dies.

use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, process::Process, sse::StreamedOrders};

use super::{ACTIVE, converge, fleet, place, resume::Edge, step};

#[tokio::test]
async fn a_stream_outlives_postgres_and_nats() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    place(&producer, "o1").await;
    let mut events = http.stream(ACTIVE, None).await.expect("a stream");
    let mut orders = StreamedOrders::default();
    converge(&mut events, &mut orders, &producer).await;

    fleet.postgres_mut().kill().await;
    events.heartbeat().await.expect("it goes on");
    let refused = http.stream(ACTIVE, None).await.err().expect("refused");
    assert_eq!((refused.status, refused.code()), (503, "unconfirmed".to_owned()));
    assert_eq!(refused.header("retry-after"), "1");
    fleet.postgres_mut().restart().await.unwrap();
    let soup = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    assert_eq!(producer.send_until_decided("k2", "order.o2.place", soup.clone()).await.status, 201);
    while !orders.has("o2", 1) {
        let event = events.next().await.expect("it goes on");
        orders.apply(&event, &events.id);
    }
    assert_eq!((orders.rows().len(), orders.resets), (2, 1), "numbers may have been given again");

    fleet.nats.kill().await;
    events.heartbeat().await.expect("it goes on");
    fleet.nats.restart().await.unwrap();
    assert_eq!(producer.send_until_decided("k3", "order.o3.place", soup).await.status, 201);
    while !orders.has("o3", 1) {
        let event = events.next().await.expect("it goes on");
        orders.apply(&event, &events.id);
    }
    assert_eq!((orders.rows().len(), orders.snapshots, orders.resets), (3, 1, 1));
    fleet.finish().await;
}

/// Readers of a drained edge learn at once that it stops, those of a killed one that it is gone;
/// both resume at another one.
#[tokio::test]
async fn an_edge_that_drains_or_dies_costs_its_readers_nothing() {
    let (fleet, producer, trusted) = fleet().await;
    let ada = trusted.register_and_log_in("ada").await;
    producer.done("user.ada.change_roles", serde_json::json!({"roles": ["staff"]})).await;
    for (n, signal) in ["TERM", "KILL"].into_iter().enumerate() {
        let mut going = Process::start(&fleet, &[WorkerName::Edge], None).await;
        let there = ada.at(going.http());
        let order = format!("o{n}");
        place(&producer, &order).await;
        let mut events = there.stream(ACTIVE, None).await.expect("a stream");
        let mut orders = StreamedOrders::default();
        converge(&mut events, &mut orders, &producer).await;
        step(&producer, &order, "accept").await;
        going.signal(signal).await;
        while let Some(event) = events.next().await {
            orders.apply(&event, &events.id);
        }
        assert_eq!(going.ended().await.success(), signal == "TERM");
        step(&producer, &order, "prepare").await;
        let mut events = ada.stream(ACTIVE, orders.id.as_deref()).await.expect("a stream");
        converge(&mut events, &mut orders, &producer).await;
        assert_eq!((orders.snapshots, orders.resets), (1, 0));
    }
    fleet.finish().await;
}

#[tokio::test]
async fn an_edge_of_the_same_process_takes_its_streams_with_it() {
    let (fleet, producer, _) = fleet().await;
    place(&producer, "o1").await;
    for killed in [false, true] {
        let edge = Edge::start(&fleet).await;
        let mut events = edge.http.stream(ACTIVE, None).await.expect("a stream");
        events.next().await.expect("a snapshot");
        match killed {
            true => edge.instance.kill().await,
            false => edge.instance.stop().await,
        }
        assert_eq!(events.next().await, None, "it ends");
        let gone = edge.http.stream(ACTIVE, None).await.err().expect("refused");
        assert_eq!((gone.status, gone.code()), (503, "not_ready".to_owned()));
    }
    fleet.finish().await;
}
