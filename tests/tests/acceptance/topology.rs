//! The topology on a real server: what `brigade provision` does a second time, and after a hand
//! was in it.

use brigade::provision::{self, Report};
use brigade_tests::Town;
use serde_json::{Value, json};

async fn provision(town: &Town) -> Report {
    provision::run(&town.nats_url("operator"), 1).await.expect("provisioned")
}

/// Changes what the server has, as an operator does with the `nats` CLI.
async fn edit(town: &Town, info: &str, update: &str, change: impl FnOnce(&mut Value)) {
    let js = async_nats::jetstream::new(town.connect("operator").await);
    let found: Value = js.request(info.to_owned(), &json!({})).await.expect("info");
    let mut config = found["config"].clone();
    change(&mut config);
    let request = match found["stream_name"].as_str() {
        Some(stream) => json!({"stream_name": stream, "config": config, "action": "update"}),
        None => config,
    };
    let answer: Value = js.request(update.to_owned(), &request).await.expect("an answer");
    assert!(answer["error"].is_null(), "{answer}");
}

async fn edit_events(town: &Town, change: impl FnOnce(&mut Value)) {
    edit(town, "STREAM.INFO.EVENTS", "STREAM.UPDATE.EVENTS", change).await;
}

async fn edit_projector(town: &Town, change: impl FnOnce(&mut Value)) {
    let [info, update] =
        ["INFO", "CREATE"].map(|verb| format!("CONSUMER.{verb}.EVENTS.payment-projector"));
    edit(town, &info, &update, change).await;
}

fn said(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn provisioning_again_finds_nothing_to_do() {
    // The town has provisioned once, and workers run on it.
    let town = Town::start().await;
    let report = provision(&town).await;
    assert_eq!(said(&report.created), Vec::<String>::new());
    assert_eq!(said(&report.updated), Vec::<String>::new());
    assert_eq!(said(&report.drift), Vec::<String>::new());
    town.finish().await;
}

#[tokio::test]
async fn what_could_lose_messages_is_reported_and_left_alone() {
    let town = Town::empty().await;
    edit_events(&town, |config| {
        config["max_age"] = json!(3_600_000_000_000_u64);
        config["max_msgs"] = json!(10);
    })
    .await;
    edit_projector(&town, |config| {
        config["max_ack_pending"] = json!(7);
        config["filter_subjects"].as_array_mut().unwrap().push(json!("evt.*.table.*.*"));
    })
    .await;
    for _ in 0..2 {
        let report = provision(&town).await;
        assert_eq!(said(&report.updated), Vec::<String>::new());
        let drift = said(&report.drift);
        assert_eq!(drift.len(), 4, "{drift:#?}");
        let events = "stream EVENTS: max_age is 3600000000000, declared is 604800000000000; \
                      to mend it: `nats stream edit EVENTS --interactive`; \
                      or declare it so in nats/topology.toml";
        assert!(drift.iter().any(|line| line == events), "{drift:#?}");
        for start in [
            "stream EVENTS: max_msgs is 10, declared is the server's default; ",
            "consumer payment-projector of EVENTS: max_ack_pending is 7, declared is 4096; ",
            "consumer payment-projector of EVENTS: filter_subjects is [",
        ] {
            assert!(drift.iter().any(|line| line.starts_with(start)), "{start} {drift:#?}");
        }
    }
}

#[tokio::test]
async fn what_is_safe_is_mended_and_what_is_missing_is_made() {
    let town = Town::empty().await;
    edit_events(&town, |config| {
        config["description"] = json!("mine");
        config["metadata"]["note"] = json!("x");
    })
    .await;
    edit_projector(&town, |config| {
        config["description"] = json!("mine");
        config["filter_subjects"].as_array_mut().unwrap().pop();
    })
    .await;
    let js = async_nats::jetstream::new(town.connect("operator").await);
    for gone in ["CONSUMER.DELETE.COMMANDS.command-handler", "STREAM.DELETE.DLQ"] {
        let _done: Value = js.request(gone.to_owned(), &json!({})).await.expect("deleted");
    }
    let report = provision(&town).await;
    assert_eq!(said(&report.created), ["stream DLQ", "consumer command-handler of COMMANDS"]);
    assert_eq!(said(&report.updated), ["stream EVENTS", "consumer payment-projector of EVENTS"]);
    assert_eq!(said(&report.drift), Vec::<String>::new());
    let again = provision(&town).await;
    assert!(again.created.is_empty() && again.updated.is_empty(), "{again:?}");
}
