//! What each fault does, and how it is mended.

mod disks;
mod failover;
mod network;
mod operators;
mod processes;
mod servers;
mod streams;

use std::time::Duration;

use anyhow::Result;
use brigade::operations::tenants;
use brigade_contracts::Token;
use rand::rngs::StdRng;

use super::ChaosFault;
use crate::chaos::{
    fleet::ChaosFleet,
    history::{Micros, OperationHistory},
};

/// A fault that was struck.
pub struct Strike {
    pub detail: String,
    pub mend: Mend,
    /// The time that it lasts before it is mended.
    pub lasts: Duration,
    pub lost: Vec<LostStream>,
    pub failover: Option<Failover>,
}

/// A stream that lost what was stored in it since a moment; `*` is all of them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LostStream {
    pub stream: String,
    pub since: Micros,
}

/// Another Postgres took the place of the first one.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Failover {
    /// The time before which every answer is kept.
    pub kept: Micros,
    /// When the former one was gone.
    pub killed: Micros,
    /// When the other one took over.
    pub promoted: Micros,
}

impl Failover {
    /// Returns true if it may have lost what was answered right before it.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.kept < self.killed
    }
}

/// The way in which a fault is mended.
pub enum Mend {
    Nothing,
    /// Processes that are down are started.
    Start,
    /// A paused process goes on.
    Continue(usize),
    /// A nats-server is started again.
    Node(usize),
    /// The clock of a process is right again.
    Clock(usize),
    /// All proxies are open, and quick.
    Open,
    /// There is room on the disks again.
    Free(ChaosFault),
    /// A restaurant is served again.
    Resume(Token),
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
            Self::Node(node) => fleet.stack.node_mut(node).restart().await?,
            Self::Clock(at) => {
                fleet.kill(at).await;
                fleet.members[at].clock = None;
                fleet.start_missing().await?;
            }
            Self::Open => {
                for proxy in fleet.members.iter().flat_map(|member| member.proxies()) {
                    proxy.open();
                    proxy.delay(Duration::ZERO);
                }
            }
            Self::Free(fault) => disks::free(fault, fleet).await?,
            Self::Resume(tenant) => tenants::resume(&fleet.sql, &tenant, operators::NAME).await?,
        }
        Ok(())
    }
}

impl Strike {
    fn over(detail: impl Into<String>) -> Self {
        Self::lasting(detail, Mend::Nothing, Duration::ZERO)
    }

    fn lasting(detail: impl Into<String>, mend: Mend, lasts: Duration) -> Self {
        Self { detail: detail.into(), mend, lasts, lost: Vec::new(), failover: None }
    }
}

/// Strikes.
///
/// # Errors
/// If a server does not come back.
pub async fn strike(
    fault: ChaosFault,
    fleet: &mut ChaosFleet,
    history: &OperationHistory,
    random: &mut StdRng,
) -> Result<Strike> {
    match fault {
        ChaosFault::KillWorker
        | ChaosFault::PauseWorker
        | ChaosFault::DrainWorker
        | ChaosFault::MoveClock => processes::strike(fault, fleet, random).await,
        ChaosFault::RollingRestart => processes::rolling_restart(fleet).await,
        ChaosFault::KillNats
        | ChaosFault::KillPostgres
        | ChaosFault::WipeJetstream
        | ChaosFault::ChangeLeaders => servers::strike(fault, fleet, random).await,
        ChaosFault::FailOver => failover::strike(false, fleet, history, random).await,
        ChaosFault::FailOverLosing => failover::strike(true, fleet, history, random).await,
        ChaosFault::CutNats
        | ChaosFault::CutPostgres
        | ChaosFault::SlowPostgres
        | ChaosFault::SlowNats
        | ChaosFault::HalfOpen
        | ChaosFault::OneWay
        | ChaosFault::Isolate => Ok(network::strike(fault, fleet, random)),
        ChaosFault::DeleteBucket | ChaosFault::DeleteStream | ChaosFault::PurgeKeys => {
            streams::strike(fault, fleet, random).await
        }
        ChaosFault::RollBackStream => streams::roll_back(fleet, history, random).await,
        ChaosFault::FillNatsDisk | ChaosFault::FillPostgresDisk => {
            disks::fill(fault, fleet, random)
        }
        ChaosFault::Suspend | ChaosFault::Poison | ChaosFault::Provision | ChaosFault::Migrate => {
            operators::strike(fault, fleet, random).await
        }
    }
}
