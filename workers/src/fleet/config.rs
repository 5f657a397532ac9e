//! The only reader of the environment: every other part takes its settings as values, so that a
//! test sets them without touching the process it shares with other tests.

mod http;
mod transport;
mod variables;

use std::{
    collections::HashMap, env, ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration,
};

use anyhow::{Context, Result};
use brigade_contracts::WorkerName;
use brigade_domain::LockPolicy;

pub use self::{http::api_options, variables::VARIABLES};
use self::{
    http::{http_tls, open},
    transport::NatsSettings,
};
use super::{Servers, Settings, process::Listeners};
use crate::{
    infra::{NatsOptions, SecretSetting, nats::NatsCredentials, postgres},
    operations::migrate,
};

const NATS_URL: &str = "BRIGADE_NATS_URL";
const DATABASE_URL: &str = "BRIGADE_DATABASE_URL";
const LIST_CACHE: &str = "BRIGADE_EDGE_LIST_CACHE";
const ROLE_PREFIX: &str = "BRIGADE_ROLE_PREFIX";
const IDLE_CARTS: &str = "BRIGADE_IDLE_CART_HOURS";

/// The servers that the workers of a process use, and the address on which it serves.
#[derive(Clone, Debug)]
pub struct RunConfig {
    nats_url: Option<SecretSetting>,
    database_url: Option<SecretSetting>,
    own_nats_urls: HashMap<WorkerName, SecretSetting>,
    own_database_urls: HashMap<WorkerName, SecretSetting>,
    nats: NatsSettings,
    /// `BRIGADE_HTTP_ADDR` and `BRIGADE_ADMIN_ADDR`, else free ports of this machine, and
    /// `BRIGADE_HTTP_TLS_CERT` and `_KEY`.
    pub listeners: Listeners,
    /// `BRIGADE_REPLICAS` of each stream, else 1.
    pub replicas: u8,
    /// The settings of the workers of this process.
    pub settings: Settings,
    /// `BRIGADE_ROLE_PREFIX`: what the names of the Postgres roles begin with; else nothing.
    pub role_prefix: String,
    /// `BRIGADE_NATS_MONITORING`: the address of nats-server's monitoring, for `doctor`.
    pub nats_monitoring: Option<String>,
    /// `BRIGADE_FAIL_POINT`, read only where fail points are compiled in.
    pub fail_point: Option<String>,
}

impl RunConfig {
    /// # Errors
    /// A variable that cannot be read, and an API that is open beyond loopback.
    pub fn from_env() -> Result<Self> {
        let own = |what: &str| -> Result<HashMap<_, _>> {
            let secret = |worker: &WorkerName| {
                let secret = secret(&format!("{what}_{}", worker.env_suffix()));
                secret.map(|secret| Some((*worker, secret?))).transpose()
            };
            WorkerName::ALL.iter().filter_map(secret).collect()
        };
        let replicas = text("BRIGADE_REPLICAS").unwrap_or_else(|| "1".to_owned());
        let (http, admin) = (address("BRIGADE_HTTP_ADDR")?, address("BRIGADE_ADMIN_ADDR")?);
        let open = open(http, text("BRIGADE_HTTP_OPEN").as_deref())?;
        Ok(Self {
            nats_url: secret(NATS_URL)?,
            database_url: secret(DATABASE_URL)?,
            own_nats_urls: own(NATS_URL)?,
            own_database_urls: own(DATABASE_URL)?,
            nats: NatsSettings::read(text)?,
            listeners: Listeners { http, http_tls: http_tls()?, admin },
            replicas: replicas
                .parse()
                .with_context(|| format!("BRIGADE_REPLICAS: {replicas:?}"))?,
            settings: Settings {
                lock_policy: lock_policy()?,
                idle_cart_hours: idle_cart_hours(text(IDLE_CARTS).as_deref())?,
                dry_run: text("BRIGADE_RECONCILER_DRY_RUN").as_deref() == Some("1"),
                http: api_options(open)?,
                list_cache: switched_on(text(LIST_CACHE).as_deref()).context(LIST_CACHE)?,
            },
            role_prefix: role_prefix(text(ROLE_PREFIX))?,
            nats_monitoring: text("BRIGADE_NATS_MONITORING"),
            fail_point: text("BRIGADE_FAIL_POINT"),
        })
    }

