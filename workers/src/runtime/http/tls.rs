//! HTTPS with a certificate in files, which may change while the server runs.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::task::AbortOnDropHandle;

/// The pause between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// The files of a server's certificate.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those between it and the authority, as PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The certificate and key that a server shows to new connections.
pub(super) struct HttpTls {
    config: watch::Receiver<Arc<ServerConfig>>,
    _reload: AbortOnDropHandle<()>,
}

/// The contents of both files.
type Contents = (Vec<u8>, Vec<u8>);

impl HttpTls {
    /// Reads the files, now and whenever they have changed.
    ///
    /// # Errors
    /// If they cannot be used now. Later the certificate before stays in use then.
    pub(super) fn open(files: TlsFiles) -> anyhow::Result<Self> {
        let last = files.read()?;
        let (sender, config) = watch::channel(Arc::new(server_config(&last)?));
        let reload = AbortOnDropHandle::new(tokio::spawn(reload(files, last, sender)));
        Ok(Self { config, _reload: reload })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.borrow().clone())
    }
}

impl TlsFiles {
    fn read(&self) -> anyhow::Result<Contents> {
        let [certificate, key] = [&self.certificate, &self.key]
            .map(|file| fs::read(file).with_context(|| format!("cannot read {}", file.display())));
        Ok((certificate?, key?))
    }
}

async fn reload(files: TlsFiles, mut last: Contents, sender: watch::Sender<Arc<ServerConfig>>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // A file that is being replaced is there the next time.
        let Ok(found) = files.read() else { continue };
        if found == last {
            continue;
        }
        match server_config(&found) {
            Ok(config) => {
                tracing::info!(file = %files.certificate.display(), "another certificate is used");
                sender.send_replace(Arc::new(config));
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the certificate of HTTPS stays as it was");
            }
        }
        last = found;
    }
}

/// # Errors
/// If one of them is no PEM, or the key is that of another certificate.
fn server_config((certificate, key): &Contents) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.context("the certificate of HTTPS")?;
    ensure!(!chain.is_empty(), "the certificate of HTTPS is none");
    let key = PrivateKeyDer::from_pem_slice(key).context("the key of HTTPS")?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.context("the certificate and the key of HTTPS")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
