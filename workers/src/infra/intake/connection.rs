use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

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
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    Brings, Message,
    wire::{self, Op},
};
use crate::infra::{
    Health, Metrics,
    login::{Login, RECONNECT_DELAY, refused},
};

/// A connection is dead when the third ping is due and none of two was answered, at most 4.5 s
/// after it fell silent.
const PING_EVERY: Duration = Duration::from_millis(1500);
/// How long a connection may take until it can be used.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// What one read may bring. Messages are slices of it, so one that stays in hand for long holds
/// all of it.
const READ: usize = 32 * 1024;
/// Below this much room a new buffer is begun.
const MIN_ROOM: usize = 4 * 1024;

/// What those who subscribe want of the connection.
pub(super) enum Order {
    Subscribe {
        sid: u64,
        /// With the group, if there is one.
        subject: String,
        sender: mpsc::Sender<Vec<Message>>,
        known: oneshot::Sender<()>,
    },
    Leave(u64),
    Request {
        subject: String,
        reply: String,
        payload: String,
    },
}

/// What a ping was sent for, in the order in which the server answers.
pub(super) enum Pinged {
    /// To see whether anybody is there.
    Alive,
    /// The server knows of this subscription by then.
    Subscribed(u64),
    /// Nothing comes for it any more by then.
    Left(u64),
}

pub(super) struct Subscribed {
    subject: String,
    sender: mpsc::Sender<Vec<Message>>,
    /// Told when the server knows of it.
    known: Option<oneshot::Sender<()>>,
    /// What has come and is not handed over yet.
    came: Vec<Message>,
}

/// What is kept from one connection to the next.
pub(super) struct Connection {
    pub(super) brings: Brings,
    pub(super) login: Arc<Login>,
    pub(super) health: Health,
    pub(super) metrics: Arc<Metrics>,
    pub(super) count: watch::Sender<u64>,
    pub(super) subscribed: BTreeMap<u64, Subscribed>,
    pub(super) left: Vec<Subscribed>,
    /// What is to be sent.
    pub(super) out: BytesMut,
    pub(super) pinged: VecDeque<Pinged>,
    pub(super) unanswered: u32,
}

/// TCP, or TLS over it.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that the server has accepted.
struct Accepted {
    stream: Box<dyn Transport>,
    /// What came behind the handshake.
    buffer: BytesMut,
    /// The other servers of the cluster.
    others: Vec<ServerAddr>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    connect_urls: Vec<String>,
}

