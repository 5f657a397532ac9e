use std::net::SocketAddr;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::pause,
};

use super::*;
use crate::{
    infra::Metrics,
    runtime::http::{ApiOptions, HttpServer, MountedRouter, RateLimits, serve_api},
    workers::edge::{
        admission::{AdmissionControl, RequestAdmission, UserAdmission},
        http::{
            commands::{BODY_TIMEOUT, BODY_TIMEOUT_IN_DRAIN, read_payload},
            rates::RateBuckets,
        },
    },
};

/// Ends a test that hangs. On a clock that stands it is over at once.
const LIMIT: Duration = Duration::from_secs(60);
const HELD: &str = "GET /v1/held HTTP/1.1\r\nHost: x\r\n\r\n";
const HALF_A_BODY: &str = "POST /v1/body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{ ";

/// A server of two routes behind the middleware, which admits so many requests at a time.
struct TestServer {
    serving: HttpServer,
    permits: AdmissionControl,
    /// Reports that a route was reached.
    coming: UnboundedReceiver<()>,
    /// Lets `/v1/held` be answered.
    release: CancellationToken,
    drain: CancellationToken,
    _mounted: MountedRouter,
}

impl TestServer {
    async fn start(permits: usize) -> Self {
        let (came, coming) = unbounded_channel();
        let release = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let permits_of_all = permits;
        let permits = AdmissionControl::new(permits);
        let drain = CancellationToken::new();
        // No token is confirmed here. One address may have a quarter.
        let in_flight = RequestAdmission {
            users: UserAdmission::within(&permits, permits_of_all, permits_of_all),
            tenants: permits.clone(),
            strangers: permits.clone(),
        };
        let rates = Arc::new(RateBuckets::new(RateLimits::default()));
        let known = Arc::default();
        let admission = HttpAdmission { in_flight, rates, known, metrics: metrics.group() };
        let context = RequestContext { admission, drain: drain.clone(), metrics: metrics.group() };
        let router = Router::new()
            .route("/v1/held", get(held))
            .route("/v1/body", post(body))
            .layer(from_fn_with_state(context, handle_request))
            .with_state(Reached { came, release: release.clone(), drain: drain.clone() });
        let options = ApiOptions::default();
        let mounted = options.mount.mount(router);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let serving = serve_api(any, None, &options).await.expect("a free port");
        Self { serving, permits, coming, release, drain, _mounted: mounted }
    }

    /// Opens a connection from an address of its own: `127.0.0.<last>`.
    async fn connect(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, last], 0).into()).expect("an address");
        socket.connect(self.serving.address).await.expect("connected")
    }

    /// Sends a request and waits until a route has it.
    async fn sent(&mut self, request: &str) -> TcpStream {
        self.sent_from(1, request).await
    }

    async fn sent_from(&mut self, last: u8, request: &str) -> TcpStream {
        let mut peer = self.connect(last).await;
        peer.write_all(request.as_bytes()).await.expect("sent");
        self.coming.recv().await.expect("it comes");
        peer
    }

    /// Waits until so many permits are free.
    async fn wait_until_free(&self, permits: usize) {
        timeout(LIMIT, self.permits.wait_until_free(permits)).await.expect("in time");
    }
}

#[derive(Clone)]
struct Reached {
    came: UnboundedSender<()>,
    release: CancellationToken,
    drain: CancellationToken,
}

async fn held(State(reached): State<Reached>) -> &'static str {
    reached.came.send(()).expect("the test waits");
    reached.release.cancelled().await;
    "{}"
}

async fn body(State(reached): State<Reached>, request: Request) -> Result<Bytes, Problem> {
    reached.came.send(()).expect("the test waits");
    let (head, body) = request.into_parts();
    Ok(read_payload(&head.headers, body, &reached.drain).await?)
}

/// Reads until the connection ends; returns the head in lower case, and the body.
async fn answer(mut peer: TcpStream) -> (String, Value) {
    let mut answer = String::new();
    let read = timeout(LIMIT, peer.read_to_string(&mut answer)).await;
    read.expect("in time").expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_ascii_lowercase(), serde_json::from_str(body).expect("JSON"))
}

