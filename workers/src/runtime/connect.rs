//! Connections, with the settings that were measured to survive outages.

use std::{str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{ConnectOptions, Event, ServerAddr, ServerError, jetstream};
use brigade_contracts::{key::Bucket, permissions::inbox_prefix};
use percent_encoding::percent_decode_str;
use sqlx::{
    FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use tokio::sync::watch;

use super::{Health, Metrics};

/// How long an acknowledgement of JetStream is awaited. A publish in flight when the server
/// dies waits for all of it, while the server is back within some 20 ms; publishes repeat.
const ACK_TIMEOUT: Duration = Duration::from_millis(250);
/// A constant delay: the client's own grows, and comes 1 s late after an outage of 3 s.
const RECONNECT_DELAY: Duration = Duration::from_millis(10);

/// A connection to NATS with its JetStream context.
#[derive(Clone)]
pub struct Nats {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    /// Grows with each connection; what was learned from an earlier one (revisions) may be
    /// untrue, because a crash takes the newest unsynced writes with it.
    connections: watch::Receiver<u64>,
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
        let (options, address) = as_user_of(url)?;
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
                    Event::ServerError(ServerError::Other(text))
                        if text.to_ascii_lowercase().contains("permissions violation") =>
                    {
                        metrics.violations.with_label_values(&[health.worker.as_str()]).inc();
                        health.violation(&text);
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
            .event_callback(on_event)
            .connect(address)
            .await
            .context("cannot connect to NATS")?;
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .build(client.clone());
        Ok(Self { client, jetstream, connections })
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

/// Options for the user of a NATS URL, with the only inbox prefix that it may listen to, and the
/// servers. Of a cluster the URL names several, separated by commas; the first one names the user.
/// The client itself does not read the user from the URL.
///
/// # Errors
/// A URL that cannot be read or has no user.
pub fn as_user_of(url: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    let servers = url.split(',').map(|url| ServerAddr::from_str(url.trim()));
    let servers = servers.collect::<Result<Vec<_>, _>>().context("the NATS URL cannot be read")?;
    let address = servers.first().context("the NATS URL names no server")?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
    let user = decoded(address.username().context("the NATS URL names no user")?)?;
    let password = decoded(address.password().unwrap_or_default())?;
    let options = ConnectOptions::new()
        .custom_inbox_prefix(inbox_prefix(&user))
        .user_and_password(user, password);
    Ok((options, servers))
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
            ("statement_timeout", "5s"),
            ("tcp_user_timeout", "2s"),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_LIMIT)
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(has_its_settings(connection)))
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
