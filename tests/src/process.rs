//! Workers in processes of their own, to be killed with -9.
//!
//! A test binary starts itself again with a hidden test that is the `brigade` program, so the
//! process always is the code under test, fail points included.

use std::{
    ffi::OsString,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
};

use brigade_contracts::WorkerName;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{TestFleet, Trust, until};

/// Name of the hidden test that calls [`brigade_main`].
pub const HIDDEN_TEST: &str = "brigade_process";
const ARGUMENTS: &str = "BRIGADE_TEST_ARGUMENTS";

/// Runs `brigade` with the arguments that the parent test chose: the hidden test.
#[expect(clippy::disallowed_methods, reason = "how the parent test speaks to its child")]
pub fn brigade_main() {
    let arguments = std::env::var(ARGUMENTS).expect("started by another test");
    let arguments = arguments.split(' ').map(Into::into);
    let code = brigade_cli::run_with(std::iter::once("brigade".into()).chain(arguments));
    // Here, as the program ends: the test that this is would say that it has passed.
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

/// Returns the arguments and the variables with which this test binary is `brigade <arguments>`.
#[must_use]
pub fn launch(arguments: &str) -> (Vec<OsString>, Vec<(String, String)>) {
    let hidden = [HIDDEN_TEST, "--exact", "--ignored", "--nocapture", "--quiet"];
    (hidden.map(Into::into).to_vec(), vec![(ARGUMENTS.to_owned(), arguments.to_owned())])
}

/// Returns the command of the program with these arguments, separated by spaces.
///
/// # Panics
/// Where this test binary has no path.
#[must_use]
pub fn brigade(arguments: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let (launched, variables) = launch(arguments);
    command
        .args(launched)
        .envs(variables)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Tells a process what to trust, and what to show.
fn trust(command: &mut Command, fleet: &TestFleet) {
    match &fleet.trust {
        Some(Trust { certificate: Some(files), .. }) => {
            command
                .env("BRIGADE_NATS_CA", &files.authority)
                .env("BRIGADE_NATS_CERT", &files.certificate)
                .env("BRIGADE_NATS_KEY", &files.key);
        }
        Some(trust) => {
            command.env("SSL_CERT_FILE", &trust.authority).env_remove("SSL_CERT_DIR");
        }
        None => {}
    }
}

/// Returns an operator's command, with the database's owner.
fn of_operators(fleet: &TestFleet, arguments: &str) -> Command {
    let database_url = &fleet.database.url;
    let mut command = brigade(arguments);
    command
        .env("BRIGADE_DATABASE_URL", database_url)
        .env("BRIGADE_NATS_URL", fleet.nats_url("operator"))
        .stdout(Stdio::piped());
    trust(&mut command, fleet);
    command
}

/// Runs an operator's command and returns its output.
///
/// # Panics
/// Where it fails.
pub async fn printed(fleet: &TestFleet, arguments: &str) -> String {
    let ended = of_operators(fleet, arguments).output().await.expect("it runs");
    assert!(ended.status.success(), "{arguments}: {ended:?}");
    String::from_utf8(ended.stdout).expect("UTF-8")
}

/// Runs an operator's command that fails, and returns what it complains of.
///
/// # Panics
/// Where it does not fail.
pub async fn refused(fleet: &TestFleet, arguments: &str) -> String {
    let ended = of_operators(fleet, arguments).output().await.expect("it runs");
    assert!(!ended.status.success(), "{arguments}: {ended:?}");
    String::from_utf8(ended.stderr).expect("UTF-8")
}

/// Starts an operator's command, whose output is kept; it is killed when dropped.
///
/// # Panics
/// Where it does not start.
#[must_use]
pub fn started(fleet: &TestFleet, arguments: &str) -> Child {
    of_operators(fleet, arguments).spawn().expect("it starts")
}

/// Runs an operator's command and closes its output after the first line with this text.
///
/// # Panics
/// Where the command fails or complains.
pub async fn ends_quietly_unread(fleet: &TestFleet, arguments: &str, text: &str) {
    let mut child = of_operators(fleet, arguments).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    while !lines.next_line().await.expect("text").expect("a line").contains(text) {}
    drop(lines);
    let ended = child.wait_with_output().await.expect("it runs");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{arguments}: {ended:?}");
}

/// A `brigade run` of its own; killed when dropped.
pub struct Process {
    pub child: Child,
    /// The lines that it has logged.
    log: Arc<Mutex<String>>,
    /// Ends with the log.
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts workers in a process and waits until they are ready. With a fail point the process
    /// aborts there, or stops there (`stop:<name>`). Its settings are those of the fleet.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start(
        fleet: &TestFleet,
        workers: &[WorkerName],
        fail_point: Option<&str>,
    ) -> Self {
        let process = Self::spawn(fleet, workers, fail_point);
        // One that dies before it is ready closes its log: that is for the caller to see.
        until("the process to be ready or gone", || async {
            let over = process.reader.is_finished();
            (over || process.log().contains("\"message\":\"ready\"")).then_some(())
        })
        .await;
        process
    }

    /// Starts workers in a process that may never be ready.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn spawn(fleet: &TestFleet, workers: &[WorkerName], fail_point: Option<&str>) -> Self {
        Self::spawn_with(fleet, workers, fail_point, &[])
    }

    /// The same with variables of the environment besides; an empty one counts as absent.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn spawn_with(
        fleet: &TestFleet,
        workers: &[WorkerName],
        fail_point: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Self {
        let names: Vec<_> = workers.iter().map(|worker| worker.as_str()).collect();
        let mut command = brigade(&format!("run {}", names.join(" ")));
        command.env("BRIGADE_LOG_FORMAT", "json").env("BRIGADE_LOG", "info,brigade=trace");
        for worker in workers {
            let servers = fleet.servers(*worker);
            let suffix = worker.env_suffix();
            command.env(format!("BRIGADE_NATS_URL_{suffix}"), servers.nats_url);
            command.env(format!("BRIGADE_DATABASE_URL_{suffix}"), servers.postgres_url);
        }
        let policy = &fleet.settings.lock_policy;
        for (method, timeout) in [
            ("CARD", policy.card),
            ("WALLET", policy.wallet),
            ("QR", policy.qr),
            ("CASH", policy.cash),
        ] {
            let seconds = timeout.as_secs().max(1).to_string();
            command.env(format!("BRIGADE_LOCK_SECONDS_{method}"), seconds);
        }
        // A test that is about them says so.
        command.env("BRIGADE_HTTP_RATES", "off");
        command.env("BRIGADE_IDLE_CART_HOURS", fleet.settings.idle_cart_hours.to_string());
        trust(&mut command, fleet);
        if let Some(name) = fail_point {
            command.env("BRIGADE_FAIL_POINT", name);
        }
        command.envs(environment.iter().copied());
        Self::begin(command)
    }

    /// Starts the program, whose settings are set, and reads its log.
    pub(crate) fn begin(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        // It is read all the time, so that the process never waits for its log.
        let written = log.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                append(&written, &line);
            }
        });
        Self { child, log, reader }
    }

    /// Waits until it has logged a line with all of these parts.
    pub async fn until_logged(&self, parts: &[&str]) {
        until(&format!("{parts:?} in the log"), || async {
            let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
            self.log().lines().any(has_all).then_some(())
        })
        .await;
    }

    /// Returns what it has logged.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Waits until it has stopped itself at its fail point.
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

    /// Lets a stopped process go on (SIGCONT).
    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    /// Sends it a signal, such as TERM.
    ///
    /// # Panics
    /// Where it is gone.
    pub async fn signal(&self, name: &str) {
        signal(self.child.id().expect("it runs"), name).await;
    }

    /// Returns where edge serves the API: `http://<address>`.
    ///
    /// # Panics
    /// Where it has not logged that.
    #[must_use]
    pub fn http(&self) -> String {
        self.logged_url("http")
    }

    /// Returns where it serves `/livez`, `/readyz` and `/metrics`: `http://<address>`.
    ///
    /// # Panics
    /// Where it has not logged that.
    #[must_use]
    pub fn admin(&self) -> String {
        self.logged_url("admin")
    }

    fn logged_url(&self, name: &str) -> String {
        let log = self.log();
        let (_, rest) = log.split_once(&format!("\"{name}\":\"")).expect("it says where");
        let (address, _) = rest.split_once('"').expect("JSON");
        format!("http://{address}")
    }

    /// Returns its memory now and at most, in KiB.
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

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// Where it cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Waits until it has ended.
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

fn append(log: &Mutex<String>, line: &str) {
    let mut log = log.lock().expect("not poisoned");
    log.push_str(line);
    log.push('\n');
}