impl Connection {
    /// Runs until the last handle is dropped.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut servers = self.login.servers.clone();
        loop {
            let (login, health) = (self.login.clone(), self.health.clone());
            let connecting = connect(self.brings, login, servers.clone(), health);
            tokio::pin!(connecting);
            let accepted = loop {
                tokio::select! {
                    accepted = &mut connecting => break accepted,
                    order = orders.recv() => match order {
                        Some(order) => self.obey_later(order),
                        None => return,
                    },
                }
            };
            for other in &accepted.others {
                if !servers.contains(other) {
                    servers.push(other.clone());
                }
            }
            self.begin();
            match self.serve(accepted, &mut orders).await {
                Ok(()) => return,
                Err(error) => self.health.away(self.brings.name(), &format!("{error:#}")),
            }
            self.end();
        }
    }

    /// Subscribes again, now that there is a connection.
    fn begin(&mut self) {
        for (sid, subscribed) in &self.subscribed {
            write(&mut self.out, &["SUB ", &subscribed.subject, " ", &sid.to_string(), "\r\n"]);
        }
        let unknown = self.subscribed.iter().filter(|(_, subscribed)| subscribed.known.is_some());
        for sid in unknown.map(|(sid, _)| *sid).collect::<Vec<_>>() {
            self.ping(Pinged::Subscribed(sid));
        }
        self.health.back(self.brings.name());
        self.count.send_modify(|count| *count += 1);
    }

    /// Forgets what belonged to a connection that is lost.
    fn end(&mut self) {
        self.out.clear();
        self.unanswered = 0;
        for pinged in std::mem::take(&mut self.pinged) {
            if let Pinged::Left(sid) = pinged {
                self.subscribed.remove(&sid);
            }
        }
    }

    /// Returns when the last handle is dropped.
    ///
    /// # Errors
    /// Where the connection is lost.
    async fn serve(
        &mut self,
        accepted: Accepted,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> anyhow::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(accepted.stream);
        let mut buffer = accepted.buffer;
        let mut tick = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flushed = true;
        self.take(&mut buffer).await?;
        loop {
            if buffer.capacity() - buffer.len() < MIN_ROOM {
                buffer.reserve(READ);
            }
            tokio::select! {
                read = reader.read_buf(&mut buffer) => {
                    ensure!(read? > 0, "the server closed the connection");
                    self.take(&mut buffer).await?;
                }
                sent = send(&mut writer, &mut self.out), if !(flushed && self.out.is_empty()) => {
                    flushed = sent?;
                }
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    ensure!(self.unanswered < 2, "the server does not answer");
                    self.unanswered += 1;
                    self.ping(Pinged::Alive);
                }
            }
        }
    }

    /// Takes what has come whole, and hands over the messages.
    async fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        while let Some(op) = wire::next(buffer)? {
            match op {
                Op::Message { sid, message } => {
                    // Of one that has just ended nobody takes any.
                    if let Some(subscribed) = self.subscribed.get_mut(&sid) {
                        subscribed.came.push(match self.brings {
                            Brings::Requests => message.shed(),
                            Brings::Stored => message,
                        });
                    }
                }
                Op::Ping => write(&mut self.out, &["PONG\r\n"]),
                Op::Pong => self.answered(),
                Op::Err(text) => {
                    refused(&self.health, &self.metrics, &self.login.user, &text);
                }
                Op::Info(_) | Op::Ok => {}
            }
        }
        let mut gone = Vec::new();
        for mut subscribed in self.left.drain(..) {
            // Nobody waits for it any more, or all of it is taken.
            let _gone = subscribed.hand_over().await;
        }
        for (sid, subscribed) in &mut self.subscribed {
            if !subscribed.hand_over().await {
                gone.push(*sid);
            }
        }
        for sid in gone {
            self.obey(Order::Leave(sid));
        }
        // Not before: while nobody took the messages, nothing was read either.
        self.unanswered = 0;
        Ok(())
    }

    fn answered(&mut self) {
        match self.pinged.pop_front() {
            Some(Pinged::Subscribed(sid)) => {
                let known = self.subscribed.get_mut(&sid).and_then(|s| s.known.take());
                // Whoever subscribed may have given up.
                let _gone = known.map(|known| known.send(()));
            }
            Some(Pinged::Left(sid)) => self.left.extend(self.subscribed.remove(&sid)),
            Some(Pinged::Alive) | None => {}
        }
    }

    fn ping(&mut self, pinged: Pinged) {
        write(&mut self.out, &["PING\r\n"]);
        self.pinged.push_back(pinged);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Subscribe { sid, ref subject, .. } => {
                write(&mut self.out, &["SUB ", subject, " ", &sid.to_string(), "\r\n"]);
                self.obey_later(order);
                self.ping(Pinged::Subscribed(sid));
            }
            Order::Leave(sid) if self.subscribed.contains_key(&sid) => {
                write(&mut self.out, &["UNSUB ", &sid.to_string(), "\r\n"]);
                self.ping(Pinged::Left(sid));
            }
            Order::Leave(_) => {}
            Order::Request { subject, reply, payload } => {
                let length = payload.len().to_string();
                let parts = ["PUB ", &subject, " ", &reply, " ", &length, "\r\n", &payload, "\r\n"];
                write(&mut self.out, &parts);
            }
        }
    }

    /// The same while there is no connection. A request is lost: it may be out of date when there
    /// is one again.
    fn obey_later(&mut self, order: Order) {
        match order {
            Order::Subscribe { sid, subject, sender, known } => {
                let (known, came) = (Some(known), Vec::new());
                self.subscribed.insert(sid, Subscribed { subject, sender, known, came });
            }
            Order::Leave(sid) => drop(self.subscribed.remove(&sid)),
            Order::Request { .. } => {}
        }
    }
}

impl Subscribed {
    /// Whether anybody still takes the messages.
    async fn hand_over(&mut self) -> bool {
        self.came.is_empty() || self.sender.send(std::mem::take(&mut self.came)).await.is_ok()
    }
}

fn write(out: &mut BytesMut, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Sends a piece of what is to be sent. TLS may keep what was written: then it is flushed, a step
/// of its own, so that a server which takes nothing does not keep the pings from ending the
/// connection. Returns whether everything has left.
async fn send(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(true);
    }
    writer.write_buf(out).await?;
    Ok(false)
}

/// Connects to any of the servers, however long that takes.
async fn connect(
    brings: Brings,
    login: Arc<Login>,
    mut servers: Vec<ServerAddr>,
    health: Health,
) -> Accepted {
    servers.shuffle(&mut rand::rng());
    for server in servers.iter().cycle() {
        let error = match timeout(HANDSHAKE, handshake(brings, &login, server)).await {
            Ok(Ok(accepted)) => return accepted,
            Ok(Err(error)) => format!("{error:#}"),
            // The client library waits for INFO as well.
            Err(_) if login.wants_tls() => {
                "no INFO before TLS; if nats-server has `handshake_first`, let it be `auto`"
                    .to_owned()
            }
            Err(_) => "no answer".to_owned(),
        };
        health.away(brings.name(), &format!("{}:{}: {error}", server.host(), server.port()));
        sleep(RECONNECT_DELAY).await;
    }
    // A URL names a server at least.
    std::future::pending().await
}

