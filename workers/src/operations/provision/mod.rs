//! Streams, buckets and consumers, from `nats/topology.toml`.
//!
//! Missing streams and consumers are created. A setting that differs is changed only if no message
//! can be lost by it ([`compare`]); all else is drift, which is reported with its remedy
//! ([`drift`]).

mod compare;
mod drift;
mod former;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, response::Response};
use brigade_contracts::topology::Topology;
use serde_json::{Value, json};

use self::compare::Comparison;
pub use self::drift::{Drift, TopologyItem};
use crate::infra::nats::{NatsOptions, OperatorConnection};

/// The changes that were made, and the drift that was found.
#[derive(Debug, Default)]
pub struct ProvisionReport {
    pub created: Vec<TopologyItem>,
    pub updated: Vec<TopologyItem>,
    pub drift: Vec<Drift>,
}

/// Applies the topology, each stream with so many replicas; may be repeated at any time.
///
/// # Errors
/// If the server cannot be reached or refuses. Drift is no error here.
pub async fn run(url: &str, replicas: u8) -> Result<ProvisionReport> {
    run_with(url, &NatsOptions::default(), replicas).await
}

/// The same with options of the connection.
///
/// # Errors
/// If the server cannot be reached or refuses. Drift is no error here.
pub async fn run_with(url: &str, options: &NatsOptions, replicas: u8) -> Result<ProvisionReport> {
    let operator = OperatorConnection::open(url, options, "provision").await?;
    operator.explain(apply_all(&operator.jetstream, replicas).await)
}

/// Something that is not as declared.
#[derive(Debug)]
pub struct Undone {
    pub what: String,
    pub mend: String,
}

/// Returns what is not as declared, and changes nothing.
///
/// # Errors
/// If the server cannot be reached or refuses.
pub async fn inspect(js: &jetstream::Context, replicas: u8) -> Result<Vec<Undone>> {
    let topology = Topology::with_replicas(replicas);
    let mut undone = Vec::new();
    for (item, mut declared) in declared(&topology) {
        let provision = || "`brigade provision`".to_owned();
        let mut info = match ask(js, item.subject("INFO"), &json!({})).await? {
            Ok(info) => info,
            Err(error) if item.is_absent(error.error_code().0) => {
                let what = format!("there is no {item}");
                undone.push(Undone { what, mend: provision() });
                continue;
            }
            Err(error) => bail!("{item}: {error}"),
        };
        former::adapt(js, &item, &mut info["config"], &mut declared).await?;
        let Comparison { mended, differences } = compare::compare(&info["config"], &declared);
        let drift = differences.into_iter().map(|d| Drift::of(&item, d));
        undone.extend(drift.map(|drift| Undone { what: drift.what(), mend: drift.mend() }));
        if mended.is_some() {
            let what = format!("{item} is not up to date");
            undone.push(Undone { what, mend: provision() });
        }
    }
    Ok(undone)
}

/// Everything that is declared: streams, then their consumers.
fn declared(topology: &Topology) -> Vec<(TopologyItem, Value)> {
    let streams = topology.streams.keys();
    let streams = streams.map(|name| {
        (TopologyItem::Stream(name.clone()), topology.stream(name).unwrap_or_default())
    });
    let consumers = topology.consumers.iter().flat_map(|(stream, consumers)| {
        consumers.keys().map(move |durable| {
            let item = TopologyItem::Consumer(stream.clone(), durable.clone());
            (item, topology.consumer(stream, durable).unwrap_or_default())
        })
    });
    streams.chain(consumers).collect()
}

async fn apply_all(js: &jetstream::Context, replicas: u8) -> Result<ProvisionReport> {
    let topology = Topology::with_replicas(replicas);
    let mut report = ProvisionReport::default();
    for (item, declared) in declared(&topology) {
        apply(js, item, declared, &mut report).await?;
    }
    Ok(report)
}

/// Creates what is missing, brings up to date what is safe, and reports the rest.
async fn apply(
    js: &jetstream::Context,
    item: TopologyItem,
    mut declared: Value,
    report: &mut ProvisionReport,
) -> Result<()> {
    let mut info = match ask(js, item.subject("INFO"), &json!({})).await? {
        Ok(info) => info,
        Err(error) if item.is_absent(error.error_code().0) => {
            let created = ask(js, item.subject("CREATE"), &item.create(declared)).await?;
            created.with_context(|| item.to_string())?;
            report.created.push(item);
            return Ok(());
        }
        Err(error) => bail!("{item}: {error}"),
    };
    former::adapt(js, &item, &mut info["config"], &mut declared).await?;
    let Comparison { mended, differences } = compare::compare(&info["config"], &declared);
    report.drift.extend(differences.into_iter().map(|d| Drift::of(&item, d)));
    if let Some(config) = mended {
        let updated = ask(js, item.subject("UPDATE"), &item.update(config)).await?;
        updated.with_context(|| item.to_string())?;
        report.updated.push(item);
    }
    Ok(())
}

type ApiResponse = std::result::Result<Value, jetstream::Error>;

async fn ask(js: &jetstream::Context, subject: String, request: &Value) -> Result<ApiResponse> {
    Ok(match js.request(subject, request).await? {
        Response::Ok(value) => Ok(value),
        Response::Err { error } => Err(error),
    })
}
