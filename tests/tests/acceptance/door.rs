//! The door to the internet: silent and slow clients, floods of one user, proxies, rates.

use std::net::{IpAddr, SocketAddr};

use brigade_tests::{HttpClient, HttpResponse, TestFleet, until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Duration, interval},
};

/// Starts a fleet with a user who is staff, and returns his client.
async fn with_staff(fleet: &TestFleet) -> (HttpClient, HttpClient) {
    let http = fleet.http_client().await;
    let sam = http.register_and_log_in("sam").await;
    let producer = fleet.producer().await;
    producer.done("user.sam.change_roles", json!({"roles": ["staff"]})).await;
    (http, sam)
}

fn address_of(http: &HttpClient) -> SocketAddr {
    http.base.strip_prefix("http://").expect("http").parse().expect("an address")
}

/// Connects from an address of this machine.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address");
    socket.connect(to).await.expect("connected")
}

fn placed() -> Value {
    brigade_tests::producer::placed(&[("Soup", 500, 1)])
}

/// More connections than an address has, and others that send their heads byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_11_silent_and_slow_connections_leave_staff_and_probes_served() {
    const OF_ADDRESS: usize = 2048;
    const SLOW: u8 = 100;
    let fleet = TestFleet::start().await;
    let (http, sam) = with_staff(&fleet).await;
    let admin = http.at(fleet.admin_url().await);
    let to = address_of(&http);
    let mut events = sam.stream("active-orders/stream", None).await.expect("a stream");
    events.next().await.expect("a snapshot");
    let slow = (0..SLOW).map(|n| {
        tokio::spawn(async move {
            let mut socket = connect_from([127, 0, 1, n + 1], to).await;
            let mut pace = interval(Duration::from_millis(200));
            // Until it is cut off.
            while socket.write_all(b"G").await.is_ok() {
                pace.tick().await;
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut silent = Vec::with_capacity(OF_ADDRESS);
    for _ in 0..OF_ADDRESS {
        silent.push(connect_from([127, 0, 0, 2], to).await);
    }
    let mut closed = 0;
    while closed < 20 {
        let mut socket = connect_from([127, 0, 0, 2], to).await;
        let end = socket.read(&mut [0]).await.unwrap_or(0);
        assert_eq!(end, 0, "nothing is sent");
        closed += 1;
    }
    // Meanwhile the kitchen sees what is placed, a guest is served, and so is the probe.
    for n in 0..3 {
        let order = sam.post(&format!("order/o{n}/place"), &placed()).await;
        assert_eq!(order.status, 201, "{}", order.body());
        let event = events.next().await.expect("it goes on");
        assert_eq!(event.data["order"], format!("o{n}"), "{event:?}");
        assert!(admin.text("/livez").await.contains("edge: alive"));
        assert_eq!(http.get("cart/none", &[]).await.status, 401);
    }
    // Whoever says nothing or too little for 5 s has to go.
    for mut socket in silent {
        assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
    }
    for slow in slow {
        slow.await.expect("no panic");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s7_11_the_streams_of_one_user_leave_staffs_alone() {
    let fleet = TestFleet::start().await;
    let (http, sam) = with_staff(&fleet).await;
    let ada = http.register_and_log_in("ada").await;
    let open = json!({"kind": "menu", "owner": "ada", "currency": "EUR"});
    assert_eq!(ada.post("cart/c1/open", &open).await.status, 201);
    let opened = join_all((0..100).map(|_| ada.stream("cart/c1/stream", None))).await;
    let refused: Vec<HttpResponse> =
        opened.iter().filter_map(|s| s.as_ref().err().cloned()).collect();
    assert_eq!(opened.len() - refused.len(), 8);
    for refused in &refused {
        assert_eq!((refused.status, refused.code().as_str()), (429, "too_many"));
        assert_ne!(refused.header("retry-after"), "");
    }
    let mut events = sam.stream("active-orders/stream", None).await.expect("staff has room");
    events.next().await.expect("a snapshot");
    assert_eq!(ada.get("cart/c1", &[]).await.status, 200, "a query is no stream");
    // A stream that ends makes room.
    drop(opened);
    until("a place", || async { ada.stream("cart/c1/stream", None).await.ok().map(drop) }).await;
    fleet.finish().await;
}

async fn sources(fleet: &TestFleet) -> Vec<String> {
    let sql = "select distinct host(source::inet) from brigade.security_log
               where kind = 'login_failed' order by 1";
    sqlx::query_scalar(sql).fetch_all(&fleet.sql).await.expect("rows")
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_known_by_its_own_address() {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.trusted_proxies = "127.0.0.1".parse().expect("an address");
    fleet.run_all().await;
    let http = fleet.http_client().await;
    let _ada = http.register_and_log_in("ada").await;
    let wrong = json!({"email": "ada@example.org", "password": "Tr0ub4dor-and-3"});
    let log_in = async |http: &HttpClient, header: &str, value: &str| {
        let request = http.request(reqwest::Method::POST, "user/ada/login");
        let key = uuid::Uuid::now_v7().to_string();
        let request = request.header("Idempotency-Key", key).header(header, value);
        assert_eq!(http.send(request.json(&wrong)).await.status, 401);
    };
    log_in(&http, "X-Forwarded-For", "198.51.100.9, 203.0.113.1").await;
    log_in(&http, "Forwarded", "for=198.51.100.9, for=\"[2001:db8::7]:443\"").await;
    log_in(&http, "X-Forwarded-For", "not-an-address").await;
    // Nobody else is believed.
    let stranger = http.from(IpAddr::from([127, 0, 0, 2]));
    log_in(&stranger, "X-Forwarded-For", "203.0.113.2").await;
    assert_eq!(sources(&fleet).await, ["127.0.0.1", "127.0.0.2", "2001:db8::7", "203.0.113.1"]);
    fleet.finish().await;
}

/// A client behind a trusted proxy, from an address that is limited.
async fn from_the_restaurant(http: &HttpClient, path: &str) -> HttpResponse {
    http.get(path, &[("X-Forwarded-For", "203.0.113.7")]).await
}

/// The guests of a restaurant share its address.
#[tokio::test]
async fn s7_11_strangers_at_his_address_use_up_nothing_of_whoever_is_logged_in() {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.trusted_proxies = "127.0.0.1".parse().expect("an address");
    fleet.settings.http.rates = "off".parse().expect("rates");
    fleet.settings.http.rates.address = brigade::runtime::http::Rate::new(1, 10);
    fleet.run_all().await;
    let http = fleet.http_client().await;
    let (ada, bob) = (http.register_and_log_in("ada").await, http.register_and_log_in("bob").await);
    let flood = async |who: &HttpClient, path: &str| {
        until("an empty bucket", || async {
            let answer = from_the_restaurant(who, path).await;
            (answer.code() == "rate_limited").then_some(())
        })
        .await;
    };
    flood(&http, "products").await;
    assert_eq!(from_the_restaurant(&ada, "user/ada").await.status, 200);
    // Wrong tokens end as well, and those that this edge has issued go on.
    let wrong = http.with_token(&format!("eve.{}", "x".repeat(43)));
    flood(&wrong, "user/ada").await;
    for _ in 0..30 {
        assert_eq!(from_the_restaurant(&ada, "user/ada").await.status, 200);
        assert_eq!(from_the_restaurant(&bob, "user/bob").await.status, 200);
    }
    // A token that is none any more is bounded like a wrong one.
    assert_eq!(ada.post("user/ada/logout", &json!({})).await.status, 200);
    flood(&ada, "user/ada").await;
    fleet.finish().await;
}

/// Reads the answer to a request: its head, and as much of a body as that says.
async fn answer(socket: &mut TcpStream) -> String {
    let (mut read, mut whole) = (Vec::new(), usize::MAX);
    while read.len() < whole {
        assert_ne!(socket.read_buf(&mut read).await.expect("an answer"), 0, "it goes on");
        let text = String::from_utf8_lossy(&read).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length = length.split("\r\n").next().unwrap_or_default();
        whole = head.len() + 4 + length.parse::<usize>().expect("a number");
    }
    String::from_utf8_lossy(&read).to_lowercase()
}

/// As a login that is refused for its rate, it is answered before its body comes.
#[tokio::test]
async fn a_login_that_is_refused_before_its_body_costs_no_connection_or_says_so() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let head = "POST /v1/t1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                Content-Length: 4\r\n\r\n";
    let metrics = fleet.edge_metrics();
    let refused =
        || metrics.http_requests.with_label_values(&["/v1/{tenant}/sessions", "415"]).get();
    let connect = async || TcpStream::connect(address_of(&http)).await.expect("connected");
    let mut socket = connect().await;
    for before in 0..20 {
        socket.write_all(head.as_bytes()).await.expect("sent");
        until("the refusal", || async { (refused() > before).then_some(()) }).await;
        socket.write_all(b"none").await.expect("sent");
        let answer = answer(&mut socket).await;
        assert!(answer.starts_with("http/1.1 415"), "{answer}");
        if answer.contains("connection: close") {
            socket = connect().await;
        }
    }
    fleet.finish().await;
}

#[tokio::test]
async fn a_user_has_his_rate_and_is_told_what_is_left() {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.rates = "off".parse().expect("rates");
    fleet.settings.http.rates.user = brigade::runtime::http::Rate::new(1, 3);
    fleet.run_all().await;
    let http = fleet.http_client().await;
    let (ada, bob) = (http.register_and_log_in("ada").await, http.register_and_log_in("bob").await);
    let known = ada.get("user/ada", &[]).await;
    assert_eq!((known.status, known.header("ratelimit-policy")), (200, "\"user\";q=3;w=3"));
    assert_eq!(known.header("ratelimit"), "\"user\";r=2;t=1");
    let refused = until("an empty bucket", || async {
        let answer = ada.get("user/ada", &[]).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("rate_limited", "1"));
    assert!(refused.header("ratelimit").starts_with("\"user\";r=0;t=1"));
    assert_eq!(bob.get("user/bob", &[]).await.status, 200);
    // Whoever waits as told goes on.
    until("a place", || async { (ada.get("user/ada", &[]).await.status == 200).then_some(()) })
        .await;
    fleet.finish().await;
}
