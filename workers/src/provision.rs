//! Streams, buckets and consumers, from `nats/topology.toml`.
//!
//! What is missing is created. What differs is changed only where no message can be lost by it;
//! all else is drift, which is reported with the command that mends it.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, response::Response};
use brigade_contracts::topology::Topology;
use serde_json::{Value, json};

use crate::runtime::connect::as_user_of;

/// Settings of a stream that may be brought up to date without asking.
const SAFE: [&str; 2] = ["description", "metadata"];

/// What was done and what was found.
#[derive(Debug, Default)]
pub struct Report {
    pub created: Vec<String>,
    pub updated: Vec<String>,
    pub drift: Vec<Drift>,
}

/// A setting that is not as declared, and that only an operator may change.
#[derive(Debug)]
pub struct Drift {
    pub stream: String,
    pub setting: String,
    pub declared: Value,
    pub found: Value,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, setting, declared, found } = self;
        write!(
            f,
            "{stream}: {setting} is {found}, declared is {declared}; change it with \
             `nats stream edit {stream}` or declare it so in nats/topology.toml"
        )
    }
}

/// Applies the topology, each stream with so many replicas; may be repeated at any time.
///
/// # Errors
/// Where the server cannot be reached or refuses. Drift is no error here.
pub async fn run(url: &str, replicas: u8) -> Result<Report> {
    let (options, address) = as_user_of(url)?;
    let client =
        options.name("provision").connect(address).await.context("cannot connect to NATS")?;
    let js = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client);
    let topology = Topology::with_replicas(replicas);
    let mut report = Report::default();
    for name in topology.streams.keys() {
        stream(&js, &topology, name, &mut report)
            .await
            .with_context(|| format!("stream {name}"))?;
    }
    for (stream, consumers) in &topology.consumers {
        for durable in consumers.keys() {
            let config = topology.consumer(stream, durable);
            let request = json!({ "stream_name": stream, "config": config });
            ask(&js, format!("CONSUMER.CREATE.{stream}.{durable}"), &request)
                .await?
                .with_context(|| format!("consumer {durable} of {stream}"))?;
        }
    }
    Ok(report)
}

async fn stream(
    js: &jetstream::Context,
    topology: &Topology,
    name: &str,
    report: &mut Report,
) -> Result<()> {
    let Some(declared) = topology.stream(name) else { return Ok(()) };
    let info = match ask(js, format!("STREAM.INFO.{name}"), &json!({})).await? {
        Ok(info) => info,
        Err(error) if error.error_code().0 == STREAM_NOT_FOUND => {
            ask(js, format!("STREAM.CREATE.{name}"), &declared).await??;
            report.created.push(name.to_owned());
            return Ok(());
        }
        Err(error) => bail!(error),
    };
    let mut found = info["config"].clone();
    let mut changed = false;
    let settings = declared.as_object().into_iter().flatten();
    for (setting, declared) in settings.filter(|(s, d)| !holds(&info["config"][*s], d)) {
        if SAFE.contains(&setting.as_str()) || adds(&found[setting], declared) {
            found[setting] = declared.clone();
            changed = true;
        } else {
            report.drift.push(Drift {
                stream: name.to_owned(),
                setting: setting.clone(),
                declared: declared.clone(),
                found: found[setting].clone(),
            });
        }
    }
    if changed {
        ask(js, format!("STREAM.UPDATE.{name}"), &found).await??;
        report.updated.push(name.to_owned());
    }
    Ok(())
}

/// `JSStreamNotFoundErr` of nats-server.
const STREAM_NOT_FOUND: u64 = 10059;

type Answer = std::result::Result<Value, jetstream::Error>;

async fn ask(js: &jetstream::Context, subject: String, request: &Value) -> Result<Answer> {
    Ok(match js.request(subject, request).await? {
        Response::Ok(value) => Ok(value),
        Response::Err { error } => Err(error),
    })
}

/// Whether a setting is as declared. The server adds defaults, so an object may hold more; it
/// leaves out what is false, 0 or empty.
fn holds(found: &Value, declared: &Value) -> bool {
    match (found, declared) {
        (Value::Object(found), Value::Object(declared)) => {
            declared.iter().all(|(key, value)| holds(found.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Null, declared) => {
            matches!(declared, Value::Bool(false))
                || *declared == json!(0)
                || *declared == json!("")
        }
        (found, declared) => found == declared,
    }
}

/// Whether only subjects are added, by which nothing is lost.
fn adds(found: &Value, declared: &Value) -> bool {
    match (found.as_array(), declared.as_array()) {
        (Some(found), Some(declared)) => found.iter().all(|subject| declared.contains(subject)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_the_server_leaves_out_is_no_drift() {
        assert!(holds(&Value::Null, &json!(false)));
        assert!(holds(
            &json!({"src": "a", "dest": "b", "headers_only": false}),
            &json!({"src": "a"})
        ));
        assert!(!holds(&Value::Null, &json!(true)));
        assert!(!holds(&json!(1), &json!(2)));
        assert!(adds(&json!(["a"]), &json!(["a", "b"])));
        assert!(!adds(&json!(["a", "b"]), &json!(["a"])));
        assert!(!adds(&json!(1), &json!(2)));
    }
}
