//! What each fault does, and how it is mended.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use brigade::operations::{migrate, provision};
use brigade_contracts::{Token, permissions, topology::Topology};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::ChaosFault;
use crate::{
    TcpProxy,
    chaos::{
        fleet::{ChaosFleet, FleetMember, TENANTS, connect},
        workload::poison,
    },
    proxy::Direction,
};

/// A fault that was struck.
pub struct Strike {
    pub detail: String,
    pub mend: Mend,
    /// How long it lasts before it is mended.
    pub lasts: Duration,
    pub lost: Vec<String>,
}

/// How a fault is mended.
pub enum Mend {
    Nothing,
    /// Processes that are down are started.
    Start,
    /// A paused process goes on.
    Continue(usize),
    /// All proxies are open, and quick.
    Open,
}

impl Mend {
    /// # Errors
    /// If a process does not get ready.
    pub async fn mend(self, fleet: &mut ChaosFleet) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Start => fleet.start_missing().await?,
            Self::Continue(at) => {
                if let Some(process) = &fleet.members[at].process {
                    process.go_on();
                }
            }
            Self::Open => {
                for proxy in
                    fleet.members.iter().flat_map(|member| [&member.nats, &member.postgres])
                {
                    proxy.open();
                    proxy.delay(Duration::ZERO);
                }
            }
        }
        Ok(())
    }
}

impl Strike {
    fn over(detail: impl Into<String>) -> Self {
        Self::lasting(detail, Mend::Nothing, Duration::ZERO)
    }

    fn lasting(detail: impl Into<String>, mend: Mend, lasts: Duration) -> Self {
        Self { detail: detail.into(), mend, lasts, lost: Vec::new() }
    }
}

/// Strikes.
///
/// # Errors
/// If a server does not come back.
pub async fn strike(
    fault: ChaosFault,
    fleet: &mut ChaosFleet,
    random: &mut StdRng,
) -> Result<Strike> {
    match fault {
        ChaosFault::KillWorker | ChaosFault::PauseWorker | ChaosFault::DrainWorker => {
            Ok(on_a_process(fault, fleet, random).await)
        }
        ChaosFault::KillNats | ChaosFault::KillPostgres | ChaosFault::WipeJetstream => {
            on_a_server(fault, fleet, random).await
        }
        ChaosFault::CutNats
        | ChaosFault::CutPostgres
        | ChaosFault::SlowPostgres
        | ChaosFault::SlowNats
        | ChaosFault::HalfOpen
        | ChaosFault::OneWay => Ok(on_the_network(fault, fleet, random)),
        ChaosFault::DeleteBucket | ChaosFault::DeleteStream | ChaosFault::PurgeKeys => {
            on_a_stream(fault, fleet, random).await
        }
        ChaosFault::RollingRestart => rolling_restart(fleet).await,
        ChaosFault::Poison | ChaosFault::Provision | ChaosFault::Migrate => {
            by_hand(fault, fleet, random).await
        }
    }
}

async fn on_a_process(fault: ChaosFault, fleet: &mut ChaosFleet, random: &mut StdRng) -> Strike {
    let at = fleet.any(random);
    let name = fleet.name(at).to_owned();
    let down = Duration::from_millis(random.random_range(0..2000));
    match fault {
        ChaosFault::PauseWorker => {
            let lasts = Duration::from_millis(random.random_range(5000..8000));
            if let Some(process) = &fleet.members[at].process {
                process.pause();
            }
            Strike::lasting(
                format!("{name} for {:.1} s", lasts.as_secs_f64()),
                Mend::Continue(at),
                lasts,
            )
        }
        ChaosFault::DrainWorker => {
            fleet.drain(at).await;
            Strike::lasting(name, Mend::Start, down)
        }
        _ => {
            fleet.kill(at).await;
            Strike::lasting(name, Mend::Start, down)
        }
    }
}

async fn rolling_restart(fleet: &mut ChaosFleet) -> Result<Strike> {
    for at in 0..fleet.members.len() {
        fleet.drain(at).await;
        fleet.start_missing().await?;
    }
    Ok(Strike::over(format!("{} processes", fleet.members.len())))
}

