//! The first minute of somebody who tries the product: `brigade up --sample` and `brigade env`.

use std::{fs, path::Path};

use brigade::testing::until;
use brigade_tests::{
    interop,
    process::{HIDDEN_TEST, brigade},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Returns the `export` lines that `brigade env` prints, or what it complains of.
async fn environment(dir: &Path) -> Result<String, String> {
    let mut env = brigade(&format!("env --dir {}", dir.display()));
    let ended = env.stdout(std::process::Stdio::piped()).output().await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if !ended.status.success() {
        return Err(text(ended.stderr));
    }
    // This test binary begins with words of its own.
    let printed = text(ended.stdout);
    Ok(printed.lines().filter(|line| line.starts_with("export ")).collect::<Vec<_>>().join("\n"))
}

/// Runs a script in a shell that has taken up the environment.
async fn in_shell(environment: &str, script: &str) -> String {
    let mut shell = Command::new("bash");
    shell.args(["-eu", "-c", &format!("{environment}\n{script}")]).env("NO_PROXY", "127.0.0.1");
    interop::run(&mut shell).await.unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test]
async fn up_has_a_restaurant_to_look_at_and_env_says_how_to_join() {
    let folder = tempfile::tempdir().expect("a folder");
    // A quote must not end a word of the shell.
    let dir = folder.path().join("it's-here");
    let missing = environment(&dir).await.expect_err("nothing runs there");
    assert!(missing.contains("no `brigade up` runs on"), "{missing}");
    let ports = ["nats", "http", "admin", "gateway", "postgres"].map(|of| format!("--{of}-port 0"));
    let arguments = format!("up --open --sample 600 --dir {} {}", dir.display(), ports.join(" "));
    let mut up = brigade(&arguments).spawn().expect("it starts");
    let line = until("the stack to be ready", || async {
        serde_json::from_str::<Value>(&fs::read_to_string(dir.join("up.json")).ok()?).ok()
    })
    .await;

    let env = environment(&dir).await.expect("it runs");
    let http = in_shell(&env, "echo \"$HTTP $NATS_CONTEXT\"").await;
    let operator = dir.join("contexts/operator.json");
    let url = line["http_url"].as_str().expect("edge runs");
    assert_eq!(http.trim(), format!("{url} {}", operator.display()));
    until("a party to have ordered", || async {
        let rows = in_shell(&env, "curl -fsS \"$HTTP/v1/demo/active-orders\"").await;
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        rows["rows"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(())
    })
    .await;
    let products = in_shell(&env, "curl -fsS \"$HTTP/v1/demo/products\"").await;
    assert!(products.contains("Pizza Margherita"), "{products}");
    if let Some(nats) = interop::or_skip("the nats CLI", interop::nats_cli().await) {
        let script = format!(
            "{nats} --context \"$SCREEN\" sub --count 1 'live.*.demo.>'
             {nats} --context \"$BACKEND\" req q.demo.products '' --raw
             {nats} stream ls --names",
            nats = nats.display()
        );
        let said = in_shell(&env, &script).await;
        for part in ["live.", "\"products\"", "EVENTS"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }

    let pid = Pid::from_raw(up.id().expect("it runs").cast_signed()).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    let mut log = String::new();
    let stderr = up.stderr.as_mut().expect("piped");
    let read = tokio::io::AsyncReadExt::read_to_string(stderr, &mut log);
    timeout(PATIENCE, read).await.expect("it ends").expect("UTF-8");
    let ended = timeout(PATIENCE, up.wait()).await.expect("it ends").expect("a status");
    assert!(ended.success(), "{HIDDEN_TEST}: {ended}\n{log}");
    for part in ["brigade is up", url, "mia@example.org", " env --dir "] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(!log.contains("left early"), "{log}");
    environment(&dir).await.expect_err("nothing runs there any more");
}
