//! What the alerts, the runbooks and the dashboard say of each other, of the reference and of
//! `brigade status`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use brigade::operations::status::{AUDIT_SECONDS, LAGS_SECONDS, OWED_SECONDS, UNKNOWN_SECONDS};
use brigade_tests::{
    deploy::{accepted, document, path, read, tool},
    prometheus::Prometheus,
    promql::{Names, documented, names},
};
use serde_json::{Value, json};
use tokio::process::Command;

const RUNBOOKS: &str = "docs/runbooks/README.md";

/// Returns the alerts.
pub fn rules() -> Vec<Value> {
    let file = document("deploy/prometheus/alerts.yml");
    let groups = file["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_else(|| panic!("no {field} in {of}"))
}

/// Returns the panels of the dashboard with the expressions of each.
fn panels() -> BTreeMap<String, Vec<String>> {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/brigade.json")).expect("JSON");
    let mut found = BTreeMap::new();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    for panel in panels.filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("targets").iter();
        let expressions: Vec<_> = targets.map(|of| text(of, "expr").to_owned()).collect();
        assert!(!expressions.is_empty() && !text(panel, "description").is_empty());
        let number = panel["id"].as_u64().expect("a number");
        found.insert(format!("{number}: {}", text(panel, "title")), expressions);
    }
    found
}

/// Returns the expressions of the dashboard, as Grafana sends them.
fn queries() -> impl Iterator<Item = String> {
    panels().into_values().flatten().map(|query| query.replace("$__rate_interval", "20s"))
}

/// A running fleet answers each query of the dashboard.
pub async fn each_panel_is_answered(prometheus: &Prometheus) {
    for query in queries() {
        prometheus.query(&query).await;
    }
}

#[test]
fn s8_06_each_alert_has_its_section_in_the_runbooks_and_no_other_has() {
    let page = read(RUNBOOKS);
    let sections = page.split("\n## ").skip(1);
    let mut sections: BTreeMap<&str, &str> =
        sections.filter_map(|section| section.split_once('\n')).collect();
    for rule in rules() {
        let name = text(&rule, "alert");
        let section = sections.remove(name).unwrap_or_else(|| panic!("{name} has no section"));
        for part in ["**Means:**", "**People see:**", "**First:**", "**Mend:**"] {
            let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains(part), "{name}: {part}");
        }
        let link = format!("{RUNBOOKS}#{}", name.to_lowercase());
        assert_eq!(text(&rule["annotations"], "runbook_url"), link);
    }
    let rest: Vec<_> = sections.into_keys().collect();
    assert_eq!(rest, ["Before anything else", "What no alert sees"]);
}

#[test]
fn s8_06_each_alert_says_how_bad_it_is_and_is_soon() {
    for rule in rules() {
        let name = text(&rule, "alert");
        let severity = text(&rule["labels"], "severity");
        assert!(["critical", "warning"].contains(&severity), "{name}");
        // Within 30 s: 6 s without a sign of life, a look each 3 s, a scrape and an evaluation each
        // 5 s, and this.
        assert!(["10s", ""].contains(&rule["for"].as_str().unwrap_or_default()), "{name}");
        assert!(text(&rule["annotations"], "description").len() > 100, "{name}");
    }
}

#[test]
fn s8_06_limits_are_those_of_status() {
    let rules = rules();
    let limit = |alert: &str| {
        let rule = rules.iter().find(|rule| rule["alert"] == alert).expect("there");
        let (_, limit) = text(rule, "expr").rsplit_once("> ").expect("a limit");
        limit.parse::<f64>().expect("a number")
    };
    for (alert, seconds) in [
        ("BrigadeConsumerLags", LAGS_SECONDS),
        ("BrigadeOutboxLags", LAGS_SECONDS),
        ("BrigadeProjectionLags", LAGS_SECONDS),
        ("BrigadeLocksOverdue", LAGS_SECONDS),
        ("BrigadeRefundWaits", OWED_SECONDS),
        ("BrigadePaymentUnknown", UNKNOWN_SECONDS),
        ("BrigadeAuditOld", AUDIT_SECONDS),
    ] {
        assert_eq!(limit(alert).to_bits(), seconds.to_bits(), "{alert}");
    }
}

