//! A Prometheus with the committed alerts, which scrapes the processes of a test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use brigade_servers::port::free_port;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    deploy::{path, tool},
    until,
};

/// Scrapes and evaluates each second; killed when dropped.
pub struct Prometheus {
    url: String,
    dir: TempDir,
    client: reqwest::Client,
    _server: Child,
}

/// An alert that fires, or is about to.
#[derive(Clone, Debug)]
pub struct Alert {
    pub name: String,
    pub is_firing: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Prometheus {
    /// Starts one that scrapes nothing yet, or says that the test is skipped: this machine has none.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start() -> Option<Self> {
        let binary = tool("prometheus")?;
        let dir = tempfile::tempdir().expect("a folder");
        let configuration = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [path("deploy/prometheus/alerts.yml")],
            "scrape_configs": [{
                "job_name": "brigade",
                "file_sd_configs": [{ "files": [dir.path().join("targets.json")] }],
            }],
        });
        fs::write(dir.path().join("prometheus.yml"), configuration.to_string()).expect("written");
        let client = reqwest::Client::new();
        loop {
            let port = free_port().expect("a port");
            let mut server = launch(&binary, dir.path(), port);
            let url = format!("http://127.0.0.1:{port}");
            // One whose port another program took meanwhile ends.
            let is_up = until("Prometheus to be ready or gone", || async {
                let asked = client.get(format!("{url}/-/ready")).send().await;
                asked.is_ok_and(|answer| answer.status().is_success()).then_some(())
            });
            tokio::select! {
                () = is_up => return Some(Self { url, dir, client, _server: server }),
                _ = server.wait() => {}
            }
        }
    }

    /// Scrapes these processes from now on, each `http://<address>`, and no others.
    ///
    /// # Panics
    /// Where the list cannot be written.
    pub fn scrape(&self, processes: impl IntoIterator<Item = String>) {
        let processes = processes.into_iter();
        let addresses: Vec<_> =
            processes.map(|url| url.trim_start_matches("http://").to_owned()).collect();
        let targets = json!([{ "targets": addresses }]).to_string();
        // Moved to its place when it is whole.
        let partial = self.dir.path().join("targets.partial");
        fs::write(&partial, targets).expect("written");
        fs::rename(partial, self.dir.path().join("targets.json")).expect("moved");
    }

    /// Returns the series of an expression as they are now.
    ///
    /// # Panics
    /// Where Prometheus refuses the expression.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/query", self.url);
        let url = reqwest::Url::parse_with_params(&url, [("query", expression)]).expect("a URL");
        let answer: Value =
            self.client.get(url).send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().expect("series").clone()
    }

    /// Returns the alerts that fire, and those whose condition has held for too short a time.
    ///
    /// # Panics
    /// Where Prometheus does not answer.
    pub async fn alerts(&self) -> Vec<Alert> {
        let asked = self.client.get(format!("{}/api/v1/alerts", self.url)).send().await;
        let answer: Value = asked.expect("an answer").json().await.expect("JSON");
        let alerts = answer["data"]["alerts"].as_array().expect("alerts").iter();
        let text = |alert: &Value, field: &str| {
            serde_json::from_value::<BTreeMap<String, String>>(alert[field].clone()).expect("text")
        };
        let alert = |alert: &Value| {
            let labels = text(alert, "labels");
            Alert {
                name: labels["alertname"].clone(),
                is_firing: alert["state"] == "firing",
                annotations: text(alert, "annotations"),
                labels,
            }
        };
        alerts.map(alert).collect()
    }
}

fn launch(binary: &PathBuf, dir: &Path, port: u16) -> Child {
    let argument = |name: &str, value: String| format!("--{name}={value}");
    let log = fs::File::create(dir.join("prometheus.log")).expect("a log");
    Command::new(binary)
        .arg(argument("config.file", dir.join("prometheus.yml").display().to_string()))
        .arg(argument("storage.tsdb.path", dir.join("data").display().to_string()))
        .arg(argument("web.listen-address", format!("127.0.0.1:{port}")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}
