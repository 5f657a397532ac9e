//! Certificates for a test.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// The server's files, in its own folder.
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";
const AUTHORITY: &str = "ca.pem";

/// The line of a configuration after which TLS begins.
pub(crate) const BEGIN: &str = "# TLS\n";

/// Signs the certificates of servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
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
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".into()]).expect("a name");
        if expired {
            parameters.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        let write = |name, text| fs::write(folder.join(name), text).expect("written");
        write(CERTIFICATE, certificate.pem());
        write(KEY, key.serialize_pem());
        self.write(&folder.join(AUTHORITY));
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

/// Returns the configuration of a nats-server with these files beside it.
pub(crate) fn configuration(more: &str) -> String {
    format!(
        "tls {{ cert_file: \"{CERTIFICATE}\", key_file: \"{KEY}\", ca_file: \"{AUTHORITY}\"\n\
         {more} }}\n"
    )
}
