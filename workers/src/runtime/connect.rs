//! Connections, with the settings that were measured to survive outages.

use std::{str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{
    Client, ConnectOptions, Event, Server, ServerAddr, ServerError, connection::State, jetstream,
};
use brigade_contracts::{
    key::Bucket,
    permissions::{alive, inbox_prefix},
};
use bytes::Bytes;
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use sqlx::{
    FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Health, Intake, Metrics};
use crate::store::postgres::refuse_standby;

/// How long an acknowledgement of JetStream is awaited. A publish in flight when the server
/// dies waits for all of it, while the server is back within some 20 ms; publishes repeat.
const ACK_TIMEOUT: Duration = Duration::from_millis(250);
/// A constant delay: the client's own grows, and comes 1 s late after an outage of 3 s.
pub(super) const RECONNECT_DELAY: Duration = Duration::from_millis(10);
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
        let login = Login::of(url, health.worker.as_str())?;
        let (options, address) = login.options();
        let (count, connections) = watch::channel(0);
        let on_event = {
            let (health, metrics) = (health.clone(), metrics.clone());
            move |event| {
                match event {
                    Event::Connected => {
                        count.send_modify(|count| *count += 1);
                        health.back("nats");
                    }
                    Event::Disconnected => health.away("nats", "disconnected"),
                    Event::ServerError(ServerError::Other(text)) => {
                        refused(&health, &metrics, &text);
                    }
                    other => tracing::debug!(worker = %health.worker, event = %other, "nats"),
                }
                std::future::ready(())
            }
        };
        // The events do not say why a connection cannot be made; what is known of the servers does.
        let before_connecting = {
            let health = health.clone();
            move |servers: Vec<Server>, _| {
                let why = servers.iter().find_map(|server| {
                    let (host, port) = (server.addr.host(), server.addr.port());
                    Some(format!("{host}:{port}: {}", server.last_error.as_ref()?))
                });
                if let Some(why) = why {
                    health.away("nats", &why);
                }
                // The client chooses the server.
                std::future::ready(None)
            }
        };
        let client = options
            .name(health.worker.as_str())
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| RECONNECT_DELAY)
            .ping_interval(PING)
            .event_callback(on_event)
            .reconnect_to_server_callback(before_connecting)
            .connect(address)
            .await
            .context("cannot connect to NATS")?;
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .build(client.clone());
        let (hears, heard) = watch::channel(Instant::now());
        let subject = alive(&login.user, &Uuid::now_v7().simple().to_string());
        let echoes = tokio::spawn(echo(client.clone(), subject, hears));
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
    pub fn intake(&self) -> Intake {
        Intake::open(self.login.clone(), self.health.clone(), self.metrics.clone())
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

/// Takes a refusal by the server, of a client's or an intake's connection.
pub(super) fn refused(health: &Health, metrics: &Metrics, text: &str) {
    let worker = health.worker.as_str();
    let lower = text.to_ascii_lowercase();
    if !lower.contains("permissions violation") {
        tracing::debug!(worker, text, "refused by nats-server");
    } else if ["_inbox.", "_r_."].iter().any(|of| lower.contains(&format!("publish to \"{of}"))) {
        // Where a sender wants its answer is the sender's choice, and so is that it gets none.
        metrics.replies_refused.with_label_values(&[worker]).inc();
        tracing::warn!(worker, text, "an answer may not go where its sender wants it");
    } else {
        metrics.violations.with_label_values(&[worker]).inc();
        health.violation(text);
    }
}

/// Who connects to NATS, and where.
pub struct Login {
    pub servers: Vec<ServerAddr>,
    pub user: String,
    pub password: String,
    /// What the server lists the connection as.
    pub name: String,
}

impl Login {
    /// The user and the servers of a NATS URL. Of a cluster the URL names several, separated by
    /// commas; the first one names the user. The client itself does not read the user from the URL.
    ///
    /// # Errors
    /// A URL that cannot be read or has no user.
    pub fn of(url: &str, name: &str) -> anyhow::Result<Self> {
        let servers = url.split(',').map(|url| ServerAddr::from_str(url.trim()));
        let servers =
            servers.collect::<Result<Vec<_>, _>>().context("the NATS URL cannot be read")?;
        let address = servers.first().context("the NATS URL names no server")?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let user = decoded(address.username().context("the NATS URL names no user")?)?;
        let password = decoded(address.password().unwrap_or_default())?;
        Ok(Self { servers, user, password, name: name.to_owned() })
    }

    /// Whether a connection without TLS is refused. With one server's URL all others are encrypted,
    /// as those of which a server tells are.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.servers.iter().any(ServerAddr::tls_required)
    }

    /// Options with the only inbox prefix that the user may listen to, and the servers.
    fn options(&self) -> (ConnectOptions, Vec<ServerAddr>) {
        let options = ConnectOptions::new()
            .custom_inbox_prefix(inbox_prefix(&self.user))
            .user_and_password(self.user.clone(), self.password.clone())
            .require_tls(self.wants_tls());
        (options, self.servers.clone())
    }
}

