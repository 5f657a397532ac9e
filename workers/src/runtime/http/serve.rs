//! Serves a router over HTTP/1.1 and HTTP/2, with bounds on everything that a stranger may send
//! before a handler sees it.

use std::{future::pending, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    client_address::TrustedProxies,
    connection::AcceptedConnection,
    idle::{Connections, OpenConnection},
    network::{NetworkConnection, NetworkConnections},
    tls::HttpTls,
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// The time that a connection has to end after the drain.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// The most bytes of a body.
const BODY: u32 = 64 * 1024;
/// Pause after a connection could not be accepted, for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The bounds on what strangers may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// Connections at a time, those in the handshake of TLS included; for a further one the one is
    /// closed that has been idle for the longest time. About 10 KiB each, with TLS some 40.
    connections: usize,
    /// Connections of one network at a time; more are closed at once. The machine itself and
    /// trusted proxies have no such limit.
    of_network: usize,
    /// Requests at a time on one connection of HTTP/2.
    streams: u32,
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
    /// something for it, is closed: one that is gone without a word, or that reads no more. With
    /// HTTP/1.1 elsewhere than on Linux the system decides when.
    pub(super) stalled_after: u32,
    /// The most bytes that the system keeps for the other end of a connection; Linux doubles it.
    send_buffer: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            of_network: 8192 / 4,
            streams: 64,
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

impl ConnectionLimits {
    /// Returns the bounds on those who look after a process: probes and monitoring.
    pub(super) fn of_admin() -> Self {
        Self { connections: 256, of_network: 256, ..Self::default() }
    }
}

/// A router, and to whom it is served.
pub(super) struct Served {
    pub(super) router: Router,
    pub(super) tls: Option<HttpTls>,
    pub(super) proxies: TrustedProxies,
}

/// A server that runs until it is stopped or dropped.
pub struct HttpServer {
    /// The address that it listens on.
    pub address: SocketAddr,
    drain: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Served {
    fn connection(
        &self,
        peer: SocketAddr,
        limits: ConnectionLimits,
        open: Arc<OpenConnection>,
    ) -> AcceptedConnection {
        AcceptedConnection {
            peer: peer.ip(),
            router: self.router.clone(),
            proxies: self.proxies.clone(),
            tls: self.tls.as_ref().map(HttpTls::acceptor),
            stalled_after: Duration::from_millis(limits.stalled_after.into()),
            open,
            asked: CancellationToken::new(),
        }
    }
}

impl HttpServer {
    /// Listens on `address` (port 0: any free one) and serves.
    ///
    /// # Errors
    /// If the address is taken.
    pub(super) fn start(
        address: SocketAddr,
        limits: ConnectionLimits,
        served: Served,
    ) -> io::Result<Self> {
        let listener = listen(address, limits)?;
        let address = listener.local_addr()?;
        let drain = CancellationToken::new();
        let task = tokio::spawn(accept(listener, limits, served, drain.clone()));
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

/// Returns both protocols with their bounds. One connection of HTTP/2 may cost no more than some of
/// HTTP/1.1 do.
fn protocols(limits: ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_headers(limits.headers)
        .max_buf_size(limits.head);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
        // What a client may send ahead: the largest body, and four of them in all.
        .initial_stream_window_size(BODY)
        .initial_connection_window_size(4 * BODY)
        .max_send_buf_size(BODY as usize)
        // Requests that were taken back before they were looked at, and such as broke the protocol.
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(64))
        // The system does not see that one is gone that has nothing to acknowledge.
        .keep_alive_interval(limits.head_within)
        .keep_alive_timeout(Duration::from_secs(10));
    http
}

async fn accept(
    listener: TcpListener,
    limits: ConnectionLimits,
    served: Served,
    drain: CancellationToken,
) {
    let http = protocols(limits);
    let graceful = GracefulShutdown::new();
    // Nothing that is served outlives this, however it ends.
    let end = CancellationToken::new();
    let _with_this = end.clone().drop_guard();
    let places = Places::new(limits);
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            let is_proxy = served.proxies.has(peer.ip());
            io::Result::Ok((places.take(peer, is_proxy).await, stream, peer))
        };
        let accepted = tokio::select! {
            next = next => next,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((Some(place), stream, peer)) => {
                let (http, end, drain) = (http.clone(), end.clone(), drain.clone());
                let connection = served.connection(peer, limits, places.connections.open());
                let (asked, close) = (connection.asked.clone(), connection.open.close.clone());
                let watcher = graceful.watcher();
                tokio::spawn(async move {
                    let connection = connection.serve(&http, stream, watcher, &drain);
                    tokio::select! {
                        ended = end.run_until_cancelled(connection) => {
                            if let Some(Err(error)) = ended {
                                tracing::debug!(%error, "a connection broke");
                            }
                        }
                        () = asks_nothing(&asked, limits.first_head_within) => {}
                        () = close.cancelled() => {}
                    }
                    drop(place);
                });
            }
            // Whoever has enough leaves the place to the next one.
            Ok((None, ..)) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The places of connections.
struct Places {
    permits: Arc<Semaphore>,
    networks: NetworkConnections,
    of_network: usize,
    connections: Connections,
}

/// The place of a connection, until it is dropped.
struct ConnectionPlace {
    _of_network: NetworkConnection,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new(limits: ConnectionLimits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.connections)),
            networks: NetworkConnections::default(),
            of_network: limits.of_network,
            connections: Connections::default(),
        }
    }

    /// Returns a place for a connection, if need be that of an idle one; waits while there is none.
    /// `None` if its network has enough.
    async fn take(&self, peer: SocketAddr, is_proxy: bool) -> Option<ConnectionPlace> {
        let most = if is_proxy { usize::MAX } else { self.of_network };
        let of_network = self.networks.add(peer.ip(), most)?;
        if self.permits.available_permits() == 0 {
            self.connections.close_an_idle_one();
        }
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(ConnectionPlace { _of_network: of_network, _permit: permit })
    }
}

/// Ends when nothing was asked within a time, and never if something was.
async fn asks_nothing(asked: &CancellationToken, within: Duration) {
    if timeout(within, asked.cancelled()).await.is_ok() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
