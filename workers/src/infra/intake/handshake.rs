//! Connects to a server and authenticates.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use async_nats::{
    ServerAddr,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use bytes::BytesMut;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    IntakeKind,
    wire::{self, Op},
};
use crate::infra::{
    Health,
    nats::{NatsCredentials, RECONNECT_DELAY},
};

/// The size of a read buffer. Messages are slices of it, so one that is kept for long keeps all of
/// it.
pub(super) const READ: usize = 32 * 1024;

/// The time that a connection may take until it can be used.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// TCP, or TLS over it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that the server has accepted.
pub(super) struct Accepted {
    pub(super) stream: Box<dyn Transport>,
    /// The bytes that came after the handshake.
    pub(super) buffer: BytesMut,
    /// The other servers of the cluster.
    pub(super) others: Vec<ServerAddr>,
}

/// The server's description of itself.
#[derive(Deserialize)]
struct ServerInfo {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    connect_urls: Vec<String>,
}

/// Connects to any of the servers, however long that takes.
pub(super) async fn connect(
    kind: IntakeKind,
    credentials: Arc<NatsCredentials>,
    mut servers: Vec<ServerAddr>,
    health: Health,
) -> Accepted {
    servers.shuffle(&mut rand::rng());
    for server in servers.iter().cycle() {
        let error = match timeout(HANDSHAKE_TIMEOUT, handshake(kind, &credentials, server)).await {
            Ok(Ok(accepted)) => return accepted,
            Ok(Err(error)) => format!("{error:#}"),
            // The client library waits for INFO as well.
            Err(_) if credentials.wants_tls() => {
                "no INFO before TLS; if nats-server has `handshake_first`, let it be `auto`"
                    .to_owned()
            }
            Err(_) => "no answer".to_owned(),
        };
        health.away(kind.name(), &format!("{}:{}: {error}", server.host(), server.port()));
        sleep(RECONNECT_DELAY).await;
    }
    // A URL names a server at least.
    std::future::pending().await
}

async fn handshake(
    kind: IntakeKind,
    credentials: &NatsCredentials,
    server: &ServerAddr,
) -> anyhow::Result<Accepted> {
    let stream = TcpStream::connect((server.host(), server.port())).await?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Transport> = Box::new(stream);
    let mut buffer = BytesMut::with_capacity(READ);
    let Op::Info(info) = operation(&mut stream, &mut buffer).await? else {
        bail!("it does not begin with INFO, as nats-server does");
    };
    let info: ServerInfo = serde_json::from_slice(&info).context("its INFO cannot be read")?;
    let tls = info.tls_required || credentials.wants_tls();
    if tls {
        ensure!(buffer.is_empty(), "it sends more before TLS begins");
        stream = encrypted(stream, server.host()).await?;
    }
    let connect = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": tls,
        "user": credentials.user,
        "pass": credentials.password,
        "name": format!("{} {}", credentials.name, kind.name()),
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "headers": true,
        "no_responders": true,
    });
    stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await?;
    stream.flush().await?;
    loop {
        match operation(&mut stream, &mut buffer).await? {
            Op::Pong => break,
            Op::Err(text) => bail!("{text}"),
            _ => {}
        }
    }
    let others = info.connect_urls.iter().filter_map(|url| url.parse().ok()).collect();
    Ok(Accepted { stream, buffer, others })
}

/// Reads the next operation of the handshake.
async fn operation(stream: &mut dyn Transport, buffer: &mut BytesMut) -> anyhow::Result<Op> {
    loop {
        if let Some(op) = wire::next(buffer)? {
            return Ok(op);
        }
        ensure!(stream.read_buf(buffer).await? > 0, "it closed the connection");
    }
}

/// Begins TLS with the certificates that this machine trusts, as the client library does.
async fn encrypted(stream: Box<dyn Transport>, host: &str) -> anyhow::Result<Box<dyn Transport>> {
    // They are read from files, hundreds of them.
    let config = spawn_blocking(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        ensure!(!roots.is_empty(), "no certificates to trust: {:?}", found.errors);
        Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    });
    let config = config.await.context("the certificates to trust were not read")??;
    let name = ServerName::try_from(host.to_owned()).context("no name for TLS")?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}