async fn handshake(brings: Brings, login: &Login, server: &ServerAddr) -> anyhow::Result<Accepted> {
    let stream = TcpStream::connect((server.host(), server.port())).await?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Transport> = Box::new(stream);
    let mut buffer = BytesMut::with_capacity(READ);
    let Op::Info(info) = operation(&mut stream, &mut buffer).await? else {
        bail!("it does not begin with INFO, as nats-server does");
    };
    let info: Info = serde_json::from_slice(&info).context("its INFO cannot be read")?;
    let tls = info.tls_required || login.wants_tls();
    if tls {
        ensure!(buffer.is_empty(), "it sends more before TLS begins");
        stream = encrypted(stream, server.host()).await?;
    }
    let connect = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": tls,
        "user": login.user,
        "pass": login.password,
        "name": format!("{} {}", login.name, brings.name()),
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

/// The next operation during the handshake.
async fn operation(stream: &mut dyn Transport, buffer: &mut BytesMut) -> anyhow::Result<Op> {
    loop {
        if let Some(op) = wire::next(buffer)? {
            return Ok(op);
        }
        ensure!(stream.read_buf(buffer).await? > 0, "it closed the connection");
    }
}

/// TLS with the certificates that this machine trusts, as the client library does.
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

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use brigade_contracts::WorkerName;
    use tokio::io::ReadBuf;

    use super::*;

    /// A connection whose other end is the test.
    fn connection() -> (Connection, watch::Receiver<u64>) {
        let (count, counted) = watch::channel(0);
        let login = Login::of("nats://edge:e@127.0.0.1:1", "edge").expect("a URL");
        let connection = Connection {
            brings: Brings::Requests,
            login: Arc::new(login),
            health: Health::new(WorkerName::Edge),
            metrics: Arc::new(Metrics::new()),
            count,
            subscribed: BTreeMap::new(),
            left: Vec::new(),
            out: BytesMut::new(),
            pinged: VecDeque::new(),
            unanswered: 0,
        };
        (connection, counted)
    }

    fn accepted(stream: impl Transport + 'static) -> Accepted {
        Accepted { stream: Box::new(stream), buffer: BytesMut::new(), others: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        let (mut connection, _counted) = connection();
        let (near, mut far) = tokio::io::duplex(1024);
        let (_orders, mut received) = mpsc::unbounded_channel();
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
        let (_orders, mut received) = mpsc::unbounded_channel();
        let served = connection.serve(accepted(Unflushed(near)), &mut received);
        let error = timeout(4 * PING_EVERY, served).await.expect("in time").unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_wants_tls_before_it_speaks_is_told_from_one_that_is_silent() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        for (scheme, why) in [("tls", "handshake_first"), ("nats", "no answer")] {
            let login = Login::of(&format!("{scheme}://edge:e@{address}"), "edge").unwrap();
            let health = Health::new(WorkerName::Edge);
            let servers = login.servers.clone();
            let connecting = connect(Brings::Requests, Arc::new(login), servers, health.clone());
            assert!(timeout(HANDSHAKE * 2, connecting).await.is_err());
            assert!(health.ready().unwrap_err().contains(why), "{:?}", health.ready());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_is_kept_though_nobody_takes_the_messages() {
        let (mut connection, _counted) = connection();
        let (near, mut far) = tokio::io::duplex(1024);
        let (orders, mut received) = mpsc::unbounded_channel();
        let (sender, mut messages) = mpsc::channel(1);
        let (known, _) = oneshot::channel();
        let subject = "q".to_owned();
        orders.send(Order::Subscribe { sid: 1, subject, sender, known }).ok();
        let task = tokio::spawn(async move {
            connection.serve(accepted(near), &mut received).await.map_err(|error| error.to_string())
        });
        for _ in 0..3 {
            far.write_all(b"MSG q 1 0\r\n\r\n").await.unwrap();
            sleep(PING_EVERY / 2).await;
        }
        sleep(10 * PING_EVERY).await;
        assert!(!task.is_finished(), "what is not read is no silence");
        assert_eq!(messages.recv().await.map(|came| came.len()), Some(1));
        drop((messages, orders));
        assert_eq!(task.await.unwrap(), Ok(()));
    }
}