/// Asserts a status, a code, and the shape of every error.
fn is_a_problem((head, body): &(String, Value), status: u16, code: &str) {
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{head}");
    assert_eq!((&body["status"], &body["code"]), (&status.into(), &code.into()), "{body}");
    let instance = body["instance"].as_str().expect("an instance");
    let id = instance.strip_prefix("urn:brigade:request:").expect("of a request");
    assert!(head.contains(&format!("\r\nx-request-id: {id}\r\n")), "{head}");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_answered_and_ends_the_connection() {
    let mut server = TestServer::start(1).await;
    let peer = server.sent(HALF_A_BODY).await;
    pause();
    let started = Instant::now();
    is_a_problem(&answer(peer).await, 408, "too_slow");
    let took = started.elapsed();
    assert!(took < BODY_TIMEOUT + Duration::from_secs(1), "{took:?}");
    assert!(took > BODY_TIMEOUT / 2, "{took:?}");
    server.wait_until_free(1).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_does_not_hold_up_a_drain() {
    let mut server = TestServer::start(1).await;
    let peer = server.sent(HALF_A_BODY).await;
    pause();
    let started = Instant::now();
    server.drain.cancel();
    server.wait_until_free(1).await;
    let took = started.elapsed();
    assert!(took < BODY_TIMEOUT_IN_DRAIN * 2, "{took:?}");
    assert!(took > BODY_TIMEOUT_IN_DRAIN / 2, "{took:?}");
    is_a_problem(&answer(peer).await, 408, "too_slow");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_and_gives_its_permit_back() {
    let mut server = TestServer::start(1).await;
    let peer = server.sent(HELD).await;
    pause();
    let started = Instant::now();
    server.wait_until_free(1).await;
    let took = started.elapsed();
    assert!(took < RESPONSE_TIMEOUT + Duration::from_secs(1), "{took:?}");
    assert!(took > RESPONSE_TIMEOUT / 2, "{took:?}");
    // It is kept for the next request, which does not come.
    is_a_problem(&answer(peer).await, 504, "too_slow");
}

#[tokio::test]
async fn whoever_goes_away_unseen_gives_its_permit_back_when_the_time_is_over() {
    let mut server = TestServer::start(1).await;
    // Nobody reads behind the next request as long as this one is in hand.
    let peer = server.sent(&HELD.repeat(2)).await;
    drop(peer);
    pause();
    server.wait_until_free(1).await;
}

#[tokio::test]
async fn one_request_too_many_is_told_to_come_again() {
    let mut server = TestServer::start(2).await;
    let first = server.sent(HELD).await;
    let second = server.sent_from(2, HALF_A_BODY).await;
    let one_more = async || {
        let mut peer = server.connect(3).await;
        let request = HELD.replace("Host", "Connection: close\r\nHost");
        peer.write_all(request.as_bytes()).await.expect("sent");
        answer(peer).await
    };
    let busy = one_more().await;
    is_a_problem(&busy, 503, "busy");
    assert!(busy.0.contains("\r\nretry-after: 1\r\n"), "{}", busy.0);
    assert_eq!(busy.1["retry_after_ms"], 500);
    server.release.cancel();
    server.wait_until_free(1).await;
    let (head, _) = one_more().await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    // Until here nobody went away.
    drop((first, second));
}

#[tokio::test]
async fn whoever_goes_away_in_the_middle_gives_its_permit_back() {
    let mut server = TestServer::start(1).await;
    for request in [HELD, HALF_A_BODY, HELD] {
        let peer = server.sent(request).await;
        assert!(!server.permits.has_capacity());
        drop(peer);
        let started = Instant::now();
        server.wait_until_free(1).await;
        assert!(started.elapsed() < BODY_TIMEOUT, "no limit of time has to do it");
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), value.parse().expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn a_number_is_taken_over_if_it_is_one() {
    assert_eq!(request_id(&headers(&[("x-request-id", "r-1")])), "r-1");
    assert_eq!(request_id(&headers(&[("request-id", "r-2")])), "r-2");
    for bad in ["", "a b", "<script>", &"r".repeat(65)] {
        assert!(Uuid::parse_str(&request_id(&headers(&[("x-request-id", bad)]))).is_ok());
    }
}

#[test]
fn a_trace_goes_on_or_begins() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(traceparent(&headers(&[("traceparent", trace)])), trace);
    let made = [None, Some("00-x")].map(|bad| {
        let given: Vec<_> = bad.into_iter().map(|bad| ("traceparent", bad)).collect();
        traceparent(&headers(&given))
    });
    assert!(made.iter().all(|made| is_traceparent(made)));
    assert_ne!(made[0], made[1]);
}
