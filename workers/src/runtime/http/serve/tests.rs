use std::convert::Infallible;

use axum::{
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use futures::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, interval, pause, resume},
};

use super::*;

/// Ends a test that hangs. On a clock that stands it is over at once.
const LIMIT: Duration = Duration::from_secs(20);
/// None of them is what holds without it.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: 100,
    of_network: 100,
    streams: 3,
    head: 8192,
    headers: 8,
    first_head_within: Duration::from_secs(6),
    head_within: Duration::from_secs(15),
    stalled_after: 10_000,
    send_buffer: 4096,
};
const REQUEST: &str = "GET /quick HTTP/1.1\r\nHost: x\r\n\r\n";
/// The size of `/large`: far more than fits between two sockets.
const LARGE: usize = 256 * 1024;

/// Starts a server. Returns it, a channel that reports requests for `/held`, and a token that lets
/// them be answered.
fn start(limits: ConnectionLimits) -> (HttpServer, UnboundedReceiver<()>, CancellationToken) {
    start_with(limits, None)
}

fn start_with(
    limits: ConnectionLimits,
    tls: Option<HttpTls>,
) -> (HttpServer, UnboundedReceiver<()>, CancellationToken) {
    let (came, coming) = unbounded_channel();
    let release = CancellationToken::new();
    let released = release.clone();
    let held = async move || {
        came.send(()).expect("the test waits");
        released.cancelled().await;
        "done"
    };
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 8192])));
    let router = Router::new()
        .route("/quick", get(async || "done"))
        .route("/refused", post(async || "done"))
        .route("/held", get(held))
        .route("/large", get(async || vec![0; LARGE]))
        .route("/endless", get(async || Body::from_stream(endless)));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = Served { router, tls, proxies: TrustedProxies::default() };
    (HttpServer::start(any, limits, served).expect("a free port"), coming, release)
}

/// The other end of a connection.
struct Peer(TcpStream);

