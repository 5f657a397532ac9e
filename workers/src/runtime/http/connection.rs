//! One connection, over HTTP/1.1 or HTTP/2: over TLS the client says which (ALPN), else its first
//! bytes do.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Version,
        header::{CONNECTION, COOKIE, HOST},
    },
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    client_address::TrustedProxies,
    idle::OpenConnection,
    progress::{ServedBody, Unwritten},
    unread::RequestBody,
};

/// A connection that was accepted.
pub(super) struct AcceptedConnection {
    pub(super) peer: IpAddr,
    pub(super) router: Router,
    pub(super) proxies: TrustedProxies,
    pub(super) tls: Option<TlsAcceptor>,
    /// The longest time for which a client of HTTP/2 may take nothing of a response.
    pub(super) stalled_after: Duration,
    pub(super) open: Arc<OpenConnection>,
    /// Cancelled when the first head has come.
    pub(super) asked: CancellationToken,
}

impl AcceptedConnection {
    /// Serves the connection, after the handshake of TLS if there is one. A drain ends the
    /// handshake.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(super) async fn serve(
        self,
        http: &auto::Builder<TokioExecutor>,
        stream: TcpStream,
        watcher: Watcher,
        drain: &CancellationToken,
    ) -> Result<(), BoxError> {
        let _slower_at_worst = stream.set_nodelay(true);
        let Some(tls) = self.tls.clone() else {
            return self.serve_http(http, stream, watcher).await;
        };
        match drain.run_until_cancelled(tls.accept(stream)).await {
            Some(stream) => self.serve_http(http, stream?, watcher).await,
            None => Ok(()),
        }
    }

    async fn serve_http(
        self,
        http: &auto::Builder<TokioExecutor>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        watcher: Watcher,
    ) -> Result<(), BoxError> {
        let (unwritten, is_http2) = (Unwritten::default(), CancellationToken::new());
        let (in_hand, speaks_http2) = (unwritten.clone(), is_http2.clone());
        let stalled_after = self.stalled_after;
        let service = service_fn(move |request: Request<Incoming>| {
            self.asked.cancel();
            let in_flight = self.open.begin();
            let shares_connection = request.version() != Version::HTTP_2;
            if !shares_connection {
                speaks_http2.cancel();
            }
            let (body, request) = RequestBody::share(self.prepared(request));
            let answered = self.router.clone().oneshot(request);
            let in_hand = in_hand.clone();
            async move {
                let mut response = answered.await?;
                if shares_connection && !body.finish().await {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| ServedBody::new(body, &in_hand, in_flight)))
            }
        });
        let stalls = async {
            is_http2.cancelled().await;
            unwritten.stalls(stalled_after).await;
        };
        tokio::select! {
            served = watcher.watch(http.serve_connection(TokioIo::new(stream), service)) => served,
            () = stalls => Err("a client has taken nothing of a response for too long".into()),
        }
    }

    /// Returns a request as its handler gets it: with the address of its client, and of HTTP/2 with
    /// the headers that HTTP/1.1 has in place of what only HTTP/2 knows.
    fn prepared(&self, request: Request<Incoming>) -> Request {
        let mut request = request.map(Body::new);
        if request.version() == Version::HTTP_2 {
            let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
            if let Some(host) = host.and_then(|host| HeaderValue::try_from(host).ok()) {
                request.headers_mut().insert(HOST, host);
            }
            join_cookies(request.headers_mut());
        }
        let client = self.proxies.client(self.peer, request.headers());
        request.extensions_mut().insert(client);
        request
    }
}

/// Joins cookies to one header: HTTP/2 may send each by itself.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}
