//! Workers in processes of their own, to be killed with -9.
//!
//! A test binary starts itself again with a hidden test that is the `brigade` program, so the
//! process always is the code under test, fail points included.

use std::{
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
};

use brigade_contracts::WorkerName;
use sqlx::ConnectOptions;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{Town, until};

/// Name of the hidden test that calls [`brigade_main`].
pub const HIDDEN_TEST: &str = "brigade_process";
const ARGUMENTS: &str = "BRIGADE_TEST_ARGUMENTS";

/// What the hidden test does: it is `brigade` with the arguments that the parent chose.
#[expect(clippy::disallowed_methods, reason = "how the parent test speaks to its child")]
pub fn brigade_main() {
    let arguments = std::env::var(ARGUMENTS).expect("started by another test");
    let arguments = arguments.split(' ').map(Into::into);
    let code = brigade_cli::run_with(std::iter::once("brigade".into()).chain(arguments));
    // Without the test's own last lines, which nobody may read any more.
    if code == ExitCode::SUCCESS {
        std::process::exit(0);
    }
}

/// The program with these arguments, separated by spaces, in a process of its own.
fn brigade(arguments: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args([HIDDEN_TEST, "--exact", "--ignored", "--nocapture", "--quiet"])
        .env(ARGUMENTS, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A command of operators, who reach the database as its owner.
fn of_operators(town: &Town, arguments: &str) -> Command {
    let database_url = town.sql.connect_options().to_url_lossy().to_string();
    let mut command = brigade(arguments);
    command
        .env("BRIGADE_DATABASE_URL", database_url)
        .env("BRIGADE_NATS_URL", town.nats_url("operator"))
        .stdout(Stdio::piped());
    command
}

/// Runs a command of operators and returns what it prints.
///
/// # Panics
/// Where it does not end well.
pub async fn printed(town: &Town, arguments: &str) -> String {
    let ended = of_operators(town, arguments).output().await.expect("it runs");
    assert!(ended.status.success(), "{arguments}: {ended:?}");
    String::from_utf8(ended.stdout).expect("UTF-8")
}

/// Runs a command of operators whose reader goes away after the first line with this text.
///
/// # Panics
/// Where the command does not end well and without a word.
pub async fn ends_quietly_unread(town: &Town, arguments: &str, text: &str) {
    let mut child = of_operators(town, arguments).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    while !lines.next_line().await.expect("text").expect("a line").contains(text) {}
    drop(lines);
    let ended = child.wait_with_output().await.expect("it runs");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{arguments}: {ended:?}");
}

/// A `brigade run` of its own; killed when dropped.
pub struct Process {
    pub child: Child,
    /// What it has logged.
    log: Arc<Mutex<String>>,
    /// Ends with the log.
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts workers in a process and waits until it says that they are ready. With a fail point
    /// it aborts where that is reached, or stops there (`stop:<name>`). Its locks live as long as
    /// those of the town, in whole seconds.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start(town: &Town, workers: &[WorkerName], fail_point: Option<&str>) -> Self {
        let process = Self::spawn(town, workers, fail_point);
        // One that dies before it is ready closes its log: that is for the caller to see.
        until("the process to be ready or gone", || async {
            let over = process.reader.is_finished();
            (over || process.log().contains("\"message\":\"ready\"")).then_some(())
        })
        .await;
        process
    }

    /// The same for one that may never be ready.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn spawn(town: &Town, workers: &[WorkerName], fail_point: Option<&str>) -> Self {
        let names: Vec<_> = workers.iter().map(|worker| worker.as_str()).collect();
        let mut command = brigade(&format!("run {}", names.join(" ")));
        command.env("BRIGADE_LOG_FORMAT", "json").env("BRIGADE_LOG", "info,brigade=trace");
        for worker in workers {
            let servers = town.servers(*worker);
            let suffix = worker.env_suffix();
            command.env(format!("BRIGADE_NATS_URL_{suffix}"), servers.nats_url);
            command.env(format!("BRIGADE_DATABASE_URL_{suffix}"), servers.postgres_url);
        }
        let policy = &town.settings.lock_policy;
        for (method, timeout) in [
            ("CARD", policy.card),
            ("WALLET", policy.wallet),
            ("QR", policy.qr),
            ("CASH", policy.cash),
        ] {
            let seconds = timeout.as_secs().max(1).to_string();
            command.env(format!("BRIGADE_LOCK_SECONDS_{method}"), seconds);
        }
        command.env("BRIGADE_IDLE_CART_HOURS", town.settings.idle_cart_hours.to_string());
        if let Some(trust) = &town.trust {
            command.env("SSL_CERT_FILE", &trust.authority).env_remove("SSL_CERT_DIR");
        }
        if let Some(name) = fail_point {
            command.env("BRIGADE_FAIL_POINT", name);
        }
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        // It is read all the time, so that the process never waits for its log.
        let written = log.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                keep(&written, &line);
            }
        });
        Self { child, log, reader }
    }

    /// Waits until it has logged a line with each of these in it.
    pub async fn until_logged(&self, parts: &[&str]) {
        until(&format!("{parts:?} in the log"), || async {
            let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
            self.log().lines().any(has_all).then_some(())
        })
        .await;
    }

    /// What it has logged.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Waits until it has stopped itself.
    ///
    /// # Panics
    /// Where it ends instead.
    pub async fn stopped(&self) {
        let stat = format!("/proc/{}/stat", self.child.id().expect("it runs"));
        until("the process to stop", || async {
            let stat = tokio::fs::read_to_string(&stat).await.expect("it runs");
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(())
        })
        .await;
    }

    /// SIGCONT.
    pub async fn goes_on(&self) {
        self.signal("CONT").await;
    }

    /// A signal, such as TERM.
    ///
    /// # Panics
    /// Where it is gone.
    pub async fn signal(&self, name: &str) {
        signal(self.child.id().expect("it runs"), name).await;
    }

    /// Where it serves: `http://<address>`.
    ///
    /// # Panics
    /// Where it did not say so.
    #[must_use]
    pub fn http(&self) -> String {
        let log = self.log();
        let (_, rest) = log.split_once("\"http\":\"").expect("it says where");
        let (address, _) = rest.split_once('"').expect("JSON");
        format!("http://{address}")
    }

    /// What of its memory is in use, and was at most, in KiB.
    ///
    /// # Panics
    /// Where it is gone, or this is not Linux.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let status = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(status).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).expect("a number")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// kill -9.
    ///
    /// # Panics
    /// Where it cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// Where it cannot be waited for.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().await.expect("waited for")
    }
}

/// Sends a signal, such as STOP, to a process that the test has started.
///
/// # Panics
/// Where it is gone.
pub async fn signal(process: u32, name: &str) {
    let arguments = [format!("-{name}"), process.to_string()];
    let sent = Command::new("kill").args(arguments).status().await;
    assert!(sent.expect("kill").success());
}

fn keep(log: &Mutex<String>, line: &str) {
    let mut log = log.lock().expect("not poisoned");
    log.push_str(line);
    log.push('\n');
}
