//! S5-08: floods of one tenant, in number and in size, cost no other an answer and no worker its
//! connection or its memory.

use std::time::Duration;

use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, Producer, RawClient, TestFleet,
    process::{Process, signal},
    until,
};
use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::interval,
};

use super::http::open_fleet;

/// Places as many orders as fill a page of the list, which takes at most 900 kB: a row has 8 KiB.
async fn fill_list(producer: &Producer) {
    let note = "x".repeat(500);
    let item = json!({"sku": "s", "name": "n", "unit_price": 1, "quantity": 1, "note": note});
    let large = json!({"currency": "EUR", "items": vec![item; 20]});
    let placed = join_all((0..120).map(async |n| {
        let reply = producer.send(&format!("order.o{n}.place"), large.clone()).await;
        assert_eq!(reply.status, 201, "{}", reply.body());
    }));
    placed.await;
    assert!(producer.active_orders(&[]).await.bytes.len() > 800_000);
}

/// Counts the queries of an endpoint that an edge has answered with any status.
async fn answered(edge: &HttpClient, query: &str) -> u64 {
    let metrics = edge.text("/metrics").await;
    let begin = format!("brigade_queries_total{{query=\"{query}\"");
    let is_answered = |line: &&str| line.starts_with(&begin) && !line.contains("unanswered");
    let counts = metrics.lines().filter(is_answered);
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// More queries than an edge has room for.
const QUERIES: u64 = 30_000;

#[tokio::test]
async fn s5_08_a_flood_of_queries_is_answered_in_turn() {
    let fleet = TestFleet::start_without(WorkerName::Edge).await;
    let edge = Process::start(&fleet, &[WorkerName::Edge], None).await;
    let admin = fleet.http_client().await.at(edge.admin());
    let mut other = RawClient::connect(&fleet.nats_url("t2-producer")).await;
    assert_eq!(other.request(b"q.t2.view.cart.c1", b"", b"").await.header("Brigade-Status"), "404");
    let mut flood = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    // All of it is there before the edge looks.
    edge.signal("STOP").await;
    for _ in 0..QUERIES {
        flood.publish(b"q.t1.view.cart.c1", b"_INBOX.t1-producer.x", b"", b"").await;
    }
    flood.flush().await;
    let before = answered_after(&edge, &admin, &mut other).await;
    println!("{before} of the flood were answered by the time of the other's answer");
    assert!(before < QUERIES / 2, "{before} of the flood went first");
    until("all to be answered or left", || async {
        // Those that found no room at all are not.
        let begun = answered(&admin, "view").await;
        (begun == answered(&admin, "view").await && begun > before).then_some(())
    })
    .await;
    let (now, most) = edge.memory();
    println!("{now} KiB of memory after the flood, {most} KiB at most");
    edge.kill().await;
    fleet.finish().await;
}

/// Sends one more query, lets the edge go on, and returns the number of queries answered before it.
async fn answered_after(edge: &Process, http: &HttpClient, other: &mut RawClient) -> u64 {
    let inbox = other.inbox();
    other.publish(b"q.t2.view.cart.c2", &inbox, b"", b"").await;
    other.flush().await;
    edge.resume().await;
    assert_eq!(other.next().await.subject, inbox);
    answered(http, "view").await
}

/// The largest payloads that a tenant's account takes.
const LARGE: usize = 250_000;

#[tokio::test]
async fn s5_08_large_messages_of_one_tenant_cost_no_other_an_answer() {
    let fleet = TestFleet::start().await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    other.team_cart("c1", "ada", &[]).await;
    let lines = format!("NATS/1.0\r\nCommand-Id: k\r\n{}\r\n", "a:\r\n".repeat(LARGE / 4));
    let named = b"NATS/1.0\r\nCommand-Id: k2\r\n\r\n".to_vec();
    let payload = vec![b' '; LARGE];
    let url = fleet.nats_url("t1-producer");
    let mut asking = RawClient::connect(&url).await;
    for door in ["req.t1.cart.c1.join", "q.t1.view.cart.c1"] {
        let answer = asking.request(door.as_bytes(), lines.as_bytes(), b"{}").await;
        assert_eq!(answer.header("Brigade-Status"), "413", "{door}");
        assert_eq!(answer.code(), "headers_too_large", "{door}");
    }
    let answer = asking.request(b"req.t1.cart.c1.join", &named, &payload).await;
    assert_eq!(
        (answer.header("Brigade-Status"), answer.code()),
        ("413".into(), "payload_too_large".into())
    );
    let flood = (0..4).map(|n| {
        let (url, lines, named, payload) =
            (url.clone(), lines.clone(), named.clone(), payload.clone());
        tokio::spawn(async move {
            let mut raw = RawClient::connect(&url).await;
            let inbox = raw.inbox();
            for _ in 0..100 {
                match n % 2 {
                    0 => raw.publish(b"req.t1.cart.c1.join", &inbox, lines.as_bytes(), b"{}").await,
                    _ => raw.publish(b"req.t1.cart.c1.join", &inbox, &named, &payload).await,
                }
                raw.publish(b"q.t1.view.cart.c1", &inbox, lines.as_bytes(), b"").await;
                // It answers the pings of the server meanwhile.
                raw.flush().await;
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    let mut asked = 0;
    while asked < 20 || flood.iter().any(|task| !task.is_finished()) {
        let joined = other.send("cart.c1.join", json!({ "user": format!("u{asked}") })).await;
        assert!(joined.status < 300 || joined.code() == "too_large", "{}", joined.body());
        assert_eq!(other.view("cart.c1", None).await.status, 200);
        asked += 1;
    }
    println!("{asked} requests and queries of the other were answered");
    for task in flood {
        task.await.unwrap();
    }
    let log = std::fs::read_to_string(fleet.nats.log()).unwrap();
    let slow: Vec<_> = log.lines().filter(|line| line.contains("Slow Consumer")).collect();
    assert_eq!(slow, Vec::<&str>::new());
    fleet.finish().await;
}

/// The answers would take 170 MB.
const LISTS: u64 = 200;

#[tokio::test]
async fn s5_08_answers_that_wait_to_be_sent_are_bounded() {
    let fleet = TestFleet::start_without(WorkerName::Edge).await;
    let edge = Process::start(&fleet, &[WorkerName::Edge], None).await;
    let admin = fleet.http_client().await.at(edge.admin());
    let producer = fleet.producer().await;
    fill_list(&producer).await;
    let before = answered(&admin, "active_orders").await;
    let mut flood = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    edge.signal("STOP").await;
    for _ in 0..LISTS {
        flood.publish(b"q.t1.active_orders", b"_INBOX.t1-producer.x", b"", b"").await;
    }
    flood.flush().await;
    // The server has the queries sent to the edge, and takes nothing from it.
    signal(fleet.nats.pid(), "STOP").await;
    edge.resume().await;
    edge.until_logged(&["dependency away", "\"nats\""]).await;
    let made = answered(&admin, "active_orders").await - before;
    let (now, most) = edge.memory();
    println!("{made} answers were made that nobody takes; {now} KiB, {most} KiB at most");
    signal(fleet.nats.pid(), "CONT").await;
    assert!(made <= LISTS / 2, "{made} answers were made that nobody takes");
    until("edge to answer again", || async {
        let headers = [];
        let reply = producer
            .request_within(Duration::from_secs(1), "q.t1.view.order.o1", &headers, b"")
            .await?;
        (reply.status == 200).then_some(())
    })
    .await;
    edge.kill().await;
    fleet.finish().await;
}

/// The answers take 50 MB, more than the server keeps for a connection that does not read.
const UNREAD: u64 = 60;

#[tokio::test]
async fn s5_08_the_buffer_of_a_connection_that_does_not_read_is_bounded() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    fill_list(&producer).await;
    let mut deaf = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    for _ in 0..UNREAD {
        let inbox = deaf.inbox();
        deaf.publish(b"q.t1.active_orders", &inbox, b"", b"").await;
    }
    let of_size = || std::fs::read_to_string(fleet.nats.log()).unwrap().contains("MaxPending");
    until("the server to give it up, or all to be answered", || async {
        let lists = fleet.edge_metrics().queries.with_label_values(&["active_orders", "200"]);
        (of_size() || lists.get() > UNREAD).then_some(())
    })
    .await;
    // Whoever asks last has its answer after all that.
    assert_eq!(producer.active_orders(&[]).await.status, 200);
    assert!(of_size(), "it keeps all of it");
    fleet.finish().await;
}

/// Lists of 50 MB together, more than a tenant may have on their way over HTTP.
const UNREAD_OVER_HTTP: usize = 60;

/// Asks for the active orders of `t1` on a connection of its own, which has little room for an
/// answer. Returns the status, and the connection with the rest of the answer.
async fn ask_over_http(http: &HttpClient) -> (u16, TcpStream) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let host = http.base.strip_prefix("http://").expect("http");
    let mut socket = socket.connect(host.parse().unwrap()).await.expect("connected");
    let request = format!("GET /v1/t1/active-orders HTTP/1.1\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = [0; "HTTP/1.1 200".len()];
    socket.read_exact(&mut begin).await.expect("a status");
    let status = std::str::from_utf8(&begin[9..]).expect("text").parse().expect("a number");
    (status, socket)
}

/// Reads so slowly that the answer takes minutes, but not so slowly that it is cut off.
async fn read_slowly(mut socket: TcpStream) {
    let mut pace = interval(Duration::from_millis(200));
    let mut some = [0; 1024];
    loop {
        pace.tick().await;
        match socket.read(&mut some).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn s5_08_clients_that_read_slowly_use_up_the_answers_of_their_own_tenant_only() {
    let (fleet, http) = open_fleet().await;
    let producer = fleet.producer().await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    for producer in [&producer, &other] {
        fill_list(producer).await;
        producer.team_cart("c1", "ada", &[]).await;
    }
    let known = http.get("active-orders", &[]).await;
    assert_eq!(known.status, 200);

    let mut readers = JoinSet::new();
    let refused = loop {
        let (status, socket) = ask_over_http(&http).await;
        if status != 200 {
            break status;
        }
        readers.spawn(read_slowly(socket));
        assert!(readers.len() < UNREAD_OVER_HTTP, "edge keeps all answers that nobody reads");
    };
    println!("{} answers wait to be read", readers.len());
    assert_eq!(refused, 429);
    let refused = http.get("active-orders", &[]).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many"));
    assert_eq!(refused.header("retry-after"), "1");

    // Only large answers over HTTP are refused, and only those of this tenant.
    let same = http.get("active-orders", &[("If-None-Match", known.etag())]).await;
    assert_eq!(same.status, 304);
    assert_eq!(http.get("cart/c1", &[]).await.status, 200);
    assert_eq!(producer.active_orders(&[]).await.status, 200);
    let page = http.of("t2").get("active-orders", &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.bytes.len() > 800_000);
    assert!(readers.try_join_next().is_none(), "all of them still read");

    // What is charged is given back when a connection ends.
    readers.shutdown().await;
    until("the answers to be given up", || async {
        let page = http.get("active-orders", &[]).await;
        (page.status == 200).then_some(())
    })
    .await;
    fleet.finish().await;
}