async fn on_a_server(
    fault: ChaosFault,
    fleet: &mut ChaosFleet,
    random: &mut StdRng,
) -> Result<Strike> {
    let down = Duration::from_millis(random.random_range(0..2000));
    let detail = format!("for {:.1} s", down.as_secs_f64());
    if fault == ChaosFault::KillPostgres {
        fleet.stack.postgres.kill().await;
        sleep(down).await;
        fleet.stack.postgres.restart().await?;
        return Ok(Strike::over(detail));
    }
    fleet.stack.nats.kill().await;
    let mut strike = Strike::over(detail);
    if fault == ChaosFault::WipeJetstream {
        let store = fleet.stack.dir.join("nats/jetstream");
        fs::remove_dir_all(&store).with_context(|| format!("cannot wipe {}", store.display()))?;
        strike.lost = vec!["*".to_owned()];
    }
    sleep(down).await;
    fleet.stack.nats.restart().await?;
    Ok(strike)
}

fn on_the_network(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Strike {
    let lasts = Duration::from_millis(random.random_range(1000..5000));
    let all = |proxy: fn(&FleetMember) -> &TcpProxy| fleet.members.iter().map(proxy);
    let shut = |proxy: fn(&FleetMember) -> &TcpProxy| {
        all(proxy).for_each(TcpProxy::shut);
        Strike::lasting(format!("for {:.1} s", lasts.as_secs_f64()), Mend::Open, lasts)
    };
    match fault {
        ChaosFault::CutNats => shut(|member| &member.nats),
        ChaosFault::CutPostgres => shut(|member| &member.postgres),
        ChaosFault::SlowPostgres => {
            let delay = Duration::from_millis(random.random_range(20..150));
            all(|member| &member.postgres).for_each(|proxy| proxy.delay(delay));
            let lasts = lasts + Duration::from_secs(2);
            let detail = format!("{delay:?} each way for {:.1} s", lasts.as_secs_f64());
            Strike::lasting(detail, Mend::Open, lasts)
        }
        ChaosFault::SlowNats => {
            let (at, delay) = (fleet.any(random), random.random_range(50..300));
            let delay = Duration::from_millis(delay);
            fleet.members[at].nats.delay(delay);
            let lasts = lasts + Duration::from_secs(2);
            let name = fleet.name(at);
            let detail = format!("{name}, {delay:?} each way for {:.1} s", lasts.as_secs_f64());
            Strike::lasting(detail, Mend::Open, lasts)
        }
        _ => silent(fault, fleet, random),
    }
}

fn silent(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Strike {
    let at = fleet.any(random);
    let member = &fleet.members[at];
    let (server, proxy) = match random.random_ratio(1, 2) {
        true => ("nats-server", &member.nats),
        false => ("Postgres", &member.postgres),
    };
    let name = fleet.name(at);
    if fault == ChaosFault::HalfOpen {
        proxy.silence();
        return Strike::over(format!("{name} and {server}"));
    }
    let direction = [Direction::Forth, Direction::Back][random.random_range(0..2)];
    proxy.silence_one_way(direction);
    let (from, to) = if direction == Direction::Forth { (name, server) } else { (server, name) };
    Strike::over(format!("from {from} to {to}"))
}

async fn on_a_stream(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Result<Strike> {
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
    Ok(Strike { lost: vec![name.clone()], ..Strike::over(name) })
}

async fn by_hand(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Result<Strike> {
    match fault {
        ChaosFault::Provision => {
            let url = fleet.stack.nats_url(&permissions::operator().name);
            let report = provision::run(&url, 1).await?;
            let (created, drift) = (report.created.len(), report.drift.len());
            Ok(Strike::over(format!("{created} created, {drift} drifted")))
        }
        ChaosFault::Migrate => {
            migrate::run(&fleet.stack.superuser_url(), "", |_| None).await?;
            Ok(Strike::over(""))
        }
        _ => {
            let tenant = TENANTS.choose(random).copied().unwrap_or(TENANTS[0]);
            let user = permissions::producer(&Token::new(tenant)?).name;
            let client = connect(&fleet.stack, &user).await?;
            let sent = poison(&client, tenant, random.random()).await?;
            Ok(Strike::over(format!("{sent} messages of {tenant}")))
        }
    }
}
