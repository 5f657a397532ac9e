//! The connections to NATS.

mod credentials;
mod login;
mod operator;
mod options;
pub(in crate::infra) mod pauses;
mod server_errors;
pub(in crate::infra) mod tls;

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

use self::pauses::{Refusals, explained};
pub use self::{
    credentials::{NatsCredentials, connect_options},
    operator::OperatorConnection,
    options::NatsOptions,
    server_errors::{ConnectionMetrics, ServerErrors},
};
use super::{Health, Metrics};

/// The time that an acknowledgement of JetStream is awaited. A publish in flight when the server
/// dies waits for all of it, while the server is back within some 20 ms; publishes repeat.
const ACK_TIMEOUT: Duration = Duration::from_millis(250);
/// After so long without a message from the server the client pings it, and again after each such
/// time. At the third ping without a response the connection is dead: 4.5 s after the last message,
/// below the 5 s that a silent connection may cost.
const PING: Duration = Duration::from_millis(1500);
/// The time between two messages that a worker sends to itself, which show that its connection
/// carries messages.
const ECHO: Duration = Duration::from_millis(500);
/// After so long without an echo NATS counts as away: the worker gives its leases up. That is less
/// than [`PING`] needs, since a duty given up for nothing costs little.
const SILENCE: Duration = Duration::from_secs(2);

/// A connection to NATS with its JetStream context.
#[derive(Clone)]
pub struct Nats {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    /// Grows with each connection. Revisions that were read over an earlier one may be wrong,
    /// because a crash takes the newest unsynced writes with it.
    connections: watch::Receiver<u64>,
    /// The time of the last echo.
    heard: watch::Receiver<Instant>,
    _echoes: Arc<AbortOnDropHandle<()>>,
    /// The credentials of further connections, which read what tenants send.
    pub(in crate::infra) credentials: Arc<NatsCredentials>,
    pub(in crate::infra) health: Health,
    pub(in crate::infra) errors: ServerErrors,
}

impl Nats {
    /// Connects with the user of the URL, whose inbox prefix is its own. Waits for a server that is
    /// not there yet.
    ///
    /// # Errors
    /// If the URL cannot be read or has no user.
    pub async fn connect(
        url: &str,
        health: &Health,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        Self::connect_with(url, &NatsOptions::default(), health, metrics).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// If the URL cannot be read or nothing names a user.
    pub async fn connect_with(
        url: &str,
        nats_options: &NatsOptions,
        health: &Health,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let credentials = NatsCredentials::parse(url, health.worker.as_str(), nats_options)?;
        let errors = ServerErrors::new(health, metrics, &credentials.user);
        let (options, address) = credentials.options();
        let (count, connections) = watch::channel(0);
        let echo_subject = alive(&credentials.user, &Uuid::now_v7().simple().to_string());
        // Ends the echo when the server refuses it: nothing mends that.
        let no_echo = CancellationToken::new();
        let refusals = Arc::new(Refusals::default());
        let events = ConnectionEvents {
            health: health.clone(),
            refusals: refusals.clone(),
            errors: errors.clone(),
            count,
            echo_subject: echo_subject.clone(),
            no_echo: no_echo.clone(),
        };
        let client = options
            .name(health.worker.as_str())
            .retry_on_initial_connect()
            .reconnect_delay_callback({
                let refusals = refusals.clone();
                move |_| refusals.pause()
            })
            .ping_interval(PING)
            .event_callback(move |event| {
                events.handle(&event);
                std::future::ready(())
            })
            .reconnect_to_server_callback({
                let health = health.clone();
                move |servers, _| {
                    refusals.look(&servers);
                    report_last_error(&health, &servers);
                    // The client chooses the server.
                    std::future::ready(None)
                }
            })
            .connect(address)
            .await
            .context("cannot connect to NATS")?;
        let api = nats_options.api_prefix();
        let jetstream = jetstream_context(client.clone(), api, ACK_TIMEOUT);
        let (hears, heard) = watch::channel(Instant::now());
        let echo = echo(client.clone(), echo_subject, hears);
        let echoes = tokio::spawn(async move {
            no_echo.run_until_cancelled(echo).await;
        });
        let _echoes = Arc::new(AbortOnDropHandle::new(echoes));
        let (credentials, health) = (Arc::new(credentials), health.clone());
        Ok(Self { client, jetstream, connections, heard, _echoes, credentials, health, errors })
    }

    /// Returns a JetStream context whose requests and acknowledgements have this time.
    #[must_use]
    pub fn jetstream_within(&self, limit: Duration) -> jetstream::Context {
        jetstream_context(self.client.clone(), self.options().api_prefix(), limit)
    }

    /// Returns the options of the connection.
    #[must_use]
    pub fn options(&self) -> &NatsOptions {
        &self.credentials.options
    }

    /// Returns true if this connection has carried no message for [`SILENCE`], so that a duty which
    /// needs NATS is better done by another instance.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.heard.borrow().elapsed() > SILENCE
    }

