//! Many readers, some of which stop reading.

use brigade_contracts::WorkerName;
use brigade_tests::{
    HttpClient, Producer, TestFleet, process::Process, sse::StreamedOrders, until,
};
use futures::future::{join_all, try_join_all};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{ACTIVE, open, place};

const READERS: usize = 500;
const STALLED: usize = 5;
/// The changes of all of them together are more than the system takes for a reader that stalls.
const ORDERS: usize = 60;

/// Places an order whose row takes all of its 8 KiB.
async fn place_large(producer: &Producer, order: &str) {
    let note = "x".repeat(500);
    let item = json!({"sku": "s", "name": "n", "unit_price": 1, "quantity": 1, "note": note});
    let large = json!({"currency": "EUR", "items": vec![item; 20]});
    producer.done(&format!("order.{order}.place"), large).await;
}

/// A reader that has read its snapshot and reads no more.
struct Stalled {
    socket: TcpStream,
    /// The bytes of the snapshot.
    id: String,
}

impl Stalled {
    async fn start(http: &HttpClient) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let host = http.base.strip_prefix("http://").expect("http");
        let mut socket = socket.connect(host.parse().unwrap()).await.expect("connected");
        let token = http.token.as_ref().expect("a token");
        let request = format!(
            "GET /v1/t1/{ACTIVE} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut text = Vec::new();
        loop {
            assert_ne!(socket.read_buf(&mut text).await.expect("read"), 0, "it goes on");
            let text = String::from_utf8_lossy(&text);
            let snapshot = text.split_once("event: snapshot\nid: ").map(|(_, rest)| rest);
            if let Some((id, _)) = snapshot.and_then(|rest| rest.split_once("\ndata: ")) {
                let id = id.to_owned();
                return Self { socket, id };
            }
        }
    }
}

/// Returns the value of a metric of an edge.
async fn metric(admin: &HttpClient, line: &str) -> u64 {
    let metrics = admin.text("/metrics").await;
    let value = metrics.lines().find_map(|found| found.strip_prefix(line));
    value.expect("a metric").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_readers_of_which_five_stall() {
    let mut fleet = TestFleet::start_without(WorkerName::Edge).await;
    fleet.settings.http.open = true;
    fleet.run(WorkerName::Edge).await;
    let (producer, trusted) = (fleet.producer().await, fleet.http_client().await);
    let staff = trusted.register_and_log_in("ada").await;
    producer.done("user.ada.change_roles", json!({"roles": ["staff"]})).await;
    let edge = Process::start(&fleet, &[WorkerName::Edge], None).await;
    let (http, admin) = (staff.at(edge.http()), staff.at(edge.admin()));
    place(&producer, "o").await;
    let (alone, _) = edge.memory();

    let opened = (0..READERS - STALLED).map(async |_| {
        let mut events = open(&http, None).await;
        events.next().await.expect("a snapshot");
        events
    });
    let opened = join_all(opened).await;
    let stalled = join_all((0..STALLED).map(|_| Stalled::start(&http))).await;
    assert_eq!(metric(&admin, "brigade_stream_readers").await, READERS as u64);
    assert_eq!(metric(&admin, "brigade_stream_hubs").await, 1, "one for all");
    let (together, _) = edge.memory();

    let order = |n: usize| format!("large{n}");
    let placing = async {
        for n in 0..ORDERS {
            place_large(&producer, &order(n)).await;
        }
    };
    let reading = opened.into_iter().map(|mut events| {
        tokio::spawn(async move {
            for n in 0..ORDERS {
                let (kind, data) = events.next_text().await.expect("it goes on");
                assert_eq!(kind, "change");
                let named = format!("\"order\":\"{}\"", order(n));
                assert!(data.contains(&named), "nobody misses anything");
            }
            events
        })
    });
    let (read, ()) = tokio::join!(try_join_all(reading), placing);
    let read = read.expect("all of them");
    until("the stalled ones to be cut off", async || {
        let cut = metric(&admin, "brigade_stream_ends_total{why=\"stalled\"}").await;
        (cut == STALLED as u64).then_some(())
    })
    .await;
    assert_eq!(metric(&admin, "brigade_stream_readers").await, (READERS - STALLED) as u64);
    let (after, most) = edge.memory();
    println!(
        "memory of an edge: {alone} KiB, with {READERS} readers {together} KiB, after {ORDERS} \
         changes of 8 kB each {after} KiB, at most {most} KiB"
    );
    // Each reader has a connection and a place, and shares what it is told with all others.
    assert!(most - alone < 100 * READERS as u64, "bounded by the number of readers");

    for Stalled { mut socket, id } in stalled {
        // What the system had already taken for it, and then no more.
        let mut rest = Vec::new();
        let broken = socket.read_to_end(&mut rest).await;
        assert!(broken.is_err(), "it was cut off");
        let mut events = http.stream(ACTIVE, Some(&id)).await.expect("a stream");
        let mut orders = StreamedOrders::default();
        while orders.changes < ORDERS {
            let event = events.next().await.expect("it goes on");
            orders.apply(&event, &events.id);
        }
        assert_eq!((orders.rows().len(), orders.resets, orders.snapshots), (ORDERS, 0, 0));
    }
    drop(read);
    edge.kill().await;
    fleet.finish().await;
}
