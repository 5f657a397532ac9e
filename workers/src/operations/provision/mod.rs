//! Streams, buckets and consumers, from `nats/topology.toml`.
//!
//! What is missing is created. What differs is changed only where no message can be lost by it
//! ([`compare`]); all else is drift, which is reported with what mends it ([`drift`]).

mod compare;
mod drift;
mod former;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, response::Response};
use brigade_contracts::topology::Topology;
use serde_json::{Value, json};

use self::compare::Comparison;
pub use self::drift::{Drift, Item};
use crate::infra::nats::OperatorConnection;

/// What was done and what was found.
#[derive(Debug, Default)]
pub struct Report {
    pub created: Vec<Item>,
    pub updated: Vec<Item>,
    pub drift: Vec<Drift>,
}

/// Applies the topology, each stream with so many replicas; may be repeated at any time.
///
/// # Errors
/// Where the server cannot be reached or refuses. Drift is no error here.
pub async fn run(url: &str, replicas: u8) -> Result<Report> {
    let operator = OperatorConnection::open(url, "provision").await?;
    let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5));
    operator.explain(apply_all(&jetstream.build(operator.client.clone()), replicas).await)
}

async fn apply_all(js: &jetstream::Context, replicas: u8) -> Result<Report> {
    let topology = Topology::with_replicas(replicas);
    let mut report = Report::default();
    for name in topology.streams.keys() {
        let declared = topology.stream(name).unwrap_or_default();
        apply(js, Item::Stream(name.clone()), declared, &mut report).await?;
    }
    for (stream, consumers) in &topology.consumers {
        for durable in consumers.keys() {
            let declared = topology.consumer(stream, durable).unwrap_or_default();
            let item = Item::Consumer(stream.clone(), durable.clone());
            apply(js, item, declared, &mut report).await?;
        }
    }
    Ok(report)
}

/// Creates what is missing, brings up to date what is safe, and reports the rest.
async fn apply(
    js: &jetstream::Context,
    item: Item,
    mut declared: Value,
    report: &mut Report,
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

type Answer = std::result::Result<Value, jetstream::Error>;

async fn ask(js: &jetstream::Context, subject: String, request: &Value) -> Result<Answer> {
    Ok(match js.request(subject, request).await? {
        Response::Ok(value) => Ok(value),
        Response::Err { error } => Err(error),
    })
}
