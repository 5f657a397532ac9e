//! Connects to a server and authenticates.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use async_nats::{ServerAddr, rustls::pki_types::ServerName};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
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
    nats::{
        NatsCredentials, NatsOptions,
        pauses::{explained, is_refusal, pause},
        tls::client_config,
    },
};

/// The size of a read buffer. Messages are slices of it, so one that is kept for long keeps all of
/// it.
pub(super) const READ: usize = 32 * 1024;

/// The time that a connection may take until it can be used.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a server that is to speak first, before TLS, says nothing.
const NO_INFO: &str = "no INFO before TLS; if nats-server has `handshake_first`, let it be `auto`, \
                       or set BRIGADE_NATS_TLS_FIRST=1";

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
    /// The bytes that a key signs.
    #[serde(default)]
    nonce: String,
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
    let mut refusals: u32 = 0;
    for server in servers.iter().cycle() {
        let error = match timeout(HANDSHAKE_TIMEOUT, handshake(kind, &credentials, server)).await {
            Ok(Ok(accepted)) => return accepted,
            Ok(Err(error)) => format!("{error:#}"),
            // The client library waits for INFO as well.
            Err(_) if credentials.waits_for_info() => NO_INFO.to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        let is_refused = is_refusal(&error);
        refusals = refusals.saturating_add(is_refused.into());
        let why = format!("{}:{}: {}", server.host(), server.port(), explained(error));
        health.away(kind.name(), &why);
        sleep(pause(if is_refused { refusals } else { 0 })).await;
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
    if credentials.options.tls_first {
        stream = encrypted(stream, server.host(), &credentials.options).await?;
    }
    let mut buffer = BytesMut::with_capacity(READ);
    let first = operation(&mut stream, &mut buffer).await;
    let first = first.context(if credentials.waits_for_info() { NO_INFO } else { "no INFO" })?;
    let Op::Info(info) = first else {
        bail!("it does not begin with INFO, as nats-server does");
    };
    let info: ServerInfo = serde_json::from_slice(&info).context("its INFO cannot be read")?;
    let tls = info.tls_required || credentials.wants_tls();
    if tls && !credentials.options.tls_first {
        ensure!(buffer.is_empty(), "it sends more before TLS begins");
        stream = encrypted(stream, server.host(), &credentials.options).await?;
    }
    let login = credentials.login(info.nonce.as_bytes())?;
    let connect = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": tls,
        "user": login.username,
        "pass": login.password,
        "jwt": login.jwt,
        "nkey": login.nkey,
        "sig": login.signature.map(|signature| BASE64_URL_SAFE_NO_PAD.encode(signature)),
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
    let others = info.connect_urls.iter().filter_map(|url| url.parse().ok());
    let others = others.filter(|other| credentials.may_follow(other)).collect();
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

/// Begins TLS as the client library does.
async fn encrypted(
    stream: Box<dyn Transport>,
    host: &str,
    options: &NatsOptions,
) -> anyhow::Result<Box<dyn Transport>> {
    let options = options.clone();
    let config = spawn_blocking(move || client_config(&options)).await;
    let config = config.context("the certificates were not read")??;
    let name = ServerName::try_from(host.to_owned()).context("no name for TLS")?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}
