//! Streams while what they stand on is away, or goes.

use brigade_contracts::WorkerName;
use brigade_tests::{Town, process::Process, sse::Board};

use super::{ACTIVE, converge, place, resume::Edge, step, town};

#[tokio::test]
async fn a_stream_outlives_postgres_and_nats() {
    let mut town = Town::empty_with_own_postgres().await;
    town.settings.http.open = true;
    town.run_all().await;
    let (producer, web) = (town.producer().await, town.web().await);
    place(&producer, "o1").await;
    let mut events = web.stream(ACTIVE, None).await.expect("a stream");
    let mut board = Board::default();
    converge(&mut events, &mut board, &producer).await;

    town.postgres.as_mut().unwrap().kill().await;
    events.heartbeat().await.expect("it goes on");
    let refused = web.stream(ACTIVE, None).await.err().expect("refused");
    assert_eq!((refused.status, refused.code()), (503, "unconfirmed".to_owned()));
    assert_eq!(refused.header("retry-after"), "1");
    town.postgres.as_mut().unwrap().restart().await.unwrap();
    let soup = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    assert_eq!(producer.insist("k2", "order.o2.place", soup.clone()).await.status, 201);
    while !board.has("o2", 1) {
        let event = events.next().await.expect("it goes on");
        board.take(&event, &events.id);
    }
    assert_eq!((board.rows().len(), board.resets), (2, 1), "numbers may have been given again");

    town.nats.kill().await;
    events.heartbeat().await.expect("it goes on");
    town.nats.restart().await.unwrap();
    assert_eq!(producer.insist("k3", "order.o3.place", soup).await.status, 201);
    while !board.has("o3", 1) {
        let event = events.next().await.expect("it goes on");
        board.take(&event, &events.id);
    }
    assert_eq!((board.rows().len(), board.snapshots, board.resets), (3, 1, 1));
    town.finish().await;
}

/// Readers of a drained edge hear at once that it goes, those of a killed one that it is gone;
/// both go on at another one.
#[tokio::test]
async fn an_edge_that_drains_or_dies_costs_its_readers_nothing() {
    let (town, producer, trusted) = town().await;
    let ada = trusted.newcomer("ada").await;
    producer.done("user.ada.change_roles", serde_json::json!({"roles": ["staff"]})).await;
    for (n, signal) in ["TERM", "KILL"].into_iter().enumerate() {
        let mut going = Process::start(&town, &[WorkerName::Edge], None).await;
        let there = ada.at(going.http());
        let order = format!("o{n}");
        place(&producer, &order).await;
        let mut events = there.stream(ACTIVE, None).await.expect("a stream");
        let mut board = Board::default();
        converge(&mut events, &mut board, &producer).await;
        step(&producer, &order, "accept").await;
        going.signal(signal).await;
        while let Some(event) = events.next().await {
            board.take(&event, &events.id);
        }
        assert_eq!(going.ended().await.success(), signal == "TERM");
        step(&producer, &order, "prepare").await;
        let mut events = ada.stream(ACTIVE, board.id.as_deref()).await.expect("a stream");
        converge(&mut events, &mut board, &producer).await;
        assert_eq!((board.snapshots, board.resets), (1, 0));
    }
    town.finish().await;
}

#[tokio::test]
async fn an_edge_of_the_same_process_takes_its_streams_with_it() {
    let (town, producer, _) = town().await;
    place(&producer, "o1").await;
    for killed in [false, true] {
        let edge = Edge::start(&town).await;
        let mut events = edge.web.stream(ACTIVE, None).await.expect("a stream");
        events.next().await.expect("a snapshot");
        match killed {
            true => edge.instance.kill().await,
            false => edge.instance.stop().await,
        }
        assert_eq!(events.next().await, None, "it ends");
        let gone = edge.web.stream(ACTIVE, None).await.err().expect("refused");
        assert_eq!((gone.status, gone.code()), (503, "not_ready".to_owned()));
    }
    town.finish().await;
}
