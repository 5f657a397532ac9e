//! The settings of connections to NATS.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Result, ensure};
use brigade_contracts::WorkerName;

use crate::infra::{NatsOptions, SecretSetting, loopback::ALLOW_PLAINTEXT};

const CREDS: &str = "BRIGADE_NATS_CREDS";
const NKEY: &str = "BRIGADE_NATS_NKEY";
const CERT: &str = "BRIGADE_NATS_CERT";
const KEY: &str = "BRIGADE_NATS_KEY";
const JS_DOMAIN: &str = "BRIGADE_NATS_JS_DOMAIN";
const JS_API_PREFIX: &str = "BRIGADE_NATS_JS_API_PREFIX";

/// The options of all connections to NATS, and those of workers that have files of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct NatsSettings {
    general: NatsOptions,
    own: HashMap<WorkerName, NatsOptions>,
}

impl NatsSettings {
    /// Reads the variables that `text` returns by their names.
    ///
    /// # Errors
    /// If two of them exclude each other.
    pub(super) fn read(text: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let general = options(&text, None)?;
        let own = |worker| Ok((worker, options(&text, Some(worker))?));
        let own = WorkerName::ALL.into_iter().map(own).collect::<Result<_>>()?;
        Ok(Self { general, own })
    }

    /// Returns the options of a worker, whose URL is this one.
    pub(super) fn of(&self, worker: WorkerName, url: &SecretSetting) -> NatsOptions {
        NatsOptions {
            user: Some(worker.as_str().to_owned()),
            url_file: url.file.clone(),
            ..self.own.get(&worker).unwrap_or(&self.general).clone()
        }
    }

    /// Returns the options of an operator, whose URL is this one.
    pub(super) fn of_operators(&self, url: Option<&SecretSetting>) -> NatsOptions {
        let url_file = url.and_then(|url| url.file.clone());
        NatsOptions { url_file, ..self.general.clone() }
    }

    pub(super) fn allow_plaintext(&self) -> bool {
        self.general.allow_plaintext
    }
}

/// Reads the options; what a worker has of its own comes before what all have.
fn options(
    text: &impl Fn(&str) -> Option<String>,
    worker: Option<WorkerName>,
) -> Result<NatsOptions> {
    let own = |name: &str| text(&format!("{name}_{}", worker?.env_suffix())).map(PathBuf::from);
    let general = |name: &str| text(name).map(PathBuf::from);
    // Each shows who it is, so none of another level is added to one.
    let pair = |one: &str, other: &str| match (own(one), own(other)) {
        (None, None) => (general(one), general(other)),
        own => own,
    };
    let (creds, nkey_seed) = pair(CREDS, NKEY);
    ensure!(creds.is_none() || nkey_seed.is_none(), "{CREDS} and {NKEY} are both set");
    let certificate = match pair(CERT, KEY) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => anyhow::bail!("{CERT} and {KEY} go together, and one of them is not set"),
    };
    let (domain, prefix) = (text(JS_DOMAIN), text(JS_API_PREFIX));
    ensure!(domain.is_none() || prefix.is_none(), "{JS_DOMAIN} and {JS_API_PREFIX} are both set");
    let of_domain = domain.map(|domain| NatsOptions::prefix_of_domain(&domain));
    let is_on = |name: &str| text(name).as_deref() == Some("1");
    Ok(NatsOptions {
        user: None,
        url_file: None,
        creds,
        nkey_seed,
        authority: general("BRIGADE_NATS_CA"),
        certificate,
        tls_first: is_on("BRIGADE_NATS_TLS_FIRST"),
        allow_plaintext: is_on(ALLOW_PLAINTEXT),
        api_prefix: of_domain.or(prefix).map(|prefix| prefix.trim_end_matches('.').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<NatsSettings> {
        NatsSettings::read(|name| {
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_worker_shows_what_is_its_own_before_what_all_have() {
        let settings = read(&[
            ("BRIGADE_NATS_CREDS", "/all.creds"),
            ("BRIGADE_NATS_NKEY_EDGE", "/edge.nk"),
            ("BRIGADE_NATS_CERT", "/all.pem"),
            ("BRIGADE_NATS_KEY", "/all.key"),
            ("BRIGADE_NATS_CERT_EDGE", "/edge.pem"),
            ("BRIGADE_NATS_KEY_EDGE", "/edge.key"),
            ("BRIGADE_NATS_JS_DOMAIN", "hub"),
        ])
        .unwrap();
        let url = SecretSetting { text: String::new(), file: Some("/url".into()) };
        let [edge, relay] =
            [WorkerName::Edge, WorkerName::OutboxRelay].map(|worker| settings.of(worker, &url));
        assert_eq!((edge.creds, edge.nkey_seed), (None, Some("/edge.nk".into())));
        assert_eq!(edge.certificate, Some(("/edge.pem".into(), "/edge.key".into())));
        assert_eq!((edge.user.as_deref(), edge.url_file), (Some("edge"), Some("/url".into())));
        assert_eq!(
            (relay.creds.clone(), relay.nkey_seed.clone()),
            (Some("/all.creds".into()), None)
        );
        assert_eq!(relay.certificate, Some(("/all.pem".into(), "/all.key".into())));
        assert_eq!(relay.api_prefix(), "$JS.hub.API");
        assert_eq!(settings.of_operators(None).user, None);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let one = |name: &'static str| (name, "x");
        for [a, b] in [[CREDS, NKEY], [CERT, NKEY], [KEY, NKEY], [JS_DOMAIN, JS_API_PREFIX]] {
            assert!(read(&[one(a), one(b)]).is_err(), "{a} {b}");
        }
        assert!(read(&[one("BRIGADE_NATS_CERT_EDGE"), one(KEY)]).is_err());
        assert!(read(&[]).is_ok() && read(&[one(JS_API_PREFIX)]).is_ok());
    }
}