#[test]
fn s8_06_each_metric_and_label_of_an_expression_is_in_the_reference() {
    let reference = documented();
    let rules = rules();
    let of_rules = rules.iter().map(|rule| text(rule, "expr").to_owned());
    for expression in of_rules.chain(queries()) {
        let Names { selected, grouped, made } = names(&expression);
        let mut labels = made;
        for (metric, by) in selected {
            let known = reference.get(&metric).unwrap_or_else(|| panic!("{metric}: {expression}"));
            assert!(by.is_subset(known), "{metric} has no {by:?}: {expression}");
            labels.extend(known.iter().cloned());
        }
        assert!(grouped.is_subset(&labels), "{grouped:?}: {expression}");
    }
}

#[test]
fn s8_06_the_dashboard_is_whole() {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/brigade.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let numbers: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(numbers.len(), panels.len(), "each has a number of its own");
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    assert!(rows.map(|row| text(row, "title")).all(|title| title.ends_with('?')));
    // No two lie upon each other, and none is outside.
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |field: &str| panel["gridPos"][field].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(taken.insert((x, y)), "{} lies upon another", panel["title"]);
            }
        }
    }
    // Each legend shows labels that its expression leaves.
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array()).flatten() {
        let Names { grouped, .. } = names(text(target, "expr"));
        let legend = text(target, "legendFormat").split("{{").skip(1);
        for label in legend.filter_map(|rest| rest.split("}}").next()) {
            assert!(grouped.contains(label), "{target}");
        }
    }
    // The alerts that panels name are there.
    let rules = rules();
    let known: BTreeSet<_> = rules.iter().map(|rule| text(rule, "alert")).collect();
    let dashboard = dashboard.to_string();
    for word in dashboard.split(|c: char| !c.is_ascii_alphanumeric()) {
        assert!(!word.starts_with("Brigade") || known.contains(word), "there is no {word}");
    }
}

#[tokio::test]
async fn s8_06_promtool_accepts_the_files_and_the_limits_are_where_they_should_be() {
    let Some(promtool) = tool("promtool") else { return };
    let check = |what: [&str; 2], file: &str| {
        let mut command = Command::new(&promtool);
        command.args(what).arg(path(file));
        command
    };
    // With the rules that it names.
    let checked =
        accepted(&mut check(["check", "config"], "deploy/prometheus/prometheus.yml")).await;
    assert!(checked.contains("15 rules found"), "{checked}");
    for file in ["alerts_test.yml", "alerts_days_test.yml"] {
        accepted(&mut check(["test", "rules"], &format!("deploy/prometheus/{file}"))).await;
    }
    // Queries of the dashboard, as rules that record something.
    let record = |(n, query): (usize, String)| json!({ "record": format!("r{n}"), "expr": query });
    let rules: Vec<_> = queries().enumerate().map(record).collect();
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), rules.to_string()).expect("written");
    accepted(Command::new(&promtool).args(["check", "rules", "--lint=none"]).arg(file.path()))
        .await;
}

#[test]
fn s8_06_grafana_is_given_what_its_files_name() {
    let compose = document("deploy/compose/compose.yaml");
    let grafana = &compose["services"]["grafana"];
    let mounted: BTreeMap<_, _> = grafana["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .filter_map(|volume| volume.as_str()?.strip_suffix(":ro")?.split_once(':'))
        .collect();
    let provider = document("deploy/grafana/provisioning/dashboards/brigade.yaml");
    let folder = text(&provider["providers"][0]["options"], "path");
    assert_eq!(mounted["../grafana/brigade.json"], format!("{folder}/brigade.json"));
    assert_eq!(mounted["../grafana/provisioning"], "/etc/grafana/provisioning");
    let home = text(&grafana["environment"], "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH");
    assert_eq!(home, mounted["../grafana/brigade.json"]);
    let source = document("deploy/grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(text(&source["datasources"][0], "url"), "http://prometheus:9090");
    let scrapes = document("deploy/prometheus/prometheus.yml");
    let interval = &source["datasources"][0]["jsonData"]["timeInterval"];
    assert_eq!(*interval, scrapes["global"]["scrape_interval"]);
    assert_eq!(scrapes["rule_files"], json!(["alerts.yml"]));
}
