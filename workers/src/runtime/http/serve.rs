//! Serves a router over HTTP/1.1, with bounds on everything that a stranger may send before a
//! handler sees it.

use std::{future::pending, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::ServiceExt;

use super::{network::NetworkConnections, tls::HttpTls};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// The time that a connection has to end after the drain.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after a connection could not be accepted, for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The bounds on what strangers may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// Connections at a time, those in the handshake of TLS included; more wait until one ends.
    /// About 10 KiB each, with TLS some 40.
    connections: usize,
    /// Connections of one network at a time; more are closed at once. The machine itself has no
    /// such limit.
    of_network: usize,
    /// Bytes of a request's first line and headers; more is `431`.
    head: usize,
    /// Headers of a request; more is `431`.
    headers: usize,
    /// A connection whose first head does not come whole within this time is closed. The handshake
    /// of TLS is part of it.
    first_head_within: Duration,
    /// A connection whose next head does not come whole within this time is closed.
    head_within: Duration,
    /// A connection whose other end takes nothing for so many milliseconds, though there is
    /// something for it, is closed: one that is gone without a word, or that reads no more.
    /// Elsewhere than on Linux the system decides when.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    stalled_after: u32,
    /// The most bytes that the system keeps for the other end of a connection; Linux doubles it.
    send_buffer: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            of_network: 8192 / 4,
            // Four times the size of a command's headers.
            head: 16 * 1024,
            headers: 100,
            first_head_within: Duration::from_secs(5),
            head_within: Duration::from_secs(30),
            stalled_after: 10_000,
            // The system's own grows to 4 MiB.
            send_buffer: 128 * 1024,
        }
    }
}

/// A server that runs until it is stopped or dropped.
pub struct HttpServer {
    /// The address that it listens on.
    pub address: SocketAddr,
    drain: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl HttpServer {
    /// Listens on `address` (port 0: any free one) and serves, with TLS if there is any.
    ///
    /// # Errors
    /// If the address is taken.
    pub(super) fn start(
        address: SocketAddr,
        limits: ConnectionLimits,
        tls: Option<HttpTls>,
        router: Router,
    ) -> io::Result<Self> {
        let listener = listen(address, limits)?;
        let address = listener.local_addr()?;
        let drain = CancellationToken::new();
        let task = tokio::spawn(accept(listener, limits, tls, router, drain.clone()));
        Ok(Self { address, drain, task: AbortOnDropHandle::new(task) })
    }

    /// Accepts no more connections, and waits until those that are there have ended: idle ones at
    /// once, the others after the response that they wait for. A connection that has not ended
    /// after 500 ms is cut off.
    pub async fn stop(self) {
        self.drain.cancel();
        let _late = timeout(END_TIMEOUT, self.task).await;
    }
}

fn listen(address: SocketAddr, limits: ConnectionLimits) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A process that is started again finds its address, though old connections linger on it.
    socket.set_reuseaddr(true)?;
    // Connections have these from here.
    socket.set_send_buffer_size(limits.send_buffer)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&socket, limits.stalled_after)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    limits: ConnectionLimits,
    tls: Option<HttpTls>,
    router: Router,
    drain: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_headers(limits.headers)
        .max_buf_size(limits.head);
    let graceful = GracefulShutdown::new();
    // Nothing that is served outlives this, however it ends.
    let end = CancellationToken::new();
    let _with_this = end.clone().drop_guard();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let networks = NetworkConnections::default();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Whoever has enough leaves the place to the next one.
                let Some(of_network) = networks.add(peer.ip(), limits.of_network) else { continue };
                let asked = CancellationToken::new();
                let tls = tls.as_ref().map(HttpTls::acceptor);
                let service =
                    ConnectionService { peer, router: router.clone(), asked: asked.clone() };
                let (http, watcher) = (http.clone(), graceful.watcher());
                let (drain, end) = (drain.clone(), end.clone());
                tokio::spawn(async move {
                    let connection = service.serve(&http, stream, tls, watcher, &drain);
                    tokio::select! {
                        ended = end.run_until_cancelled(connection) => {
                            if let Some(Err(error)) = ended {
                                tracing::debug!(%error, "a connection broke");
                            }
                        }
                        () = asks_nothing(&asked, limits.first_head_within) => {}
                    }
                    drop((permit, of_network));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Ends when nothing was asked within a time, and never if something was.
async fn asks_nothing(asked: &CancellationToken, within: Duration) {
    if timeout(within, asked.cancelled()).await.is_ok() {
        pending::<()>().await;
    }
}

/// The service of one connection.
struct ConnectionService {
    peer: SocketAddr,
    router: Router,
    /// Cancelled when the first head has come.
    asked: CancellationToken,
}

impl ConnectionService {
    /// Serves a connection, after the handshake of TLS if there is one. A drain ends the handshake.
    async fn serve(
        self,
        http: &http1::Builder,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        watcher: Watcher,
        drain: &CancellationToken,
    ) -> Result<(), BoxError> {
        let _slower_at_worst = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve_http(http, stream, watcher).await;
        };
        match drain.run_until_cancelled(tls.accept(stream)).await {
            Some(stream) => self.serve_http(http, stream?, watcher).await,
            None => Ok(()),
        }
    }

    async fn serve_http(
        self,
        http: &http1::Builder,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        watcher: Watcher,
    ) -> Result<(), BoxError> {
        let service = service_fn(move |request: Request<Incoming>| {
            self.asked.cancel();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(self.peer));
            self.router.clone().oneshot(request)
        });
        Ok(watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await?)
    }
}

#[cfg(test)]
mod tests;
