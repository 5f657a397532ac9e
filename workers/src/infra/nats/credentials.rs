use std::str::FromStr;

use anyhow::Context as _;
use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use brigade_contracts::permissions::inbox_prefix;

use super::{NatsOptions, login, tls};
use crate::infra::loopback::{ALLOW_PLAINTEXT, is_this_machine};

/// The servers that a connection goes to, and the user of whom it is.
#[derive(Clone)]
pub struct NatsCredentials {
    pub servers: Vec<ServerAddr>,
    pub user: String,
    /// The name under which the server lists the connection.
    pub name: String,
    pub options: NatsOptions,
}

impl NatsCredentials {
    /// Reads a NATS URL. That of a cluster names several servers, separated by commas; the first
    /// one names the user.
    ///
    /// # Errors
    /// If the URL cannot be read, nothing names a user, or the connection would leave this machine
    /// in clear text.
    pub fn parse(url: &str, name: &str, options: &NatsOptions) -> anyhow::Result<Self> {
        let servers = url.split(',').map(|url| ServerAddr::from_str(url.trim()));
        let servers =
            servers.collect::<Result<Vec<_>, _>>().context("the NATS URL cannot be read")?;
        let address = servers.first().context("the NATS URL names no server")?;
        let (user, _) = login::of_url(address)?;
        let user = user.or_else(|| options.user.clone()).context("the NATS URL names no user")?;
        let credentials = Self { servers, user, name: name.to_owned(), options: options.clone() };
        credentials.stays_private()?;
        Ok(credentials)
    }

    /// # Errors
    /// If a server elsewhere would be spoken to in clear text.
    fn stays_private(&self) -> anyhow::Result<()> {
        if self.wants_tls() || self.options.allow_plaintext {
            return Ok(());
        }
        let elsewhere = self.servers.iter().find(|server| !is_this_machine(server.host()));
        elsewhere.map_or(Ok(()), |server| {
            anyhow::bail!(
                "the connection to NATS at {} would not be encrypted: begin its URL with tls:// \
                 (BRIGADE_NATS_CA names an authority of your own), or let it be with \
                 {ALLOW_PLAINTEXT}=1",
                server.host()
            )
        })
    }

    /// Reads all files once, so that one that cannot be used is told at the start.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn check(&self) -> anyhow::Result<()> {
        self.login(b"")?;
        if self.options.name_tls() {
            tls::client_config(&self.options)?;
        }
        Ok(())
    }

    /// Returns what a connection shows to a server that sent this nonce.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(in crate::infra) fn login(&self, nonce: &[u8]) -> anyhow::Result<Auth> {
        let address = self.servers.first().context("the NATS URL names no server")?;
        login::login(&self.options, address, nonce)
    }

    /// Returns true if a connection without TLS is refused. If the URL of one server asks for TLS,
    /// the connections to all others are encrypted too, as are those to servers of which a server
    /// tells.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.options.name_tls() || self.servers.iter().any(ServerAddr::tls_required)
    }

    /// Returns true if TLS begins only after the server has spoken.
    #[must_use]
    pub fn waits_for_info(&self) -> bool {
        self.wants_tls() && !self.options.tls_first
    }

    /// Returns true if a connection may go to a server of which another one told.
    #[must_use]
    pub fn may_follow(&self, server: &ServerAddr) -> bool {
        self.wants_tls() || self.options.allow_plaintext || is_this_machine(server.host())
    }

    /// Returns options with the only inbox prefix that the user may listen to, and the servers.
    #[must_use]
    pub fn options(&self) -> (ConnectOptions, Vec<ServerAddr>) {
        let login = self.clone();
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            let shown = login.login(&nonce).map_err(|error| AuthError::new(format!("{error:#}")));
            std::future::ready(shown)
        })
        .custom_inbox_prefix(inbox_prefix(&self.user))
        .require_tls(self.wants_tls());
        if self.options.tls_first {
            options = options.tls_first();
        }
        if let Some(authority) = &self.options.authority {
            options = options.add_root_certificates(authority.clone());
        }
        if let Some((certificate, key)) = &self.options.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if !self.wants_tls() && !self.options.allow_plaintext {
            // Servers of which a server tells may be elsewhere.
            options = options.ignore_discovered_servers();
        }
        (options, self.servers.clone())
    }
}

/// Returns options for the user of a NATS URL, and the servers: see [`NatsCredentials::parse`].
///
/// # Errors
/// If the URL cannot be read or has no user.
pub fn connect_options(url: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    Ok(NatsCredentials::parse(url, "", &NatsOptions::default())?.options())
}
