//! TLS of the connections that are not the client library's, by the same rules as those.

use std::path::Path;

use anyhow::{Context as _, ensure};
use async_nats::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::NatsOptions;

/// Reads the certificates to trust and the one to show. They are files, often hundreds of them, so
/// this blocks.
///
/// # Errors
/// If one of the files cannot be used.
pub(in crate::infra) fn client_config(options: &NatsOptions) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(authority) = &options.authority {
        for certificate in certificates(authority)? {
            roots.add(certificate).with_context(|| authority.display().to_string())?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        ensure!(!roots.is_empty(), "no certificates to trust: {:?}", found.errors);
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = &options.certificate else {
        return Ok(config.with_no_client_auth());
    };
    let unusable = || format!("cannot read the key {}", key.display());
    let private_key = PrivateKeyDer::from_pem_file(key).with_context(unusable)?;
    config
        .with_client_auth_cert(certificates(certificate)?, private_key)
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let all = read().with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(!all.is_empty(), "{} holds no certificate", file.display());
    Ok(all)
}
