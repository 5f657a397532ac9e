//! nats-server as its clients see it: version, JetStream, topology, replicas, space; and whether the
//! users may do what they have to.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::{ServerInfo, jetstream::response::Response};
use brigade_contracts::{WorkerName, topology::Topology};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout;

use super::{Finding, Severity, clocks, fine};
use crate::{
    infra::{NatsOptions, nats::OperatorConnection},
    operations::provision,
};

const NATS: &str = "nats";
/// The oldest version that is supported.
const OLDEST: [u64; 3] = [2, 14, 3];
/// A stream that holds more of its bytes, in percent, fills up.
const FILLING: u64 = 50;
const FULL: u64 = 90;
/// The time that a worker's user has.
const LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn examine(operator: &OperatorConnection, replicas: u8) -> Result<Vec<Finding>> {
    let info = operator.client.server_info();
    let mut findings = vec![version(&info)];
    findings.push(replicas_fit(&info, replicas));
    findings.push(account(operator).await?);
    let drift = provision::inspect(&operator.jetstream, replicas).await?;
    if drift.is_empty() {
        findings.push(fine("topology", "streams, buckets and consumers are as declared"));
    }
    for what in drift {
        findings.push(Finding::new(Severity::Error, "topology", what.what, what.mend));
    }
    for stream in Topology::with_replicas(replicas).streams.keys() {
        findings.extend(of_stream(operator, stream).await?);
    }
    findings.push(clock(operator).await?);
    Ok(findings)
}

fn version(info: &ServerInfo) -> Finding {
    let numbers = info.version.split(['.', '-']).map_while(|part| part.parse().ok());
    let numbers: Vec<u64> = numbers.take(3).collect();
    if numbers[..] >= OLDEST[..] {
        return fine(NATS, format!("version {}", info.version));
    }
    let what = format!("version {} is too old", info.version);
    Finding::new(Severity::Error, NATS, what, "upgrade to nats-server 2.14.3 or newer")
}

fn replicas_fit(info: &ServerInfo, replicas: u8) -> Finding {
    let in_cluster = info.cluster.is_some();
    match (in_cluster, replicas) {
        (true, 1) => Finding::new(
            Severity::Warning,
            NATS,
            "it is one of a cluster, and each stream has one replica only",
            "BRIGADE_REPLICAS=3 for `provision` and all workers, then `brigade provision`",
        ),
        (false, 2..) => Finding::new(
            Severity::Error,
            NATS,
            format!("BRIGADE_REPLICAS is {replicas}, and the server is in no cluster"),
            "BRIGADE_REPLICAS=1, or a cluster of three nats-servers",
        ),
        _ => fine(NATS, format!("replicas: {replicas}")),
    }
}

/// The space that JetStream has for the account.
async fn account(operator: &OperatorConnection) -> Result<Finding> {
    let account = operator.jetstream.query_account().await.context("JetStream does not answer")?;
    let used = account.storage;
    let most = account.limits.max_storage.and_then(|most| u64::try_from(most).ok());
    let percent = most.and_then(|most| (used * 100).checked_div(most));
    Ok(match percent {
        Some(percent @ FILLING..) => {
            let severity = if percent >= FULL { Severity::Error } else { Severity::Warning };
            let what = format!("JetStream holds {percent} % of what its account may");
            Finding::new(severity, NATS, what, "a larger `max_file`, or a larger disk")
        }
        _ => fine(NATS, format!("JetStream holds {} MB", used / 1_000_000)),
    })
}

async fn info(operator: &OperatorConnection, stream: &str) -> Result<Option<Value>> {
    let request = json!({});
    let asked = operator.jetstream.request(format!("STREAM.INFO.{stream}"), &request);
    Ok(match asked.await.with_context(|| format!("no answer about {stream}"))? {
        Response::Ok(info) => Some(info),
        // That it is missing is said as drift.
        Response::Err { .. } => None,
    })
}

async fn of_stream(operator: &OperatorConnection, stream: &str) -> Result<Vec<Finding>> {
    let Some(info) = info(operator, stream).await? else { return Ok(Vec::new()) };
    let subject = format!("stream {stream}");
    let mut findings = Vec::new();
    for replica in info["cluster"]["replicas"].as_array().into_iter().flatten() {
        let name = replica["name"].as_str().unwrap_or_default();
        let state = if replica["offline"] == true {
            "is offline"
        } else if replica["current"] == false {
            "is behind"
        } else {
            continue;
        };
        let mend = "start that nats-server, or see what it waits for: `nats stream cluster info`";
        let what = format!("its replica on {name} {state}");
        findings.push(Finding::new(Severity::Error, &*subject, what, mend));
    }
    let most = info["config"]["max_bytes"].as_u64().unwrap_or_default();
    let bytes = info["state"]["bytes"].as_u64().unwrap_or_default();
    if let Some(percent @ FILLING..) = (bytes * 100).checked_div(most) {
        let severity = if percent >= FULL { Severity::Error } else { Severity::Warning };
        let when_full = info["config"]["metadata"]["when_full"].as_str();
        let mend = when_full.unwrap_or("see what stays there");
        let what = format!("it holds {percent} % of its {} MB", most / 1_000_000);
        findings.push(Finding::new(severity, &*subject, what, mend));
    }
    Ok(findings)
}

async fn clock(operator: &OperatorConnection) -> Result<Finding> {
    let before = clocks::now();
    let info = info(operator, "COMMANDS").await?;
    let after = clocks::now();
    let there =
        info.as_ref().and_then(|info| OffsetDateTime::parse(info["ts"].as_str()?, &Rfc3339).ok());
    Ok(there.map_or_else(
        || Finding::new(Severity::Warning, NATS, "its clock is not known", "see the topology"),
        |there| clocks::judge(NATS, before, there, after),
    ))
}

/// Connects as a worker, and tries what it does first of all.
pub(super) async fn try_worker(worker: WorkerName, url: &str, options: &NatsOptions) -> Finding {
    let subject = format!("NATS user {worker}");
    let tried = async {
        let options = NatsOptions { user: Some(worker.to_string()), ..options.clone() };
        let connection = OperatorConnection::open(url, &options, worker.as_str()).await?;
        connection.explain(attempt(&connection, worker).await)
    };
    let mend =
        "`brigade tenants sync --accounts …` writes users and rights; see the URL's password";
    match timeout(LIMIT, tried).await {
        Ok(Ok(())) => fine(&subject, "it is let in, and may do what it tries first"),
        Ok(Err(error)) => Finding::new(Severity::Error, subject, format!("{error:#}"), mend),
        Err(_) => {
            let what = "it gets no answer within 3 s: a subject may be denied to it";
            Finding::new(Severity::Error, subject, what, mend)
        }
    }
}

/// Reads a bucket that every worker may read, and looks at its consumer, if it has one.
async fn attempt(connection: &OperatorConnection, worker: WorkerName) -> Result<()> {
    let ask = async |subject: String, request: Value| -> Result<()> {
        let _answer: Response<Value> = connection.jetstream.request(subject, &request).await?;
        Ok(())
    };
    let round_trip = json!({ "last_by_subj": "$KV.attempts.round.trip" });
    ask("STREAM.MSG.GET.KV_attempts".to_owned(), round_trip).await?;
    for (stream, consumers) in Topology::compiled_in().consumers {
        if consumers.contains_key(worker.as_str()) {
            ask(format!("CONSUMER.INFO.{stream}.{worker}"), json!({})).await?;
        }
    }
    Ok(())
}
