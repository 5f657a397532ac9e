//! The nemesis: strikes one fault after the other, drawn from a seed, while the clients go on, and
//! measures how long the fleet needs after each.

mod faults;
mod probe;
mod strike;

use std::time::Duration;

use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use tokio::time::{Instant, sleep};

pub use self::{
    faults::{ChaosFault, FaultNeed, parse},
    probe::{Prober, Recovery},
    strike::{Failover, LostStream},
};
use super::{
    fleet::ChaosFleet,
    history::{Micros, OperationHistory},
};

/// Time before the first fault, in which everybody gets to work.
const WARM_UP: Duration = Duration::from_secs(3);
/// The shortest pause between a recovery and the next fault; the longest is thrice as long.
const PAUSE: Duration = Duration::from_millis(1200);

/// A fault that was struck.
#[derive(Clone, Debug, Serialize)]
pub struct Blow {
    pub fault: ChaosFault,
    /// The deed in detail.
    pub detail: String,
    pub struck: Micros,
    /// When its cause was gone.
    pub mended: Micros,
    /// When the fleet had recovered.
    pub over: Micros,
    /// The streams that lost something.
    pub lost: Vec<LostStream>,
    pub failover: Option<Failover>,
    /// None where the fleet did not recover.
    pub recovery: Option<Recovery>,
}

impl Blow {
    /// Returns true if the others had to wait for the one process that was away, for many times as
    /// long as it takes to notice that.
    #[must_use]
    pub fn was_waited_for(&self) -> bool {
        let away = (self.mended - self.struck) as f64 / 1e6;
        let recovery = self.recovery.as_ref();
        self.fault == ChaosFault::Isolate && recovery.is_some_and(|took| took.projected >= away)
    }
}

pub struct Nemesis {
    faults: Vec<ChaosFault>,
    random: StdRng,
    prober: Prober,
    history: OperationHistory,
    pub blows: Vec<Blow>,
}

impl Nemesis {
    /// # Errors
    /// If nats-server does not let it in.
    pub async fn new(
        fleet: &ChaosFleet,
        history: &OperationHistory,
        faults: Vec<ChaosFault>,
        seed: u64,
    ) -> Result<Self> {
        let (random, prober) = (StdRng::seed_from_u64(seed), Prober::connect(fleet).await?);
        Ok(Self { faults, random, prober, history: history.clone(), blows: Vec::new() })
    }

    /// Strikes until the time is over and each fault was struck at least once.
    ///
    /// # Errors
    /// If something cannot be mended.
    pub async fn run(&mut self, fleet: &mut ChaosFleet, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        sleep(WARM_UP).await;
        let mut bag = Vec::new();
        let mut first_round = self.faults.len();
        while !self.faults.is_empty() && (Instant::now() < until || first_round > 0) {
            if bag.is_empty() {
                bag.clone_from(&self.faults);
                bag.shuffle(&mut self.random);
            }
            let Some(fault) = bag.pop() else { break };
            first_round = first_round.saturating_sub(1);
            let blow = self.strike(fleet, fault).await?;
            tell(&blow);
            self.blows.push(blow);
            let pause = PAUSE.mul_f64(self.random.random_range(1.0..3.0));
            sleep(pause).await;
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    async fn strike(&mut self, fleet: &mut ChaosFleet, fault: ChaosFault) -> Result<Blow> {
        let struck = self.history.now();
        let strike = strike::strike(fault, fleet, &self.history, &mut self.random).await?;
        let strike::Strike { mut detail, mend, lasts, lost, failover } = strike;
        let (mended, recovery) = if fault.is_of_all() {
            sleep(lasts / 2).await;
            if !lasts.is_zero() && self.random.random_ratio(1, 2) {
                let at = fleet.any(&mut self.random);
                detail += &format!(", kill -9 of {}", fleet.name(at));
                fleet.kill(at).await;
            }
            sleep(lasts / 2).await;
            mend.mend(fleet).await?;
            fleet.start_missing().await?;
            (self.history.now(), self.prober.recovered().await)
        } else {
            // The rest of the fleet has to do without.
            let history = self.history.clone();
            let mending = async {
                sleep(lasts).await;
                mend.mend(fleet).await?;
                anyhow::Ok(history.now())
            };
            let (mended, recovery) = tokio::join!(mending, self.prober.recovered());
            (mended?, recovery)
        };
        let over = self.history.now();
        Ok(Blow { fault, detail, struck, mended, over, lost, failover, recovery })
    }
}

fn tell(blow: &Blow) {
    let recovered = blow.recovery.as_ref().map_or("NOT RECOVERED".to_owned(), |recovery| {
        format!(
            "decided after {:.2} s, projected after {:.2} s",
            recovery.visible, recovery.projected
        )
    });
    let at = blow.struck as f64 / 1e6;
    eprintln!("  {at:>7.1} s  {:<18} {:<50} {recovered}", blow.fault.name(), blow.detail);
}