    /// Returns the settings of workers: a URL of a worker's own comes before the general one.
    ///
    /// # Errors
    /// Names all that are not set; and those that cannot be used.
    pub fn servers(&self, workers: &[WorkerName]) -> Result<Vec<(WorkerName, Servers)>> {
        let mut missing = Vec::new();
        let mut found = Vec::new();
        for worker in workers {
            let suffix = worker.env_suffix();
            let nats = self.own_nats_urls.get(worker).or(self.nats_url.as_ref());
            let database = self.own_database_urls.get(worker).or(self.database_url.as_ref());
            for (name, url) in [(NATS_URL, nats), (DATABASE_URL, database)] {
                let name = format!("{name}_{suffix}");
                if url.is_none() && !missing.contains(&name) {
                    missing.push(name);
                }
            }
            if let (Some(nats), Some(database)) = (nats, database) {
                found.push((*worker, nats, database));
            }
        }
        none_missing(&missing)?;
        let servers = |(worker, nats, database)| Ok((worker, self.used(worker, nats, database)?));
        found.into_iter().map(servers).collect()
    }

    /// Returns what a worker is started with.
    fn used(
        &self,
        worker: WorkerName,
        nats: &SecretSetting,
        database: &SecretSetting,
    ) -> Result<Servers> {
        let options = self.nats.of(worker, nats);
        NatsCredentials::parse(&nats.text, worker.as_str(), &options)
            .and_then(|credentials| credentials.check())
            .with_context(|| format!("{worker}: {NATS_URL}"))?;
        postgres::stays_private(&database.text, self.nats.allow_plaintext())
            .with_context(|| format!("{worker}: {DATABASE_URL}"))?;
        Ok(Servers {
            nats_url: nats.text.clone(),
            nats: options,
            replicas: self.replicas,
            postgres_url: database.text.clone(),
            postgres_url_file: database.file.clone(),
            settings: self.settings.clone(),
        })
    }

    /// Returns the NATS URL of an operator and the database URL of the owner.
    ///
    /// # Errors
    /// Names all that are not set.
    pub fn operators_urls(&self) -> Result<(&str, &str)> {
        let missing = [(NATS_URL, &self.nats_url), (DATABASE_URL, &self.database_url)];
        let missing = missing.into_iter().filter(|(_, url)| url.is_none());
        none_missing(&missing.map(|(name, _)| name.to_owned()).collect::<Vec<_>>())?;
        Ok((self.nats_url()?, self.database_url()?))
    }

    /// Returns `BRIGADE_NATS_URL`, an operator's.
    ///
    /// # Errors
    /// If it is not set.
    pub fn nats_url(&self) -> Result<&str> {
        let url = self.nats_url.as_ref().ok_or_else(|| not_set(&[NATS_URL.to_owned()]))?;
        Ok(&url.text)
    }

    /// Returns the users of NATS of those workers that have a URL of their own here.
    #[must_use]
    pub fn nats_users(&self) -> Vec<(WorkerName, String, NatsOptions)> {
        let own = self.own_nats_urls.iter();
        own.map(|(worker, url)| (*worker, url.text.clone(), self.nats.of(*worker, url))).collect()
    }

    /// Returns the certificates that this environment names.
    #[must_use]
    pub fn certificates(&self) -> Vec<PathBuf> {
        let operator = self.nats_options();
        let of_nats = operator.certificate.map(|(certificate, _)| certificate);
        let of_http = self.listeners.http_tls.clone().map(|files| files.certificate);
        operator.authority.into_iter().chain(of_nats).chain(of_http).collect()
    }

    /// Returns the options of an operator's connection to NATS.
    #[must_use]
    pub fn nats_options(&self) -> NatsOptions {
        self.nats.of_operators(self.nats_url.as_ref())
    }

    /// Returns `BRIGADE_DATABASE_URL`, the owner's.
    ///
    /// # Errors
    /// If it is not set, or a session would leave this machine in clear text.
    pub fn database_url(&self) -> Result<&str> {
        let url = self.database_url.as_ref().ok_or_else(|| not_set(&[DATABASE_URL.to_owned()]))?;
        postgres::stays_private(&url.text, self.nats.allow_plaintext()).context(DATABASE_URL)?;
        Ok(&url.text)
    }