    /// Waits until the client's task has died, which nothing else shows: whatever is published or
    /// requested then is never sent, and the state stays "connected".
    pub async fn died(&self) {
        let mut connections = self.connections.clone();
        while connections.changed().await.is_ok() {}
    }

    /// Returns the number of connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        *self.connections.borrow()
    }

    /// Sends any request to the server and awaits its response: by then the server has done what
    /// was requested before, such as to begin or to end a subscription. Gives up after a second.
    pub async fn round_trip(&self) {
        let request = async {
            // Every worker may read this bucket.
            let stream = self.jetstream.get_stream_no_info(Bucket::Attempts.stream()).await.ok()?;
            let subject = Bucket::Attempts.subject("round.trip");
            stream.get_last_raw_message_by_subject(&subject).await.ok()
        };
        let _response = tokio::time::timeout(Duration::from_secs(1), request).await;
    }

    /// Waits for the next connection. Whatever was under way on the one before, such as an open
    /// pull, will not come any more.
    pub async fn reconnected(&self) {
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        if connections.changed().await.is_err() {
            // The client is gone, and with it the task that waits here.
            std::future::pending::<()>().await;
        }
    }
}

fn jetstream_context(client: Client, api_prefix: &str, limit: Duration) -> jetstream::Context {
    jetstream::ContextBuilder::new()
        .timeout(limit)
        .ack_timeout(limit)
        .api_prefix(api_prefix)
        .build(client)
}

/// Handles the events of the client library's connection.
struct ConnectionEvents {
    health: Health,
    refusals: Arc<Refusals>,
    errors: ServerErrors,
    count: watch::Sender<u64>,
    echo_subject: String,
    no_echo: CancellationToken,
}

impl ConnectionEvents {
    fn handle(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.count.send_modify(|count| *count += 1);
                self.refusals.connected();
                self.health.back("nats");
            }
            Event::Disconnected => self.health.away("nats", "disconnected"),
            // No sender knows this subject, so no reply subject makes a worker unready.
            Event::ServerError(ServerError::Other(text)) if text.contains(&self.echo_subject) => {
                self.no_echo.cancel();
                self.errors.violation(text);
            }
            Event::ServerError(ServerError::Other(text)) => self.errors.report(text),
            other => {
                tracing::debug!(worker = %self.health.worker, event = %other, "event of NATS");
            }
        }
    }
}

/// Reports why a connection could not be made. The client's events do not say it, but its list of
/// the servers does.
fn report_last_error(health: &Health, servers: &[Server]) {
    let last_error = servers.iter().find_map(|server| {
        let (host, port) = (server.addr.host(), server.addr.port());
        let why = server.last_error.clone()?;
        Some(format!("{host}:{port}: {}", explained(why)))
    });
    if let Some(why) = last_error {
        health.away("nats", &why);
    }
}

/// Sends messages to itself and records when they come, until the connection is lost for good.
/// While there is no connection none is sent: they would all be sent with the next one.
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

#[cfg(test)]
mod tests;
