//! The `nats` CLI with the credentials of an operator, a producer and a watcher: its commands work,
//! and its output can be read without knowing the code.

use std::{path::PathBuf, process::Stdio, time::Duration};

use brigade_contracts::topology::Topology;
use brigade_tests::{Producer, TestFleet, interop, producer::placed};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::healing::until_healed;

/// Longest wait for output of the CLI: only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The CLI, on a fleet.
struct Cli {
    program: PathBuf,
    fleet: TestFleet,
}

impl Cli {
    async fn start() -> Option<Self> {
        Self::of(TestFleet::start()).await
    }

    async fn of(fleet: impl Future<Output = TestFleet>) -> Option<Self> {
        let program = interop::or_skip("the nats CLI", interop::nats_cli().await)?;
        Some(Self { program, fleet: fleet.await })
    }

    /// Returns a command with the credentials and inbox of a user, whatever contexts the machine's
    /// own user has.
    fn command(&self, user: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--server", &self.fleet.nats_url(user)]);
        command.args(["--inbox-prefix", &format!("_INBOX.{user}"), "--timeout", "10s"]);
        command.args(args).env("XDG_CONFIG_HOME", self.fleet.nats_dir()).env_remove("NATS_URL");
        command
    }

    async fn told(&self, user: &str, args: &[&str]) -> String {
        let told = interop::run(&mut self.command(user, args)).await;
        told.unwrap_or_else(|error| panic!("{error:#}"))
    }

    async fn refused(&self, user: &str, args: &[&str]) -> String {
        let told = interop::run(&mut self.command(user, args)).await;
        told.expect_err("this is not allowed").to_string()
    }

    async fn produced(&self, args: &[&str]) -> String {
        self.told("t1-producer", args).await
    }
}

/// Returns a cell of a table that the CLI printed, by the first cell of its row and its column's
/// name.
fn cell<'a>(table: &'a str, row: &str, column: &str) -> &'a str {
    let cells = |line: &'a str| line.split('│').map(str::trim).skip(1).collect::<Vec<_>>();
    let lines: Vec<_> = table.lines().map(cells).collect();
    let at = lines.iter().find_map(|cells| cells.iter().position(|cell| *cell == column));
    let found = lines.iter().find(|cells| cells.contains(&row));
    let (Some(at), Some(cells)) = (at, found) else { panic!("no {row}, {column} in\n{table}") };
    cells[at]
}

fn contains(told: &str, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
}

const OPEN: &str = r#"{"kind":"team","owner":"ada","currency":"EUR"}"#;
const JOIN: &str = r#"{"user":"bob"}"#;

