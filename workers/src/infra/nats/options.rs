use std::path::PathBuf;

/// The subjects of JetStream's API begin with this, unless the fleet uses a domain or the streams
/// of another account.
const API_PREFIX: &str = "$JS.API";

/// The settings of a connection to NATS besides its URL. Files are read again for each connection.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// The user of whom the connection is, if the URL names none: it makes the inbox prefix.
    pub user: Option<String>,
    /// A file with the URL, whose password counts from then on.
    pub url_file: Option<PathBuf>,
    /// A file with the user's JWT and the seed of its key.
    pub creds: Option<PathBuf>,
    /// A file with the seed of the user's key.
    pub nkey_seed: Option<PathBuf>,
    /// The authorities to trust, in place of those that this machine trusts.
    pub authority: Option<PathBuf>,
    /// The certificate to show and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// TLS begins before the server says anything, as with its `handshake_first`.
    pub tls_first: bool,
    /// Connections in clear text may leave this machine.
    pub allow_plaintext: bool,
    /// The prefix of JetStream's API, if it is another than `$JS.API`.
    pub api_prefix: Option<String>,
}

impl NatsOptions {
    /// Returns the prefix of JetStream's API in a domain.
    #[must_use]
    pub fn prefix_of_domain(domain: &str) -> String {
        format!("$JS.{domain}.API")
    }

    /// Returns the prefix of JetStream's API, without a dot at the end.
    #[must_use]
    pub fn api_prefix(&self) -> &str {
        self.api_prefix.as_deref().unwrap_or(API_PREFIX)
    }

    /// Returns the subject to publish to, for what is kept in a bucket. The subjects of buckets
    /// belong to JetStream: they are in its domain as the API is.
    #[must_use]
    pub fn subject_of_put(&self, subject: String) -> String {
        match &self.api_prefix {
            Some(prefix) => format!("{prefix}.{subject}"),
            None => subject,
        }
    }

    /// Returns true if a setting speaks of TLS, so that no connection goes without it.
    #[must_use]
    pub fn name_tls(&self) -> bool {
        self.tls_first || self.authority.is_some() || self.certificate.is_some()
    }
}
