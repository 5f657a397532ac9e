//! Serves a router over HTTP/1.1, with bounds on everything that a stranger may send before a
//! handler sees it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::ServiceExt;

/// Connections at a time; more wait until one ends. About 10 KiB each.
const MAX_CONNECTIONS: usize = 8192;
/// A request's first line and headers; more is `431`. Four times what a command's headers take.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;
/// A connection whose next request does not come whole within this is closed.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may take to end once nobody answers any more.
const END_WITHIN: Duration = Duration::from_millis(500);
/// Pause after a connection could not be taken, for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A server that runs until it is stopped or dropped.
pub struct Serving {
    pub address: SocketAddr,
    drain: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Serving {
    pub(super) fn start(listener: TcpListener, router: Router) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let drain = CancellationToken::new();
        let task = tokio::spawn(accept(listener, router, drain.clone()));
        Ok(Self { address, drain, task: AbortOnDropHandle::new(task) })
    }

    /// Takes no more connections, and waits until those that are there have ended: idle ones at
    /// once, the others after the answer that they wait for.
    pub async fn stop(self) {
        self.drain.cancel();
        let _late = timeout(END_WITHIN, self.task).await;
    }
}

async fn accept(listener: TcpListener, router: Router, drain: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = graceful.watch(connection(&http, stream, peer, &router));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not taken");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: &Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<> {
    let _slower_at_worst = stream.set_nodelay(true);
    let router = router.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    http.serve_connection(TokioIo::new(stream), service)
}