/// Options for the user of a NATS URL, and the servers: see [`Login::of`].
///
/// # Errors
/// A URL that cannot be read or has no user.
pub fn as_user_of(url: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    Ok(Login::of(url, "")?.options())
}

/// How long a connection to Postgres may take. Some milliseconds are usual; on a machine that is
/// far too busy it is seconds, and a limit below that would keep it from ever being connected.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A pool for one worker, which connects on first use. The time-outs bound how long a stopped
/// process can hold anything up.
///
/// # Errors
/// A URL that cannot be read.
pub fn postgres(url: &str, worker: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(url)
        .context("the Postgres URL cannot be read")?
        .application_name(worker)
        .options([ISOLATION, LOCK_TIMEOUT])
        .options([
            // Else a statement with arrays is planned anew each time, which takes longer than
            // executing it: the planner thinks that it knows their lengths.
            ("plan_cache_mode", "force_generic_plan"),
            // Plans are kept, and a table that is empty when they are made is large later. What
            // has no index to go by looks expensive then, and is not worth compiling.
            ("enable_seqscan", "off"),
            ("jit", "off"),
            ("idle_in_transaction_session_timeout", "1s"),
            ("statement_timeout", "3500ms"),
            ("tcp_user_timeout", "2s"),
            // A statement that nobody waits for any more ends.
            ("client_connection_check_interval", "1s"),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_LIMIT)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                has_its_settings(connection).await?;
                refuse_standby(connection).await
            })
        })
        .connect_lazy_with(options))
}

/// What a batch locks and then reads is right at this level only.
const ISOLATION: (&str, &str) = ("default_transaction_isolation", "read committed");
const LOCK_TIMEOUT: (&str, &str) = ("lock_timeout", "500ms");

/// Refuses a connection that does not have what was asked for when it was made: a pooler between
/// may drop it, and nothing would protect this server from a process that is stopped.
async fn has_its_settings(connection: &mut PgConnection) -> sqlx::Result<()> {
    let settings = "select current_setting('default_transaction_isolation'),
                           current_setting('lock_timeout')";
    let row = sqlx::raw_sql(settings).fetch_one(connection).await?;
    let found: (String, String) = FromRow::from_row(&row)?;
    let asked = (ISOLATION.1.to_owned(), LOCK_TIMEOUT.1.to_owned());
    if found == asked {
        return Ok(());
    }
    let why = format!(
        "the connection to Postgres has the settings {found:?} instead of {asked:?}: a pooler \
         between drops the start-up parameter `options`; let it pass, or connect directly"
    );
    Err(sqlx::Error::Configuration(why.into()))
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;
    use crate::{
        config::StackConfig,
        stack::{Binaries, Postgres},
    };

    #[tokio::test]
    async fn a_session_without_its_settings_is_refused() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
        let url = server.superuser_url("postgres");
        // As a pooler that drops the options would give it out.
        let mut bare = PgConnection::connect(&url).await?;
        let other = "alter database postgres set default_transaction_isolation = 'repeatable read'";
        sqlx::raw_sql(other).execute(&mut bare).await?;
        let refused = has_its_settings(&mut bare).await.unwrap_err().to_string();
        assert!(refused.contains("pooler"), "{refused}");
        // Whatever the database's default is.
        let level: String = sqlx::query_scalar("show transaction_isolation")
            .fetch_one(&postgres(&url, "test", 1)?)
            .await?;
        assert_eq!(level, "read committed");
        Ok(())
    }
}
