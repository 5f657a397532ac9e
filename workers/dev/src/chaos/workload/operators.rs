//! Operators who replay and drop dead letters while all runs, by the commands `brigade dlq replay`
//! and `brigade dlq drop`. Two of them often want the same letters, and some are interrupted.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use brigade_contracts::permissions;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Launch,
    chaos::{
        fleet::{ChaosFleet, TENANTS},
        history::{Micros, OperationHistory},
    },
};

/// The pause between two of their commands.
const PAUSE: Duration = Duration::from_millis(2500);
/// Operators of a stuck command lose their patience. What was begun is finished by the next one.
const PATIENCE: Duration = Duration::from_secs(15);
/// One in so many is killed on the way.
const INTERRUPTED: u32 = 8;

/// A command of an operator, and what it said.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorRun {
    /// `replayed` or `dropped`
    pub action: &'static str,
    pub tenant: &'static str,
    pub begun: Micros,
    pub ended: Micros,
    /// The numbers of the letters of which it said that this was done.
    pub done: Vec<String>,
    /// The letters that it refused.
    pub refused: usize,
}

/// The acts of operators.
pub type OperatorLedger = Arc<Mutex<Vec<OperatorRun>>>;

/// The operators of a run.
#[derive(Clone)]
pub struct Operators {
    launch: Launch,
    variables: Vec<(String, String)>,
    history: OperationHistory,
    ledger: OperatorLedger,
}

impl Operators {
    #[must_use]
    pub fn new(fleet: &ChaosFleet, history: &OperationHistory, ledger: OperatorLedger) -> Self {
        let mut variables = fleet.plan.variables.clone();
        let nats_url = fleet.stack.nats_url(&permissions::operator().name);
        variables.push(("BRIGADE_NATS_URL".to_owned(), nats_url));
        variables.push(("BRIGADE_DATABASE_URL".to_owned(), fleet.operator_url()));
        Self { launch: fleet.plan.launch, variables, history: history.clone(), ledger }
    }

    /// Works until it is stopped.
    pub async fn work(self, seed: u64, stop: CancellationToken) {
        let mut random = StdRng::seed_from_u64(seed ^ 0x0b5e_55ed);
        while !stop.is_cancelled() {
            sleep(PAUSE.mul_f64(random.random_range(0.5..1.5))).await;
            let tenant = TENANTS[random.random_range(0..TENANTS.len())];
            // Poison is replayed by nobody; now and then they clear it away.
            if random.random_ratio(1, 6) {
                self.run("drop", tenant, &mut random).await;
                continue;
            }
            let mut other = StdRng::seed_from_u64(random.random());
            let replay = self.run("replay", tenant, &mut random);
            if other.random_ratio(1, 2) {
                tokio::join!(replay, self.run("replay", tenant, &mut other));
            } else {
                replay.await;
            }
        }
    }

    async fn run(&self, action: &'static str, tenant: &'static str, random: &mut StdRng) {
        let filter = format!("--matching --tenant {tenant} --by op{}", random.random::<u8>());
        let arguments = match action {
            "replay" => format!("dlq replay {filter} --reason tenant_suspended"),
            _ => format!("dlq drop {filter} --because nobodys"),
        };
        let is_interrupted = random.random_ratio(1, INTERRUPTED);
        let patience = if is_interrupted {
            PATIENCE.mul_f64(random.random_range(0.0..0.03))
        } else {
            PATIENCE
        };
        let begun = self.history.now();
        let said = self.said(&arguments, patience).await;
        let numbers = |word: &str| -> Vec<String> {
            let lines = said.lines().filter_map(|line| line.strip_prefix(word));
            lines.filter_map(|rest| Some(rest.split_whitespace().next()?.to_owned())).collect()
        };
        let did = if action == "replay" { "replayed" } else { "dropped" };
        let (done, refused) = (numbers(&format!("{did} ")), numbers("not replayed ").len());
        let ended = self.history.now();
        let run = OperatorRun { action: did, tenant, begun, ended, done, refused };
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).push(run);
    }

    /// Returns what a command said; nothing of one that was killed, whatever it did.
    async fn said(&self, arguments: &str, patience: Duration) -> String {
        let Ok(program) = std::env::current_exe() else { return String::new() };
        let (launched, variables) = (self.launch)(arguments);
        let child = Command::new(program)
            .args(launched)
            .envs(variables)
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let Ok(Ok(output)) = timeout(patience, child).await else { return String::new() };
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }
}