#[tokio::test]
async fn a_producer_sends_and_asks_by_the_cli() {
    let Some(cli) = Cli::start().await else { return };
    let opened = cli.produced(&["req", "req.t1.cart.c1.open", OPEN, "-H", "Command-Id:k1"]).await;
    contains(&opened, &["Brigade-Status: 201", r#""effects":["cart.c1@1"]"#]);
    let join = ["pub", "cmd.t1.cart.c1.join", JOIN, "-H", "Command-Id:k2", "--jetstream"];
    contains(&cli.produced(&join).await, &["Stored in Stream: COMMANDS"]);
    let outcome = ["req", "q.t1.outcome.k2", "", "-H", "Wait-Ms:20000"];
    contains(&cli.produced(&outcome).await, &["Brigade-Status: 200", r#""version":2"#]);
    let view = cli.produced(&["req", "q.t1.view.cart.c1", ""]).await;
    contains(&view, &["Brigade-Status: 200", "ETag: \"2\"", r#""due":0"#]);
    let known = ["req", "q.t1.view.cart.c1", "", "-H", "If-None-Match:\"2\""];
    contains(&cli.produced(&known).await, &["Brigade-Status: 304", "ETag: \"2\""]);
    let none = cli.produced(&["req", "q.t1.view.cart.c2", ""]).await;
    contains(&none, &["Brigade-Status: 404", "not_found", "Nats-Service-Error-Code: 404"]);

    // By a plain `pub`: `req` and `--jetstream` only wait in vain for what the server refuses.
    for (user, subject) in [
        ("t1-producer", "req.t2.cart.c1.abandon"),
        ("t1-producer", "cmd.t1.cart.c1.rebuild_cache"),
        ("t1-watcher", "cmd.t1.cart.c1.abandon"),
        ("operator", "$KV.views.t1.cart.c1.core"),
        ("operator", "evt.t1.cart.abandoned.00"),
    ] {
        let told = cli.refused(user, &["pub", subject, "{}", "-H", "Command-Id:k3"]).await;
        contains(&told, &["Permissions Violation for Publish", subject]);
    }
    cli.fleet.finish().await;
}

#[tokio::test]
async fn a_watcher_is_pushed_changes_by_the_cli() {
    let Some(cli) = Cli::start().await else { return };
    let args = ["sub", "live.active_orders.t1.>", "--count", "2"];
    let mut watching = cli.command("t1-watcher", &args);
    let watching = watching.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let watching = watching.spawn().expect("it starts");
    let producer = cli.fleet.producer().await;
    // It does not tell when it listens, so there are orders until it has its two.
    let ordering = async {
        for order in 0.. {
            let items = placed(&[("Soup", 500, 1)]);
            producer.send(&format!("order.o{order}.place"), items).await;
        }
    };
    let output = tokio::select! {
        output = timeout(PATIENCE, watching.wait_with_output()) => output,
        () = ordering => unreachable!("there is no last order"),
    };
    let output = output.expect("two pushes in time").expect("its output");
    let told = String::from_utf8_lossy(&output.stdout);
    contains(&told, &["live.active_orders.t1.o", "Nats-Sequence", r#""change":{"kind":"added""#]);
    cli.fleet.finish().await;
}

#[tokio::test]
async fn an_operator_reads_streams_buckets_and_consumers_by_the_cli() {
    let Some(cli) = Cli::start().await else { return };
    let producer = cli.fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    producer.publish("k1", "cart.c1.join", serde_json::json!({"user": "eve"})).await;
    cli.fleet.until_idle().await;
    let operator = async |args: &'static [&'static str]| cli.told("operator", args).await;
    // By then each bucket has its canary.
    until_healed(&cli.fleet).await;

    let (streams, buckets) = (operator(&["stream", "ls"]).await, operator(&["kv", "ls"]).await);
    for (name, config) in Topology::compiled_in().streams {
        let (table, name) = match name.strip_prefix("KV_") {
            Some(bucket) => (&buckets, bucket),
            None => (&streams, name.as_str()),
        };
        assert_eq!(cell(table, name, "Description"), config["description"]);
    }
    assert_eq!(cell(&streams, "EVENTS", "Messages"), "3");
    assert_eq!(cell(&streams, "DLQ", "Messages"), "0");
    assert_eq!(cell(&buckets, "versions", "Values"), "2");
    assert_eq!(cell(&buckets, "views", "Values"), "3");
    let report = operator(&["stream", "report"]).await;
    assert_eq!(cell(&report, "COMMANDS", "Messages"), "1");
    let report = operator(&["consumer", "report", "EVENTS"]).await;
    for column in ["Ack Pending", "Redelivered", "Unprocessed"] {
        assert_eq!(cell(&report, "payment-projector", column), "0");
    }
    let told = operator(&["stream", "info", "COMMANDS"]).await;
    contains(&told, &["writers: producers", "readers: command-handler", "if_lost: "]);
    let told = operator(&["consumer", "info", "COMMANDS", "command-handler"]).await;
    contains(&told, &["Decides commands", "if_it_lags: ", "start more command-handlers"]);
    contains(
        &operator(&["kv", "info", "views"]).await,
        &["key: <tenant>.<aggregate>", "readers: "],
    );
    let counters = operator(&["kv", "get", "versions", "t1.cart.c1", "--raw"]).await;
    contains(&counters, &[r#"{"version":3,"parts":{"core":3,"payments":3},"#]);
    cli.fleet.finish().await;
}

/// As the page for production says, after all of NATS was lost: before any worker runs.
#[tokio::test]
async fn an_operator_backs_up_what_is_undecided_and_restores_it_by_the_cli() {
    let Some(mut cli) = Cli::of(TestFleet::empty()).await else { return };
    let t1 = Producer::new(cli.fleet.connect("t1-producer").await, "t1");
    t1.store("k1", "order.o1.place", &placed(&[("Soup", 500, 1)]).to_string()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().to_str().expect("a path");
    for args in [
        &["stream", "backup", "COMMANDS", folder, "--no-progress"][..],
        &["stream", "rm", "COMMANDS", "--force"],
        &["stream", "restore", folder, "--no-progress"],
    ] {
        cli.told("operator", args).await;
    }
    cli.fleet.run_all().await;
    cli.fleet.until_idle().await;
    assert_eq!(t1.view("order.o1", None).await.status, 200);
    cli.fleet.finish().await;
}

#[tokio::test]
async fn an_operator_watches_a_bucket_and_the_service_by_the_cli() {
    let Some(cli) = Cli::start().await else { return };
    let producer = cli.fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    producer.view("cart.c1", None).await;
    cli.fleet.until_idle().await;
    let mut watching = cli.command("operator", &["kv", "watch", "views", "t1.cart.c1.*"]);
    let watching = watching.stdout(Stdio::piped()).kill_on_drop(true);
    let mut watching = watching.spawn().expect("it starts");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut keys = Vec::new();
    while keys.len() < 2 {
        let line = timeout(PATIENCE, lines.next_line());
        let line = line.await.expect("a change in time").expect("readable").expect("a change");
        if line.contains("PUT views > t1.cart.c1.") {
            keys.push(line);
        }
    }
    keys.sort_by_key(|line| line.contains(".payments: "));
    contains(&keys[0], &["t1.cart.c1.core: ", r#""owner":"ada""#]);
    contains(&keys[1], &["t1.cart.c1.payments: ", r#""paid":0"#]);
    watching.kill().await.expect("killed");

    let services = cli.told("operator", &["micro", "ls"]).await;
    contains(cell(&services, "edge", "Description"), &["active orders", "locks", "users"]);
    let stats = cli.told("operator", &["micro", "stats", "edge"]).await;
    assert_eq!(cell(&stats, "view", "Requests"), "1");
    assert_eq!(cell(&stats, "view", "Errors"), "0");
    assert_eq!(cell(&stats, "outcome", "Requests"), "0");
    let info = cli.told("operator", &["micro", "info", "edge"]).await;
    contains(&info, &["promise: ", "ask: q.<tenant>.view.<aggregate>.<id>", "answers: 200"]);
    cli.fleet.finish().await;
}
