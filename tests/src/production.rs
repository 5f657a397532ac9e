//! Servers and workers as `docs/production.md` has them: with its own files, statements and command
//! lines, in which nothing is replaced but paths, ports, names of machines and passwords.

mod compose;
mod nats;
mod postgres;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use async_nats::Client;
use brigade::infra::nats::NatsCredentials;
use brigade_contracts::WorkerName;
use brigade_servers::{NatsServer, PgBouncer, Postgres};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{Process, brigade},
    tls::{Authority, Certificate},
};

/// The page, whose statements and command lines are used.
pub const PAGE: &str = include_str!("../../docs/production.md");
/// The password of all roles of Postgres, at the beginning.
pub const PASSWORD: &str = "c0ffee";

/// The machines of the page, all on this one. What stands in `/etc` there is in a folder here.
pub struct Production {
    dir: TempDir,
    pub authority: Authority,
    pub nodes: Vec<NatsServer>,
    pub primary: Postgres,
    pub standby: Postgres,
    /// None where this machine has none: workers go to Postgres by themselves then.
    pub pgbouncer: Option<PgBouncer>,
}

impl Production {
    /// Starts the servers of steps 1 to 4.
    ///
    /// # Panics
    /// Where one does not start.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        let (primary, standby) = postgres::start(dir.path(), &authority).await;
        let pgbouncer = postgres::pgbouncer(dir.path(), &authority, primary.port()).await;
        let mut production =
            Self { dir, authority, nodes: Vec::new(), primary, standby, pgbouncer };
        production.write_settings();
        let fleet = production.json("tenants sync --accounts /etc/nats/accounts --json").await;
        let nodes = nats::start(production.dir.path(), &production.authority).await;
        production.nodes = nodes;
        production.write_secrets(&fleet);
        production
    }

    /// Returns where a file of the page is here.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// Replaces the paths of the page by those of here.
    fn here(&self, text: &str) -> String {
        here(self.dir.path(), text)
    }

    /// Writes the files with settings, and the certificates of workers and operators.
    fn write_settings(&self) {
        let write = |path: &str, text: &str| {
            let path = self.path(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, self.here(text)).expect("written");
        };
        write("/etc/brigade/brigade.env", include_str!("../../docs/production/brigade.env"));
        write("/etc/brigade/operator.env", include_str!("../../docs/production/operator.env"));
        let names = WorkerName::ALL.map(WorkerName::as_str);
        for name in names.into_iter().chain(["operator"]) {
            write(&format!("/etc/brigade/{name}/worker.env"), "BRIGADE_ADMIN_ADDR=127.0.0.1:0\n");
            self.authority.issue(
                &self.path(&format!("/etc/brigade/{name}")),
                "client",
                name,
                false,
            );
        }
        let edge = include_str!("../../docs/production/edge.env");
        write(
            "/etc/brigade/edge/worker.env",
            &edge.replace("0.0.0.0:8443", "127.0.0.1:0").replace("127.0.0.1:9108", "127.0.0.1:0"),
        );
        self.authority.issue(&self.path("/etc/brigade/edge"), "server", "127.0.0.1", false);
        self.authority.write(&self.path("/etc/brigade/ca.pem"));
        self.write("operator/database-url", &self.owners_url());
        for worker in WorkerName::ALL {
            self.write_database_url(worker, PASSWORD);
        }
        // Which `brigade tenants sync` does not need yet.
        self.write("operator/nats-url", "tls://operator@nats-1.internal");
    }

    /// Writes the URLs of NATS, with the passwords that `sync` has printed.
    fn write_secrets(&self, fleet: &Value) {
        for user in fleet["users"].as_array().expect("users") {
            let [name, password] =
                ["user", "password"].map(|field| user[field].as_str().expect("text"));
            self.write(&format!("{name}/nats-url"), &self.nats_url(name, password));
        }
    }

    /// Writes a file of `/etc/brigade`.
    fn write(&self, file: &str, text: &str) {
        fs::write(self.path("/etc/brigade").join(file), text).expect("written");
    }

    /// Writes the URL of a worker's database with this password.
    pub fn write_database_url(&self, worker: WorkerName, password: &str) {
        let url = match &self.pgbouncer {
            Some(pgbouncer) => {
                let url = quoted("postgres://edge:").replace("edge", worker.as_str());
                url.replace('…', password).replace("6432", &pgbouncer.port().to_string())
            }
            None => self.owners_url().replace("owner", worker.as_str()).replace(PASSWORD, password),
        };
        self.write(&format!("{worker}/database-url"), &url);
    }

    fn owners_url(&self) -> String {
        let url = self.here(quoted("postgres://owner:")).replace('…', PASSWORD);
        url.replace("pg.internal", &format!("127.0.0.1:{}", self.primary.port()))
    }

    /// Returns the NATS URL of a user, of all nodes.
    #[must_use]
    pub fn nats_url(&self, user: &str, password: &str) -> String {
        let mut url = quoted("tls://operator:").replace("operator", user).replace('…', password);
        for (number, node) in (1..).zip(&self.nodes) {
            let name = format!("nats-{number}.internal:4222");
            url = url.replace(&name, &format!("localhost:{}", node.port()));
        }
        url
    }

    /// Runs a command of the page as the operator, and returns how it ended.
    ///
    /// # Panics
    /// Where the page does not have it.
    pub async fn operate(&self, arguments: &str) -> Output {
        assert!(PAGE.contains(&format!("brigade {arguments}")), "{arguments} is not in the page");
        let mut command = brigade(&self.here(arguments));
        command.envs(self.settings(&self.path("/etc/brigade/operator.env")));
        command.stdout(std::process::Stdio::piped()).output().await.expect("it runs")
    }

    /// Runs a command of the page as the operator, and returns the object that it prints.
    ///
    /// # Panics
    /// Where it fails.
    pub async fn json(&self, arguments: &str) -> Value {
        let ended = self.operate(arguments).await;
        assert!(ended.status.success(), "{arguments}: {ended:?}");
        let printed = String::from_utf8(ended.stdout).expect("UTF-8");
        let object = printed.lines().find(|line| line.starts_with('{'));
        object.map(|line| serde_json::from_str(line).expect("JSON")).unwrap_or_default()
    }

    /// Reads the settings in a file.
    fn settings(&self, file: &Path) -> Vec<(String, String)> {
        let text = fs::read_to_string(file).expect("a file with settings");
        text.lines().filter(|line| !line.starts_with('#')).filter_map(setting).collect()
    }

    /// Starts a worker as its unit does.
    #[must_use]
    pub fn run(&self, worker: WorkerName) -> Process {
        let unit = include_str!("../../deploy/systemd/brigade@.service");
        let unit = self.here(unit).replace("%i", worker.as_str());
        let starts = |of: &'static str| unit.lines().filter_map(move |line| line.strip_prefix(of));
        let program = starts("ExecStart=/usr/local/bin/brigade ").next().expect("a program");
        let mut command = brigade(program);
        for file in starts("EnvironmentFile=") {
            command.envs(self.settings(Path::new(file)));
        }
        command.envs(starts("Environment=").filter_map(setting));
        Process::begin(command)
    }

    /// Connects a user of NATS, who shows a certificate of the authority.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn connect(&self, user: &str, password: &str) -> anyhow::Result<Client> {
        self.connect_to(&self.nats_url(user, password)).await
    }

    /// Connects by this URL.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn connect_to(&self, url: &str) -> anyhow::Result<Client> {
        let shown = self.certificate().nats_options();
        let (options, servers) = NatsCredentials::parse(url, "program", &shown)?.options();
        Ok(options.connect(servers).await?)
    }

    /// Gives PgBouncer another password of a worker.
    ///
    /// # Panics
    /// Where its file cannot be written.
    pub fn change_password_of_pgbouncer(&self, worker: WorkerName, password: &str) {
        let users = postgres::users(&[(worker, password)]);
        let users: Vec<_> = users.iter().map(|(user, word)| (*user, word.as_str())).collect();
        if let Some(pgbouncer) = &self.pgbouncer {
            pgbouncer.change_users(&users).expect("written");
        }
    }

    /// Waits until the standby has every commit again.
    pub async fn until_synchronous(&self) {
        postgres::until_standby(&self.primary, "streaming", "quorum").await;
    }

    /// Kills the primary, and makes the standby the primary: `pg.internal` is a port here.
    ///
    /// # Panics
    /// Where it does not become one.
    pub async fn fail_over(&mut self) {
        let port = self.primary.port();
        self.primary.kill().await;
        self.standby.stop().await;
        self.primary = postgres::promote(&self.dir.path().join("pg-2"), port).await;
    }

    /// Returns the certificate of a program.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        Certificate::in_folder(&self.path("/etc/brigade/operator"))
    }

    /// Copies the folder of accounts to each node, and has it read twice: `push-accounts`.
    pub async fn push_accounts(&self) {
        nats::push_accounts(self.dir.path(), &self.nodes).await;
    }

    /// Gives a node another certificate, and has it read.
    pub async fn renew_certificate(&self, node: usize, expired: bool) {
        nats::certify(self.dir.path(), &self.authority, node, expired);
        nats::reload(&self.nodes[node]).await;
    }
}

/// Replaces the paths of the page by those in a folder.
fn here(dir: &Path, text: &str) -> String {
    text.replace("/etc/", &format!("{}/etc/", dir.display()))
}

/// Starts a process of each worker, in the order of [`WorkerName::ALL`], and waits until they are
/// ready.
pub async fn start_all(start: impl Fn(WorkerName) -> Process) -> Vec<Process> {
    let processes: Vec<_> = WorkerName::ALL.map(start).into();
    for process in &processes {
        process.until_logged(&["\"message\":\"ready\""]).await;
    }
    processes
}

/// Returns what stands in backticks in the page, by its beginning.
fn quoted(beginning: &str) -> &'static str {
    let found = PAGE.split('`').skip(1).step_by(2).find(|text| text.starts_with(beginning));
    found.unwrap_or_else(|| panic!("the page has no {beginning}"))
}

/// Reads a line `NAME=value`.
pub(crate) fn setting(line: &str) -> Option<(String, String)> {
    line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}
