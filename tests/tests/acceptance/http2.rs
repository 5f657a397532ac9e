//! HTTP/2: what is sent and asked and followed at once takes one connection.

use std::net::SocketAddr;

use brigade_tests::producer::item;
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, Version,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::http::{open_fleet, team_cart};

/// A connection, and where it leads.
#[derive(Clone)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.expect("HTTP/2");
        tokio::spawn(connection);
        Self { sender, address }
    }

    async fn get(&self, path: &str) -> Response<Incoming> {
        self.send("GET", path, Bytes::new()).await
    }

    async fn post(&self, path: &str, payload: &Value) -> Response<Incoming> {
        self.send("POST", path, payload.to_string().into()).await
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/v1/t1/{path}", self.address))
            .header("idempotency-key", uuid::Uuid::now_v7().to_string())
            .body(Full::new(body))
            .expect("a request");
        let response = self.sender.clone().send_request(request).await.expect("answered");
        assert_eq!(response.version(), Version::HTTP_2);
        assert!(!response.headers().contains_key("connection"));
        response
    }
}

async fn body(response: Response<Incoming>) -> Value {
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Reads a stream of events until one of a kind has come.
async fn until_event(events: &mut Incoming, kind: &str) {
    let mut text = String::new();
    while !text.contains(&format!("event: {kind}\n")) {
        let frame = events.frame().await.expect("it goes on").expect("connected");
        let data = frame.into_data().expect("data");
        text.push_str(std::str::from_utf8(&data).expect("UTF-8"));
    }
}

#[tokio::test]
async fn commands_queries_and_a_stream_share_a_connection() {
    let (fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let address = http.base.strip_prefix("http://").expect("http").parse().expect("an address");
    let connection = Connection::open(address).await;
    let mut events = connection.get("cart/c1/stream").await.into_body();
    until_event(&mut events, "snapshot").await;
    let added = join_all((0..8).map(|n| {
        let (connection, item) = (connection.clone(), item(&format!("i{n}"), 100, 1));
        async move { connection.post("cart/c1/add_item", &item).await }
    }));
    for added in added.await {
        assert_eq!(added.status(), StatusCode::OK, "{}", body(added).await);
    }
    until_event(&mut events, "change").await;
    let views = join_all((0..20).map(|_| connection.get("cart/c1"))).await;
    for view in views {
        assert_eq!(view.status(), StatusCode::OK);
        assert_eq!(body(view).await["core"]["total"], json!(800));
    }
    let refused = connection.post("cart/c1/add_item", &item("i1", 1, 1)).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert_eq!(body(refused).await["type"], "/v1/errors/item_exists");
    fleet.finish().await;
}