impl Peer {
    async fn connect(server: &HttpServer) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // So that little is on its way.
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        Self(socket.connect(server.address).await.expect("connected"))
    }

    async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.expect("sent");
    }

    /// Reads the head and the body of a response.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"done") {
            let read = timeout(LIMIT, self.0.read_buf(&mut answer)).await;
            assert_ne!(read.expect("in time").expect("connected"), 0, "it goes on");
        }
        String::from_utf8(answer).expect("text")
    }

    /// Reads until the connection ends.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset, where the server has not read everything, is an end too.
        let _end = timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("in time");
        rest
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_whole_in_time_ends_the_connection() {
    let (server, ..) = start(LIMITS);
    for (first, then) in [("", ""), ("", "GET /quick HT"), (REQUEST, ""), (REQUEST, "GET /quick")] {
        let mut peer = Peer::connect(&server).await;
        peer.send(first).await;
        if !first.is_empty() {
            peer.answer().await;
        }
        peer.send(then).await;
        pause();
        let started = Instant::now();
        assert_eq!(peer.rest().await, b"", "{first:?} {then:?}");
        let took = started.elapsed();
        resume();
        let within = if first.is_empty() { LIMITS.first_head_within } else { LIMITS.head_within };
        assert!(took < within + Duration::from_secs(1), "{took:?}");
        assert!(took > within - Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_has_no_more_time() {
    let (server, ..) = start(LIMITS);
    let Peer(socket) = Peer::connect(&server).await;
    let (mut answer, mut sent) = socket.into_split();
    let started = Instant::now();
    let drip = async {
        let mut second = interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            // Fails once the connection has ended, which the other half tells.
            let _ended = sent.write_all(b"G").await;
        }
    };
    let mut byte = [0];
    tokio::select! {
        () = drip => {}
        end = timeout(LIMIT, answer.read(&mut byte)) => {
            // A reset, where a byte came when nobody read any more.
            assert_eq!(end.expect("in time").unwrap_or(0), 0);
        }
    }
    let took = started.elapsed();
    assert!(took < LIMITS.first_head_within + Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends() {
    let (server, mut coming, release) = start(ConnectionLimits { connections: 2, ..LIMITS });
    let mut peers = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::connect(&server).await;
        peer.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
        coming.recv().await.expect("it is in hand");
        peers.push(peer);
    }
    let mut third = Peer::connect(&server).await;
    third.send(REQUEST).await;
    pause();
    let early = timeout(Duration::from_secs(1), third.0.readable()).await;
    early.expect_err("it waits");
    resume();
    drop(peers.pop());
    third.answer().await;
    release.cancel();
    peers[0].answer().await;
}

#[tokio::test]
async fn s7_11_the_connection_that_is_idle_for_the_longest_time_makes_room() {
    let (server, mut coming, release) = start(ConnectionLimits { connections: 3, ..LIMITS });
    let mut busy = Peer::connect(&server).await;
    busy.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    coming.recv().await.expect("it is in hand");
    // One says nothing, one has been answered.
    let mut silent = Peer::connect(&server).await;
    let mut idle = Peer::connect(&server).await;
    idle.send(REQUEST).await;
    idle.answer().await;
    for closed in [&mut silent, &mut idle] {
        let mut next = Peer::connect(&server).await;
        next.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
        coming.recv().await.expect("it has a place");
        assert_eq!(closed.rest().await, b"");
        // It keeps its place.
        std::mem::forget(next);
    }
    release.cancel();
    busy.answer().await;
}

/// Elsewhere than on Linux a machine has one loopback address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_has_its_share_of_the_connections_and_leaves_the_rest() {
    let (server, ..) = start(ConnectionLimits { connections: 4, of_network: 2, ..LIMITS });
    let from = |host: u8| {
        let address = server.address;
        async move {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("an address");
            Peer(socket.connect(address).await.expect("connected"))
        }
    };
    let mut flood = Vec::new();
    for _ in 0..2 {
        let mut peer = from(2).await;
        peer.send(REQUEST).await;
        peer.answer().await;
        flood.push(peer);
    }
    for _ in 0..20 {
        assert_eq!(from(2).await.rest().await, b"", "it is closed at once");
    }
    // Those that were closed have no place, whoever comes from elsewhere has one.
    let mut other = from(3).await;
    other.send(REQUEST).await;
    other.answer().await;
    drop(flood.pop());
    drop(other);
    for host in [1, 1, 1] {
        let mut local = from(host).await;
        local.send(REQUEST).await;
        local.answer().await;
        flood.push(local);
    }
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused_and_ends_the_connection() {
    let (server, ..) = start(LIMITS);
    let of = |bytes: usize, headers: usize| {
        let rest = "X: x\r\n".repeat(headers - 1);
        let fixed = "GET /quick HTTP/1.1\r\nX-Long: \r\n\r\n".len() + rest.len();
        format!("GET /quick HTTP/1.1\r\nX-Long: {}\r\n{rest}\r\n", "x".repeat(bytes - fixed))
    };
    for (bytes, headers) in [(LIMITS.head, 1), (200, LIMITS.headers), (LIMITS.head, LIMITS.headers)]
    {
        let mut peer = Peer::connect(&server).await;
        let fits = of(bytes, headers);
        assert_eq!(fits.len(), bytes);
        for _ in 0..3 {
            peer.send(&fits).await;
            assert!(peer.answer().await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }
    for (bytes, headers) in [(LIMITS.head + 1, 1), (65_536, 1), (200, LIMITS.headers + 1)] {
        for requests_before in [0, 1] {
            let mut peer = Peer::connect(&server).await;
            for _ in 0..requests_before {
                peer.send(REQUEST).await;
                peer.answer().await;
            }
            // A server that has refused does not read the rest.
            let _refused_early = peer.0.write_all(of(bytes, headers).as_bytes()).await;
            let rest = String::from_utf8(peer.rest().await).expect("text");
            let is_refused = rest.starts_with("HTTP/1.1 431 ");
            assert!(is_refused, "{bytes} bytes, {headers} headers: {rest:?}");
        }
    }
}

#[cfg(target_os = "linux")]
/// A request that is refused before its body is read, as for its rate, costs no connection.
#[tokio::test]
async fn a_connection_goes_on_after_a_body_that_nobody_reads() {
    let (server, ..) = start(LIMITS);
    let mut peer = Peer::connect(&server).await;
    for (head, body) in [
        ("Content-Length: 5", "hello"),
        ("Content-Length: 0", ""),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        peer.send(&format!("POST /refused HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n")).await;
        peer.send(body).await;
        let answer = peer.answer().await.to_lowercase();
        assert!(!answer.contains("connection: close"), "{head}: {answer}");
        peer.send(REQUEST).await;
        peer.answer().await;
    }
}

#[tokio::test]
async fn a_response_says_that_the_connection_ends_where_the_body_does_not_come() {
    let (server, ..) = start(LIMITS);
    for head in [
        "Content-Length: 5",
        "Content-Length: 70000",
        "Content-Length: 5\r\nExpect: 100-continue",
        "Transfer-Encoding: chunked",
    ] {
        let mut peer = Peer::connect(&server).await;
        peer.send(&format!("POST /refused HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n")).await;
        let answer = peer.answer().await.to_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{head}: {answer}");
        assert!(answer.contains("connection: close"), "{head}: {answer}");
        assert_eq!(peer.rest().await, b"", "{head}");
    }
}

#[tokio::test]
async fn whoever_reads_nothing_is_cut_off_and_gives_its_permit_back() {
    let (server, ..) = start(ConnectionLimits { connections: 1, stalled_after: 300, ..LIMITS });
    let mut stalled = Peer::connect(&server).await;
    stalled.send("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    stalled.0.readable().await.expect("an answer");
    let mut next = Peer::connect(&server).await;
    next.send(REQUEST).await;
    next.answer().await;
    let mut rest = Vec::new();
    let cut = timeout(LIMIT, stalled.0.read_to_end(&mut rest));
    cut.await.expect("in time").expect_err("it broke off");
}

/// Reads for several times as long as somebody may take who reads nothing.
#[tokio::test]
async fn whoever_reads_slowly_is_not_cut_off() {
    let stalled_after = 2000;
    let (server, ..) = start(ConnectionLimits { stalled_after, ..LIMITS });
    let mut slow = Peer::connect(&server).await;
    slow.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let started = Instant::now();
    let mut pace = interval(Duration::from_millis(25));
    let mut answer = Vec::new();
    let mut some = [0; 1024];
    loop {
        pace.tick().await;
        match slow.0.read(&mut some).await.expect("it is not cut off") {
            0 => break,
            read => answer.extend_from_slice(&some[..read]),
        }
    }
    assert!(answer.len() > LARGE && answer.ends_with(&[0; 1024]), "{}", answer.len());
    let took = started.elapsed();
    assert!(took > 3 * Duration::from_millis(stalled_after.into()), "{took:?}");
}

#[tokio::test]
async fn a_drain_ends_what_is_idle_and_answers_what_is_in_hand() {
    let (server, mut coming, release) = start(LIMITS);
    let mut idle = Peer::connect(&server).await;
    idle.send(REQUEST).await;
    idle.answer().await;
    let mut silent = Peer::connect(&server).await;
    let mut busy = Peer::connect(&server).await;
    busy.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    coming.recv().await.expect("it is in hand");
    let address = server.address;
    pause();
    let stopped = tokio::spawn(server.stop());
    assert_eq!(idle.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
    TcpStream::connect(address).await.expect_err("nobody listens");
    assert!(!stopped.is_finished());
    release.cancel();
    let answer = busy.answer().await;
    assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(busy.rest().await, b"");
    let started = Instant::now();
    stopped.await.expect("it stops");
    assert!(started.elapsed() < END_TIMEOUT, "at once");
}

#[tokio::test]
async fn a_drain_cuts_off_what_does_not_end() {
    let (server, mut coming, _release) = start(LIMITS);
    let mut half = Peer::connect(&server).await;
    half.send("GET /qu").await;
    let mut held = Peer::connect(&server).await;
    held.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    coming.recv().await.expect("it is in hand");
    pause();
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() >= END_TIMEOUT, "{:?}", started.elapsed());
    assert_eq!(half.rest().await, b"");
    assert_eq!(held.rest().await, b"");
    assert!(started.elapsed() < END_TIMEOUT * 2, "{:?}", started.elapsed());
}

mod over_http2;
mod over_tls;