    /// The password of a worker's own database URL, which `migrate` gives to its role.
    ///
    /// # Errors
    /// If the URL is not that of the worker's role.
    pub fn database_password(&self, worker: WorkerName) -> Result<Option<String>> {
        let Some((user, password)) =
            self.own_database_urls.get(&worker).and_then(|url| postgres::login_of(&url.text))
        else {
            return Ok(None);
        };
        let role = migrate::role(&self.role_prefix, worker);
        anyhow::ensure!(
            user == role,
            "{DATABASE_URL}_{} has the user {user:?}, and the role of the worker is {role:?} \
             ({ROLE_PREFIX} is what all roles begin with)",
            worker.env_suffix(),
        );
        Ok(password)
    }
}

/// `BRIGADE_ROLE_PREFIX`. Names of roles have 63 bytes at most.
fn role_prefix(prefix: Option<String>) -> Result<String> {
    let prefix = prefix.unwrap_or_default();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    anyhow::ensure!(
        prefix.len() <= 32 && prefix.chars().all(fits) && !prefix.starts_with("pg_"),
        "{ROLE_PREFIX}: {prefix:?} is not made of at most 32 of a-z, 0-9, _ and -, or begins with \
         pg_, which is Postgres' own"
    );
    Ok(prefix)
}

fn none_missing(names: &[String]) -> Result<()> {
    if names.is_empty() { Ok(()) } else { Err(not_set(names)) }
}

fn not_set(names: &[String]) -> anyhow::Error {
    let are = if names.len() == 1 { "is" } else { "are" };
    let names = names.join(", ");
    anyhow::anyhow!("{names} {are} not set (`brigade up` prints them under `env`)")
}

/// Reads an address to listen on: by default a free port of this machine.
fn address(name: &str) -> Result<SocketAddr> {
    let Some(text) = text(name) else { return Ok(([127, 0, 0, 1], 0).into()) };
    text.parse().with_context(|| format!("{name}: {text:?}"))
}

/// Returns the time that the lock of a cart lives by the method of its payment, within the cap.
fn lock_policy() -> Result<LockPolicy> {
    let standard = LockPolicy::default();
    let seconds = |method: &str, standard: Duration| {
        let name = format!("BRIGADE_LOCK_SECONDS_{method}");
        let Some(text) = text(&name) else { return Ok(standard) };
        let seconds = text.parse().with_context(|| format!("{name}: {text:?}"))?;
        let allowed = (1..=LockPolicy::default().cap.as_secs()).contains(&seconds);
        anyhow::ensure!(allowed, "{name}: {seconds} is not from 1 to 1800");
        Ok(Duration::from_secs(seconds))
    };
    Ok(LockPolicy {
        card: seconds("CARD", standard.card)?,
        wallet: seconds("WALLET", standard.wallet)?,
        qr: seconds("QR", standard.qr)?,
        cash: seconds("CASH", standard.cash)?,
        ..standard
    })
}

/// After how many hours an idle cart is abandoned; 0: never.
fn idle_cart_hours(text: Option<&str>) -> Result<u16> {
    let Some(text) = text else { return Ok(Settings::default().idle_cart_hours) };
    text.parse().with_context(|| format!("{IDLE_CARTS}: {text:?} is not from 0 to 65535"))
}

/// Reads a switch that is on by default.
fn switched_on(text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => anyhow::bail!("{other:?} is neither on nor off"),
    }
}

/// The level and the format of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `BRIGADE_LOG`.
    pub filter: Option<String>,
    /// `BRIGADE_LOG_FORMAT=json`.
    pub json: bool,
}

impl LogConfig {
    #[must_use]
    pub fn from_env() -> Self {
        let json = text("BRIGADE_LOG_FORMAT").as_deref() == Some("json");
        Self { filter: text("BRIGADE_LOG"), json }
    }
}

/// The user of this machine, for audits.
#[must_use]
pub fn user() -> Option<String> {
    text("USER")
}

/// A secret, from its own variable or from the file that another one names.
fn secret(name: &str) -> Result<Option<SecretSetting>> {
    let named = format!("{name}_FILE");
    let file = set(&named).map(PathBuf::from);
    match (text(name), file) {
        (Some(_), Some(_)) => anyhow::bail!("{name} and {named} are both set"),
        (Some(text), None) => Ok(Some(SecretSetting { text, file: None })),
        (None, Some(file)) => Ok(Some(SecretSetting::from_file(file).context(named)?)),
        (None, None) => Ok(None),
    }
}

