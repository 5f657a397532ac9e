use std::{
    pin::Pin,
    task::{Context, Poll},
};

use brigade_contracts::WorkerName;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{sleep, timeout},
};

use super::{
    super::handshake::{HANDSHAKE_TIMEOUT, Transport},
    *,
};
use crate::infra::{Metrics, NatsOptions};

fn credentials(url: &str) -> NatsCredentials {
    NatsCredentials::parse(url, "edge", &NatsOptions::default()).expect("a URL")
}

/// A connection whose other end is the test.
fn connection() -> (Connection, watch::Receiver<u64>) {
    let (count, counted) = watch::channel(0);
    let credentials = credentials("nats://edge:e@127.0.0.1:1");
    let health = Health::new(WorkerName::Edge);
    let errors = ServerErrors::new(&health, &Metrics::new(), "edge");
    let kind = IntakeKind::Requests;
    let connection = Connection::new(kind, Arc::new(credentials), health, errors, count);
    (connection, counted)
}

fn accepted(stream: impl Transport + 'static) -> Accepted {
    Accepted { stream: Box::new(stream), buffer: BytesMut::new(), others: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let (mut connection, _counted) = connection();
    let (near, mut far) = tokio::io::duplex(1024);
    let (_actions, mut received) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let error = connection.serve(accepted(near), &mut received).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    assert_eq!(begun.elapsed(), 3 * PING_EVERY);
    let mut sent = Vec::new();
    drop(connection);
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, b"PING\r\nPING\r\n");
}

/// A transport that never says that what was written has left, as TLS does over a full one.
struct Unflushed(tokio::io::DuplexStream);

impl AsyncRead for Unflushed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unflushed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_is_given_up() {
    let (mut connection, _counted) = connection();
    let (near, _far) = tokio::io::duplex(1024);
    let (_actions, mut received) = mpsc::unbounded_channel();
    let served = connection.serve(accepted(Unflushed(near)), &mut received);
    let error = timeout(4 * PING_EVERY, served).await.expect("in time").unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_tls_before_it_speaks_is_told_from_one_that_is_silent() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    for (scheme, why) in [("tls", "handshake_first"), ("nats", "no answer")] {
        let credentials = credentials(&format!("{scheme}://edge:e@{address}"));
        let health = Health::new(WorkerName::Edge);
        let servers = credentials.servers.clone();
        let connecting =
            connect(IntakeKind::Requests, Arc::new(credentials), servers, health.clone());
        assert!(timeout(HANDSHAKE_TIMEOUT * 2, connecting).await.is_err());
        assert!(health.ready().unwrap_err().contains(why), "{:?}", health.ready());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_is_kept_though_nobody_takes_the_messages() {
    let (mut connection, _counted) = connection();
    let (near, mut far) = tokio::io::duplex(1024);
    let (actions, mut received) = mpsc::unbounded_channel();
    let (sender, mut messages) = mpsc::channel(1);
    let (confirm, _) = oneshot::channel();
    let subject = "q".to_owned();
    actions.send(IntakeAction::Subscribe { sid: 1, subject, sender, confirm }).ok();
    let task = tokio::spawn(async move {
        connection.serve(accepted(near), &mut received).await.map_err(|error| error.to_string())
    });
    for _ in 0..3 {
        far.write_all(b"MSG q 1 0\r\n\r\n").await.unwrap();
        sleep(PING_EVERY / 2).await;
    }
    sleep(10 * PING_EVERY).await;
    assert!(!task.is_finished(), "what is not read is no silence");
    assert_eq!(messages.recv().await.map(|received| received.len()), Some(1));
    drop((messages, actions));
    assert_eq!(task.await.unwrap(), Ok(()));
}
