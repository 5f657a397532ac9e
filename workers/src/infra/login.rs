//! Who connects to NATS, and where.

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use async_nats::{ConnectOptions, ServerAddr};
use brigade_contracts::permissions::inbox_prefix;
use percent_encoding::percent_decode_str;

use super::{Health, Metrics};

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

/// Takes a refusal by the server, of a client's or an intake's connection.
pub fn refused(health: &Health, metrics: &Metrics, text: &str) {
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
