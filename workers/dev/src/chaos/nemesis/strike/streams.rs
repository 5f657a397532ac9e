//! Losses of single streams.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use brigade_contracts::topology::Topology;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{ChaosFault, LostStream, Strike};
use crate::chaos::{
    fleet::{ChaosFleet, TENANTS},
    history::OperationHistory,
};

/// Has a stream lose something, by the API of JetStream.
///
/// # Errors
/// If there is none.
pub async fn strike(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Result<Strike> {
    let topology = Topology::compiled_in();
    let names = topology.streams.keys().filter(|name| match fault {
        ChaosFault::DeleteBucket | ChaosFault::PurgeKeys => name.starts_with("KV_"),
        _ => ["EVENTS", "TIMERS"].contains(&name.as_str()),
    });
    let names: Vec<_> = names.cloned().collect();
    let name = names.choose(random).context("a stream")?.clone();
    if fault == ChaosFault::PurgeKeys {
        let tenant = TENANTS.choose(random).context("a tenant")?;
        let bucket = name.trim_start_matches("KV_");
        let filter = json!({ "filter": format!("$KV.{bucket}.{tenant}.>") });
        let request = format!("STREAM.PURGE.{name}");
        let _answer: Result<Value, _> = fleet.operator.request(request, &filter).await;
        return Ok(Strike::over(format!("{name}, {tenant}")));
    }
    let request = format!("STREAM.DELETE.{name}");
    // One that an earlier fault has taken may not be back yet.
    let _answer: Result<Value, _> = fleet.operator.request(request, &json!({})).await;
    let lost = vec![LostStream { stream: name.clone(), since: 0 }];
    Ok(Strike { lost, ..Strike::over(name) })
}

/// Puts an older copy of one stream's folder back, with its consumers: what was stored since is
/// lost, and what was acknowledged since is delivered again.
///
/// # Errors
/// If nats-server does not come back, or the folder cannot be copied.
pub async fn roll_back(
    fleet: &mut ChaosFleet,
    history: &OperationHistory,
    random: &mut StdRng,
) -> Result<Strike> {
    let topology = Topology::compiled_in();
    // Nobody else has what is in a dead letter.
    let names: Vec<&String> = topology.streams.keys().filter(|name| *name != "DLQ").collect();
    let name = names.choose(random).context("a stream")?.to_string();
    let copies = tempfile::tempdir()?;
    let copy = copies.path().join(&name);
    fleet.stack.nats.stop().await;
    let Some(folder) = folder_of(&fleet.stack.nats_dir(0).join("jetstream"), &name) else {
        // An earlier fault has taken it, and it is not back yet.
        fleet.stack.nats.restart().await?;
        return Ok(Strike::over(format!("{name} was not there")));
    };
    copy_folder(&folder, &copy)?;
    let since = history.now();
    fleet.stack.nats.restart().await?;
    let age = Duration::from_millis(random.random_range(3000..9000));
    sleep(age).await;
    fleet.stack.nats.kill().await;
    fs::remove_dir_all(&folder).with_context(|| format!("no {}", folder.display()))?;
    copy_folder(&copy, &folder)?;
    fleet.stack.nats.restart().await?;
    let detail = format!("{name} by {:.1} s", age.as_secs_f64());
    Ok(Strike { lost: vec![LostStream { stream: name, since }], ..Strike::over(detail) })
}

/// Returns the folder of a stream, in that of its account.
fn folder_of(store: &Path, stream: &str) -> Option<PathBuf> {
    let accounts = fs::read_dir(store).ok()?.flatten();
    accounts.map(|account| account.path().join("streams").join(stream)).find(|path| path.is_dir())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().context("no `cp`")?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}
