//! Who connects to NATS, and where.

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerError};
use brigade_contracts::permissions::inbox_prefix;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use super::{Health, Metrics, metrics::ConnectionMetrics};

/// A constant delay: the client's own grows, and comes 1 s late after an outage of 3 s.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(10);

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

    /// Returns whether a connection without TLS is refused. With one server's URL all others are
    /// encrypted, as those of which a server tells are.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.servers.iter().any(ServerAddr::tls_required)
    }

    /// Options with the only inbox prefix that the user may listen to, and the servers.
    pub(super) fn options(&self) -> (ConnectOptions, Vec<ServerAddr>) {
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

/// The connection of a command that an operator runs.
pub struct Operator {
    pub client: Client,
    user: String,
    /// The first thing that the server refused.
    refused: watch::Receiver<Option<String>>,
}

impl Operator {
    /// Connects with the user of the URL.
    ///
    /// # Errors
    /// If the URL cannot be read or the server cannot be reached.
    pub async fn connect(url: &str, name: &str) -> anyhow::Result<Self> {
        let login = Login::of(url, name)?;
        let (options, servers) = login.options();
        let (refusal, refused) = watch::channel(None);
        let on_event = move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                refusal.send_if_modified(|first| first.is_none() && first.replace(text).is_none());
            }
            std::future::ready(())
        };
        let connecting = options.name(name).event_callback(on_event).connect(servers);
        let client = connecting.await.context("cannot connect to NATS")?;
        Ok(Self { client, user: login.user, refused })
    }

    /// Adds to an error what the server refused: such a request has no answer.
    ///
    /// # Errors
    /// The error that is given.
    pub fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.map_err(|error| match &*self.refused.borrow() {
            Some(text) => error.context(format!(
                "the NATS user {} may not do this ({text}), use the operator's",
                self.user
            )),
            None => error,
        })
    }
}

/// Takes a refusal by the server, of a client's or an intake's connection.
pub fn refused(health: &Health, metrics: &Metrics, user: &str, text: &str) {
    let worker = health.worker.as_str();
    let lower = text.to_ascii_lowercase();
    if !lower.contains("permissions violation") {
        tracing::debug!(worker, text, "refused by nats-server");
    } else if ["_inbox.", "_r_."].iter().any(|of| lower.contains(&format!("publish to \"{of}"))) {
        // Where a sender wants its answer is the sender's choice, and so is that it gets none.
        metrics.group::<ConnectionMetrics>().replies_refused.with_label_values(&[worker]).inc();
        tracing::warn!(worker, text, "an answer may not go where its sender wants it");
    } else {
        violated(health, metrics, user, text);
    }
}

/// Makes a worker unready for what the server refused, and says so where its user is another's.
pub(super) fn violated(health: &Health, metrics: &Metrics, user: &str, text: &str) {
    let worker = health.worker.as_str();
    metrics.group::<ConnectionMetrics>().violations.with_label_values(&[worker]).inc();
    if user == worker {
        health.violation(text);
    } else {
        health.violation(&format!("the NATS user {user} is not that of {worker}: {text}"));
    }
}
