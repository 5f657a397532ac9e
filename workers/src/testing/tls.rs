//! Certificates for tests, and servers that want them.

use std::{
    env, fs,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use brigade_servers::{Postgres, account::SystemAccount};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::infra::NatsOptions;

/// Set to 1, all connections of workers to both servers of all tests are encrypted, with client
/// certificates.
const EVERYWHERE: &str = "BRIGADE_TEST_TLS";

/// The file of an authority's certificate beside those that it signed.
const AUTHORITY: &str = "ca.pem";
/// The files of a server.
const SERVER: &str = "server";
/// The files of a client.
const CLIENT: &str = "client";

/// The line of a configuration after which TLS begins.
pub const BEGIN_TLS: &str = "# TLS\n";

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The certificate of the authority that signed it.
    pub authority: PathBuf,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Panics
    /// Where there is no randomness.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // Two of one name would look like one that signs badly.
        name.push(DnType::CommonName, uuid::Uuid::now_v7().to_string());
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Writes a certificate for 127.0.0.1 into a folder, which may have expired long ago.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn certify(&self, folder: &Path, expired: bool) {
        self.issue(folder, SERVER, "127.0.0.1", expired);
    }

    /// Writes the certificate of a client into a folder.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn certify_client(&self, folder: &Path) -> Certificate {
        self.issue(folder, CLIENT, CLIENT, false)
    }

    /// Writes a certificate for a name or an address into a folder.
    ///
    /// # Panics
    /// Where the folder cannot be written.
    pub fn issue(&self, folder: &Path, file: &str, name: &str, expired: bool) -> Certificate {
        let mut parameters = CertificateParams::new(vec![name.into()]).expect("a name");
        parameters.distinguished_name.push(DnType::CommonName, name);
        if expired {
            parameters.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let signed = parameters.signed_by(&key, &self.issuer).expect("signed");
        let files = Certificate::named(folder, file);
        // In one step each, so that nobody reads half of a file.
        let write = |path: &Path, text: &str| {
            let new = path.with_extension("new");
            fs::write(&new, text).expect("written");
            fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("its mode");
            fs::rename(&new, path).expect("moved");
        };
        write(&files.key, &key.serialize_pem());
        write(&files.certificate, &signed.pem());
        self.write(&files.authority);
        files
    }

    /// Writes the certificate of the authority, for clients that trust it.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) {
        fs::write(path, &self.pem).expect("written");
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificate {
    /// Returns the files of a client in a folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self::named(folder, CLIENT)
    }

    fn named(folder: &Path, file: &str) -> Self {
        Self {
            certificate: folder.join(format!("{file}-cert.pem")),
            key: folder.join(format!("{file}-key.pem")),
            authority: folder.join(AUTHORITY),
        }
    }

    /// Returns the options of a connection to NATS that shows this certificate.
    #[must_use]
    pub fn nats_options(&self) -> NatsOptions {
        NatsOptions {
            authority: Some(self.authority.clone()),
            certificate: Some((self.certificate.clone(), self.key.clone())),
            ..NatsOptions::default()
        }
    }

    /// Returns what a URL of Postgres needs for sessions that show this certificate.
    #[must_use]
    pub fn postgres_query(&self) -> String {
        let Self { certificate, key, authority } = self;
        let [authority, certificate, key] =
            [authority, certificate, key].map(|path| path.display().to_string());
        format!("?sslmode=verify-full&sslrootcert={authority}&sslcert={certificate}&sslkey={key}")
    }
}

/// Returns the configuration of a nats-server with the files of a server beside it.
#[must_use]
pub fn nats_configuration(more: &str) -> String {
    format!("{BEGIN_TLS}{}\n", block(more))
}

/// Returns the block `tls` of a nats-server, for its clients or for the nodes of its cluster.
#[must_use]
pub fn block(more: &str) -> String {
    format!(
        "tls {{ cert_file: \"{SERVER}-cert.pem\", key_file: \"{SERVER}-key.pem\", \
         ca_file: \"{AUTHORITY}\"\n{more} }}"
    )
}

/// Has a Postgres encrypt its sessions, and want a certificate of this authority for those that
/// are. Its own is for this name or address.
///
/// # Errors
/// Where it does not start again.
pub async fn encrypt_postgres(
    postgres: &mut Postgres,
    authority: &Authority,
    name: &str,
) -> Result<()> {
    let log = postgres.log();
    let data = log.parent().context("its folder")?.join("data");
    let files = authority.issue(&data, SERVER, name, false);
    own_by_postgres(&[&files.certificate, &files.key, &files.authority])?;
    let rules = fs::read_to_string(data.join("pg_hba.conf"))?;
    if rules.contains("hostssl") {
        return postgres.restart().await;
    }
    let of_tls = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";
    fs::write(data.join("pg_hba.conf"), format!("{of_tls}{rules}"))?;
    let settings = fs::read_to_string(data.join("postgresql.conf"))?;
    let more = format!(
        "ssl = on\nssl_cert_file = '{SERVER}-cert.pem'\nssl_key_file = '{SERVER}-key.pem'\n\
         ssl_ca_file = '{AUTHORITY}'\n"
    );
    fs::write(data.join("postgresql.conf"), format!("{settings}\n{more}"))?;
    postgres.restart().await
}

/// Gives files to the account that a Postgres of tests runs as.
///
/// # Errors
/// If there is none, or it cannot be given them.
pub fn own_by_postgres(files: &[&Path]) -> Result<()> {
    if let Some(account) = SystemAccount::instead_of_root()? {
        files.iter().try_for_each(|file| account.own(file))?;
    }
    Ok(())
}

/// Returns true if all tests have to use TLS.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a setting of the tests alone")]
pub fn everywhere() -> bool {
    env::var_os(EVERYWHERE).is_some_and(|value| value == "1")
}
