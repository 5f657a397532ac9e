use std::str::FromStr;

use anyhow::Context as _;
use async_nats::{ConnectOptions, ServerAddr};
use brigade_contracts::permissions::inbox_prefix;
use percent_encoding::percent_decode_str;

/// The servers that a connection goes to, and the user of whom it is.
pub struct NatsCredentials {
    pub servers: Vec<ServerAddr>,
    pub user: String,
    pub password: String,
    /// The name under which the server lists the connection.
    pub name: String,
}

impl NatsCredentials {
    /// Reads a NATS URL. That of a cluster names several servers, separated by commas; the first
    /// one names the user. The client library itself does not read the user from the URL.
    ///
    /// # Errors
    /// If the URL cannot be read or has no user.
    pub fn parse(url: &str, name: &str) -> anyhow::Result<Self> {
        let servers = url.split(',').map(|url| ServerAddr::from_str(url.trim()));
        let servers =
            servers.collect::<Result<Vec<_>, _>>().context("the NATS URL cannot be read")?;
        let address = servers.first().context("the NATS URL names no server")?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let user = decoded(address.username().context("the NATS URL names no user")?)?;
        let password = decoded(address.password().unwrap_or_default())?;
        Ok(Self { servers, user, password, name: name.to_owned() })
    }

    /// Returns true if a connection without TLS is refused. If the URL of one server asks for TLS,
    /// the connections to all others are encrypted too, as are those to servers of which a server
    /// tells.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.servers.iter().any(ServerAddr::tls_required)
    }

    /// Returns options with the only inbox prefix that the user may listen to, and the servers.
    #[must_use]
    pub fn options(&self) -> (ConnectOptions, Vec<ServerAddr>) {
        let options = ConnectOptions::new()
            .custom_inbox_prefix(inbox_prefix(&self.user))
            .user_and_password(self.user.clone(), self.password.clone())
            .require_tls(self.wants_tls());
        (options, self.servers.clone())
    }
}

/// Returns options for the user of a NATS URL, and the servers: see [`NatsCredentials::parse`].
///
/// # Errors
/// If the URL cannot be read or has no user.
pub fn connect_options(url: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    Ok(NatsCredentials::parse(url, "")?.options())
}
