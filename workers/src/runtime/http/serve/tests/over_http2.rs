//! The same server over HTTP/2, by its preface.

use axum::http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::*;

type Client = SendRequest<Empty<Bytes>>;

/// Connects as a client that takes so many bytes of a response ahead. Returns the connection too.
async fn connect(server: &HttpServer, window: u32) -> (Client, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.address).await.expect("connected");
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(window);
    let (sender, connection) = client.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    (sender, tokio::spawn(connection))
}

async fn get(client: &mut Client, path: &str) -> hyper::Result<axum::http::Response<Incoming>> {
    let request = Request::get(format!("http://x{path}")).body(Empty::new()).expect("a request");
    client.ready().await?;
    client.send_request(request).await
}

#[tokio::test]
async fn requests_share_a_connection_up_to_a_number() {
    let (server, mut coming, release) = start(LIMITS);
    let (mut client, _connection) = connect(&server, 65_535).await;
    let quick = get(&mut client, "/quick").await.expect("answered");
    assert_eq!((quick.status(), quick.version()), (StatusCode::OK, Version::HTTP_2));
    let body = quick.into_body().collect().await.expect("whole").to_bytes();
    assert_eq!(body, "done");
    let held = (0..LIMITS.streams + 1).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { get(&mut client, "/held").await.map(|held| held.status()) })
    });
    let held: Vec<_> = held.collect();
    for _ in 0..LIMITS.streams {
        coming.recv().await.expect("it is in hand");
    }
    // Whoever else asks is answered, and the one too many has not come.
    let mut other = Peer::connect(&server).await;
    other.send(REQUEST).await;
    other.answer().await;
    assert!(coming.try_recv().is_err());
    release.cancel();
    for held in held {
        assert_eq!(held.await.expect("no panic").expect("answered"), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let (server, ..) = start(LIMITS);
    let (mut client, _connection) = connect(&server, 65_535).await;
    let request = Request::get("http://x/quick").header("x-long", "x".repeat(LIMITS.head + 1));
    client.ready().await.expect("connected");
    let sent = client.send_request(request.body(Empty::new()).expect("a request")).await;
    assert_eq!(
        sent.map(|response| response.status()).ok(),
        Some(StatusCode::from_u16(431).unwrap())
    );
    assert_eq!(get(&mut client, "/quick").await.expect("answered").status(), StatusCode::OK);
}

#[tokio::test]
async fn whoever_allows_no_more_of_a_response_is_cut_off() {
    let (server, ..) = start(ConnectionLimits { stalled_after: 300, ..LIMITS });
    let (mut client, connection) = connect(&server, 1024).await;
    let _unread = get(&mut client, "/large").await.expect("a head");
    let ended = timeout(LIMIT, connection).await.expect("in time").expect("no panic");
    assert!(ended.is_err() || client.is_closed());
    // Whoever reads is served as long as it takes.
    let (mut client, _connection) = connect(&server, 1024).await;
    let large = get(&mut client, "/large").await.expect("a head");
    assert_eq!(large.into_body().collect().await.expect("whole").to_bytes().len(), LARGE);
}

/// Returns a frame: its kind, its flags, its stream and its payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// CVE-2023-44487: requests that are taken back at once cost a client nothing.
#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let (server, ..) = start(LIMITS);
    let mut peer = Peer::connect(&server).await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    // GET http://x/ in static indices.
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
    for n in 0..2_000 {
        flood.extend(frame(1, 0x5, 2 * n + 1, &head));
        flood.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    // It may be cut off before it has sent everything.
    let _cut = peer.0.write_all(&flood).await;
    let rest = peer.rest().await;
    let goaway = rest.windows(5).any(|found| found[0] == 0x07 && found[1..] == [0; 4]);
    assert!(goaway, "{} bytes", rest.len());
    let (mut client, _connection) = connect(&server, 65_535).await;
    assert_eq!(get(&mut client, "/quick").await.expect("answered").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let (server, mut coming, release) = start(LIMITS);
    let (client, connection) = connect(&server, 65_535).await;
    let mut held = client.clone();
    let held = tokio::spawn(async move { get(&mut held, "/held").await.map(|held| held.status()) });
    coming.recv().await.expect("it is in hand");
    let stopped = tokio::spawn(server.stop());
    release.cancel();
    assert_eq!(held.await.expect("no panic").expect("answered"), StatusCode::OK);
    stopped.await.expect("it stops");
    drop(client);
    let _ended = timeout(LIMIT, connection).await.expect("in time");
}