fn text(name: &str) -> Option<String> {
    set(name)?.into_string().ok()
}

/// An empty variable counts as absent: that is how a shell unsets one for a single command.
#[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(urls: &[&str]) -> RunConfig {
        let text = |name: &str| match name {
            "database" => "postgres://owner@localhost/brigade",
            _ => "nats://operator@localhost",
        };
        let url = |name: &str| {
            let text = text(name).to_owned();
            urls.contains(&name).then_some(SecretSetting { text, file: None })
        };
        RunConfig {
            nats_url: url("nats"),
            database_url: url("database"),
            own_nats_urls: url("own nats").map(|url| (WorkerName::Edge, url)).into_iter().collect(),
            own_database_urls: HashMap::new(),
            nats: NatsSettings::default(),
            listeners: Listeners {
                http: ([127, 0, 0, 1], 0).into(),
                http_tls: None,
                admin: ([127, 0, 0, 1], 0).into(),
            },
            replicas: 1,
            settings: Settings::default(),
            role_prefix: String::new(),
            nats_monitoring: None,
            fail_point: None,
        }
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let why = |result: Result<()>| result.map_err(|error| error.to_string());
        let hint = "(`brigade up` prints them under `env`)";
        let operators = |urls: &[&str]| why(config(urls).operators_urls().map(drop));
        let both = format!("BRIGADE_NATS_URL, BRIGADE_DATABASE_URL are not set {hint}");
        assert_eq!(operators(&[]), Err(both));
        let one = format!("BRIGADE_DATABASE_URL is not set {hint}");
        assert_eq!(operators(&["nats"]), Err(one));
        assert_eq!(operators(&["nats", "database"]), Ok(()));
        let workers = [WorkerName::Edge, WorkerName::Edge, WorkerName::OutboxRelay];
        let run = |urls: &[&str]| why(config(urls).servers(&workers).map(drop));
        let three = format!(
            "BRIGADE_DATABASE_URL_EDGE, BRIGADE_NATS_URL_OUTBOX_RELAY, \
             BRIGADE_DATABASE_URL_OUTBOX_RELAY are not set {hint}"
        );
        assert_eq!(run(&["own nats"]), Err(three));
        assert_eq!(run(&["nats", "database"]), Ok(()));
    }

    #[test]
    fn idle_carts_are_abandoned_after_a_week_unless_somebody_says_otherwise() {
        assert_eq!(idle_cart_hours(None).unwrap(), 168);
        assert_eq!(idle_cart_hours(Some("1")).unwrap(), 1);
        assert_eq!(idle_cart_hours(Some("0")).unwrap(), 0, "never");
        for bad in ["-1", "65536", "7d", "1.5", ""] {
            assert!(idle_cart_hours(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_taken_from_the_url_of_the_role_alone() {
        let password = |prefix: &str, url: &str| {
            let url = SecretSetting { text: url.to_owned(), file: None };
            let urls = HashMap::from([(WorkerName::Edge, url)]);
            let role_prefix = role_prefix(Some(prefix.to_owned()))?;
            let config = RunConfig { own_database_urls: urls, role_prefix, ..config(&[]) };
            config.database_password(WorkerName::Edge)
        };
        let of_edge = "postgres://edge:p%40ss@host:5432/brigade";
        assert_eq!(password("", of_edge).unwrap().as_deref(), Some("p@ss"));
        let prefixed = "postgres://shop_edge:secret@host/brigade";
        assert_eq!(password("shop_", prefixed).unwrap().as_deref(), Some("secret"));
        assert_eq!(password("", "postgres://edge@host/brigade").unwrap(), None);
        let why = password("shop_", of_edge).unwrap_err().to_string();
        assert!(why.contains("\"edge\"") && why.contains("\"shop_edge\""), "{why}");
        for bad in ["a b", "\"", "A", "pg_", &"x".repeat(33)] {
            assert!(password(bad, of_edge).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_switch_is_on_or_off_and_nothing_else() {
        assert!(switched_on(None).unwrap() && switched_on(Some("on")).unwrap());
        assert!(!switched_on(Some("off")).unwrap());
        assert!(switched_on(Some("0")).is_err());
    }
}
