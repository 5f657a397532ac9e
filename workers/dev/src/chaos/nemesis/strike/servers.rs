//! Faults of nats-server and of Postgres, which come back.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{ChaosFault, LostStream, Mend, Strike};
use crate::chaos::fleet::ChaosFleet;

/// The parts of a cluster that have a leader each, as the API names them.
const LED: [&str; 7] = [
    "CONSUMER.LEADER.STEPDOWN.COMMANDS.command-handler",
    "CONSUMER.LEADER.STEPDOWN.EVENTS.payment-projector",
    "STREAM.LEADER.STEPDOWN.COMMANDS",
    "STREAM.LEADER.STEPDOWN.EVENTS",
    "STREAM.LEADER.STEPDOWN.KV_views",
    "STREAM.LEADER.STEPDOWN.KV_versions",
    "META.LEADER.STEPDOWN",
];

/// Strikes a server.
///
/// # Errors
/// If it does not come back.
pub async fn strike(
    fault: ChaosFault,
    fleet: &mut ChaosFleet,
    random: &mut StdRng,
) -> Result<Strike> {
    let down = Duration::from_millis(random.random_range(0..2000));
    let detail = format!("for {:.1} s", down.as_secs_f64());
    match fault {
        ChaosFault::KillPostgres => {
            fleet.stack.postgres.kill().await;
            sleep(down).await;
            fleet.stack.postgres.restart().await?;
            Ok(Strike::over(detail))
        }
        ChaosFault::ChangeLeaders => change_leaders(fleet, random).await,
        _ => nats(fault == ChaosFault::WipeJetstream, fleet, random, down).await,
    }
}

/// Kills nats-server; of a cluster mostly one node, which is wiped alone. All nodes at once are
/// never wiped: that is what a single server stands for.
async fn nats(
    wipes: bool,
    fleet: &mut ChaosFleet,
    random: &mut StdRng,
    down: Duration,
) -> Result<Strike> {
    let nodes = usize::from(fleet.stack.replicas());
    let is_one = nodes > 1 && (wipes || random.random_ratio(3, 4));
    let first = if is_one { random.random_range(0..nodes) } else { 0 };
    let struck: Vec<usize> = if is_one { vec![first] } else { (0..nodes).collect() };
    for node in &struck {
        fleet.stack.node_mut(*node).kill().await;
        if wipes {
            empty(&fleet.stack.nats_dir(*node).join("jetstream"))?;
        }
    }
    sleep(down).await;
    for node in &struck {
        fleet.stack.node_mut(*node).restart().await?;
    }
    let which = match (nodes, struck.len()) {
        (1, _) => String::new(),
        (_, 1) => format!("node {first} "),
        _ => "all nodes ".to_owned(),
    };
    let mut strike = Strike::over(format!("{which}for {:.1} s", down.as_secs_f64()));
    if wipes && nodes == 1 {
        strike.lost = vec![LostStream { stream: "*".to_owned(), since: 0 }];
    }
    Ok(strike)
}

/// Removes what is in a folder, which may be where a disk is mounted.
fn empty(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    for entry in entries {
        let entry = entry?.path();
        let removed =
            if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        removed.with_context(|| format!("cannot wipe {}", entry.display()))?;
    }
    Ok(())
}

/// Has several leaders step down, or kills the node that leads the consumer of commands.
async fn change_leaders(fleet: &mut ChaosFleet, random: &mut StdRng) -> Result<Strike> {
    if random.random_ratio(1, 2) {
        let which: Vec<&str> = LED.choose_multiple(random, 4).copied().collect();
        for request in &which {
            // The new leader may not be there yet, or the stream lost by an earlier fault.
            let _answer: Result<Value, _> =
                fleet.operator.request((*request).to_owned(), &json!({})).await;
        }
        let names = which.iter().map(|request| request.replace(".LEADER.STEPDOWN", ""));
        return Ok(Strike::over(names.collect::<Vec<_>>().join(", ")));
    }
    let request = "CONSUMER.INFO.COMMANDS.command-handler".to_owned();
    let info: Result<Value, _> = fleet.operator.request(request, &json!({})).await;
    let leader = info.ok().and_then(|info| Some(info["cluster"]["leader"].as_str()?.to_owned()));
    let node = fleet.stack.nodes().position(|node| Some(node.name()) == leader.as_deref());
    let node = node.unwrap_or(0);
    fleet.stack.node_mut(node).kill().await;
    let down = Duration::from_millis(random.random_range(0..3000));
    let detail = format!("kill -9 of node {node}, which leads the consumer of commands");
    Ok(Strike::lasting(detail, Mend::Node(node), down))
}
