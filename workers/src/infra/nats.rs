//! The connection to NATS.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{Client, Event, Server, ServerError, connection::State, jetstream};
use brigade_contracts::{key::Bucket, permissions::alive};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{
    Health, Intake, Metrics,
    intake::Brings,
    login::{Login, RECONNECT_DELAY, refused, violated},
    metrics::ConnectionMetrics,
};

/// How long an acknowledgement of JetStream is awaited. A publish in flight when the server
/// dies waits for all of it, while the server is back within some 20 ms; publishes repeat.
const ACK_TIMEOUT: Duration = Duration::from_millis(250);
/// After so long without a word of the server the client pings it, and again after each such time.
/// At the third ping without an answer the connection is dead: 4.5 s after the last word, below the
/// 5 s that a silent connection may cost.
const PING: Duration = Duration::from_millis(1500);
/// How often a worker sends a message to itself, which tells that its connection carries messages.
const ECHO: Duration = Duration::from_millis(500);
/// After so long without an echo NATS is away for whoever has a duty: it is left to others. That
/// is less than [`PING`] needs, since a duty given up for nothing costs little.
const SILENCE: Duration = Duration::from_secs(2);

/// A connection to NATS with its JetStream context.
#[derive(Clone)]
pub struct Nats {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    /// Grows with each connection; what was learned from an earlier one (revisions) may be
    /// untrue, because a crash takes the newest unsynced writes with it.
    connections: watch::Receiver<u64>,
    /// When the last echo came.
    heard: watch::Receiver<Instant>,
    _echoes: Arc<AbortOnDropHandle<()>>,
    /// How the same user connects once more, to read what strangers send.
    login: Arc<Login>,
    health: Health,
    metrics: Arc<Metrics>,
}

impl Nats {
    /// Connects with the user of the URL, whose inbox prefix is its own. Waits for a server
    /// that is not there yet.
    ///
    /// # Errors
    /// A URL that cannot be read or has no user.
    pub async fn connect(
        url: &str,
        health: &Health,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        // Registered now, so that `/metrics` shows them before the first refusal.
        let _registered = metrics.group::<ConnectionMetrics>();
        let login = Login::of(url, health.worker.as_str())?;
        let (options, address) = login.options();
        let (count, connections) = watch::channel(0);
        let echo_subject = alive(&login.user, &Uuid::now_v7().simple().to_string());
        // Ends the echo when the server refuses it: nothing mends that.
        let no_echo = CancellationToken::new();
        let on_event = {
            let (health, metrics) = (health.clone(), metrics.clone());
            let (echo_subject, no_echo) = (echo_subject.clone(), no_echo.clone());
            let user = login.user.clone();
            move |event| {
                match event {
                    Event::Connected => {
                        count.send_modify(|count| *count += 1);
                        health.back("nats");
                    }
                    Event::Disconnected => health.away("nats", "disconnected"),
                    // No sender knows this subject, so no reply subject makes a worker unready.
                    Event::ServerError(ServerError::Other(text))
                        if text.contains(&echo_subject) =>
                    {
                        no_echo.cancel();
                        violated(&health, &metrics, &user, &text);
                    }
                    Event::ServerError(ServerError::Other(text)) => {
                        refused(&health, &metrics, &user, &text);
                    }
                    other => tracing::debug!(worker = %health.worker, event = %other, "nats"),
                }
                std::future::ready(())
            }
        };
        let client = options
            .name(health.worker.as_str())
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| RECONNECT_DELAY)
            .ping_interval(PING)
            .event_callback(on_event)
            .reconnect_to_server_callback({
                let health = health.clone();
                move |servers, _| {
                    report_last_error(&health, &servers);
                    // The client chooses the server.
                    std::future::ready(None)
                }
            })
            .connect(address)
            .await
            .context("cannot connect to NATS")?;
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .build(client.clone());
        let (hears, heard) = watch::channel(Instant::now());
        let echo = echo(client.clone(), echo_subject, hears);
        let echoes = tokio::spawn(async move {
            no_echo.run_until_cancelled(echo).await;
        });
        let _echoes = Arc::new(AbortOnDropHandle::new(echoes));
        let (login, health, metrics) = (Arc::new(login), health.clone(), metrics.clone());
        Ok(Self { client, jetstream, connections, heard, _echoes, login, health, metrics })
    }

    /// Whether this connection has carried no message for [`SILENCE`], so that a duty which needs
    /// NATS is better done by another instance.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.heard.borrow().elapsed() > SILENCE
    }

    /// Opens a connection of its own for what strangers send.
    #[must_use]
    pub fn intake(&self, brings: Brings) -> Intake {
        Intake::open(brings, self.login.clone(), self.health.clone(), self.metrics.clone())
    }

    /// Waits until the client's task has died, which nothing else tells: what is sent or asked
    /// then is never done, and the state stays "connected".
    pub async fn died(&self) {
        let mut connections = self.connections.clone();
        while connections.changed().await.is_ok() {}
    }

    /// The number of connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        *self.connections.borrow()
    }

    /// Anything that the server answers: by then it has done what it was told before, such as to
    /// begin or to end a subscription. Given up after a second.
    pub async fn round_trip(&self) {
        let asked = async {
            // What every worker may read.
            let stream = self.jetstream.get_stream_no_info(Bucket::Attempts.stream()).await.ok()?;
            let subject = Bucket::Attempts.subject("round.trip");
            stream.get_last_raw_message_by_subject(&subject).await.ok()
        };
        let _answered = tokio::time::timeout(Duration::from_secs(1), asked).await;
    }

    /// Waits for the next connection. What was under way on the one before, such as an open
    /// pull, will not come any more.
    pub async fn reconnected(&self) {
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        if connections.changed().await.is_err() {
            // The client is gone, and so is whoever waits here.
            std::future::pending::<()>().await;
        }
    }
}

/// Reports why a connection could not be made: the client's events do not say it, what it knows of
/// the servers does.
fn report_last_error(health: &Health, servers: &[Server]) {
    let last_error = servers.iter().find_map(|server| {
        let (host, port) = (server.addr.host(), server.addr.port());
        Some(format!("{host}:{port}: {}", server.last_error.as_ref()?))
    });
    if let Some(why) = last_error {
        health.away("nats", &why);
    }
}

/// Sends messages to itself and notes when they come, for as long as the connection is not lost for
/// good. While there is no connection none is sent: they would all be sent with the next one.
async fn echo(client: Client, subject: String, heard: watch::Sender<Instant>) {
    let Ok(mut echoes) = client.subscribe(subject.clone()).await else { return };
    let mut tick = interval(ECHO);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            echo = echoes.next() => match echo {
                Some(_) => _ = heard.send_replace(Instant::now()),
                None => return,
            },
            _ = tick.tick() => if client.connection_state() == State::Connected
                && client.publish(subject.clone(), Bytes::new()).await.is_err()
            {
                return;
            },
        }
    }
}
