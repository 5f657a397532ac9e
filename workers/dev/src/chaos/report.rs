//! What a run tells: how much was asked and answered, what was broken and how soon it was over, and
//! what was found to be wrong.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ChaosPlan,
    check::{ChaosFinding, Evidence, money::TenantSums},
    fleet::ChaosFleet,
    history::{Micros, Operation, Way},
    nemesis::Blow,
};

/// Findings that are printed; the file has all of them.
const PRINTED: usize = 20;

/// The circumstances of a run.
#[derive(Serialize)]
pub struct Run {
    pub seed: u64,
    pub machine: Value,
    /// The time for which clients went on, and the time that the fleet then took to come to rest.
    pub load: Micros,
    pub rest: Micros,
    /// The folder of data and logs.
    pub kept: Option<PathBuf>,
    /// Locks that outlived their deadlines while nothing was broken, in milliseconds.
    pub late: Vec<i64>,
    /// Messages that each process of the release before has handled since it was started last.
    pub previous: BTreeMap<String, u64>,
    /// Commands of operators, and the letters that they replayed, dropped, and were refused.
    pub operators: [usize; 4],
}

/// Operations of one way.
#[derive(Default, Serialize)]
pub struct Counted {
    pub operations: usize,
    pub definite: usize,
}

/// Faults of one kind.
#[derive(Serialize)]
pub struct Recovered {
    pub count: usize,
    /// Seconds until a command was decided and seen: median and worst.
    pub visible: (f64, f64),
    /// The same until it was projected as well.
    pub projected: (f64, f64),
}

#[derive(Serialize)]
pub struct ChaosReport {
    pub run: Run,
    pub ways: BTreeMap<Way, Counted>,
    /// Commands under an id of their own, and those with a final outcome.
    pub commands: Counted,
    /// Definite answers to clients a second, while something was broken and while nothing was.
    pub during: f64,
    pub between: f64,
    pub faults: BTreeMap<&'static str, Recovered>,
    pub money: BTreeMap<String, TenantSums>,
    pub dead_letters: usize,
    /// Commands that were answered, and lost by a failover to a standby that was behind.
    pub lost_by_failover: usize,
    pub findings: Vec<ChaosFinding>,
    pub blows: Vec<Blow>,
}

impl ChaosReport {
    #[must_use]
    pub fn of(
        run: Run,
        operations: &[Operation],
        blows: Vec<Blow>,
        money: BTreeMap<String, TenantSums>,
        evidence: &Evidence,
        findings: Vec<ChaosFinding>,
    ) -> Self {
        let mut ways: BTreeMap<Way, Counted> = BTreeMap::new();
        for operation in operations {
            let counted = ways.entry(operation.way).or_default();
            counted.operations += 1;
            counted.definite += usize::from(operation.is_definite());
        }
        let decided = evidence.sent.keys().filter(|id| evidence.inbox.contains_key(*id)).count();
        let commands = Counted { operations: evidence.sent.len(), definite: decided };
        let (during, between) = rates(operations, &blows, run.load);
        let faults = recovered(&blows);
        let dead_letters = evidence.letters.values().sum();
        let lost = operations.iter().filter(|by| evidence.is_lost(by));
        let lost: HashSet<_> = lost.map(|by| (&by.tenant, &by.command_id)).collect();
        Self {
            run,
            ways,
            commands,
            during,
            between,
            faults,
            money,
            dead_letters,
            lost_by_failover: lost.len(),
            findings,
            blows,
        }
    }

    /// Returns the number of definite answers to clients that asked.
    #[must_use]
    pub fn definite(&self) -> usize {
        let asked = self.ways.iter().filter(|(way, _)| !matches!(way, Way::Push | Way::Stream));
        asked.map(|(_, counted)| counted.definite).sum()
    }

    /// The whole report as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The tables on stderr, and the verdict.
    pub fn print(&self) {
        eprintln!("\n  {:<24} {:>10} {:>10} {:>9}", "operations", "asked", "definite", "share");
        let row = |name: &str, Counted { operations, definite }: &Counted| {
            let share = 100.0 * *definite as f64 / (*operations).max(1) as f64;
            eprintln!("  {name:<24} {operations:>10} {definite:>10} {share:>7.1} %");
        };
        for (way, counted) in &self.ways {
            row(&format!("{way:?}"), counted);
        }
        row("commands, by id", &self.commands);
        let Self { during, between, dead_letters, .. } = self;
        eprintln!(
            "  {during:.0} definite answers a second while something was broken, {between:.0} \
                   between; {dead_letters} dead letters of commands"
        );
        self.print_faults();
        self.print_money();
        let late = self.run.late.iter().max().copied().unwrap_or_default();
        eprintln!(
            "\n  locks that outlived their deadline by over 1 s while nothing was broken: {}, \
                   by {late} ms at most",
            self.run.late.len()
        );
        if self.blows.iter().any(|blow| blow.failover.is_some_and(|failover| failover.loses())) {
            eprintln!(
                "  answered, and lost by failovers to a standby that was behind: {} commands",
                self.lost_by_failover
            );
        }
        if !self.run.previous.is_empty() {
            eprintln!("  messages handled by the release before: {:?}", self.run.previous);
        }
        let [runs, replayed, dropped, refused] = self.run.operators;
        eprintln!(
            "  operators' commands: {runs}; letters replayed: {replayed}, dropped: {dropped}, refused: \
             {refused}"
        );
        eprintln!("  at rest {:.1} s after the load", self.run.rest as f64 / 1e6);
        self.print_findings();
    }

    fn print_faults(&self) {
        if self.faults.is_empty() {
            return;
        }
        eprintln!(
            "\n  {:<20} {:>6} {:>22} {:>22}",
            "fault", "count", "decided: p50, worst", "projected: p50, worst"
        );
        for (fault, Recovered { count, visible, projected }) in &self.faults {
            let seconds = |(p50, worst): &(f64, f64)| format!("{p50:.2} s, {worst:.2} s");
            eprintln!(
                "  {fault:<20} {count:>6} {:>22} {:>22}",
                seconds(visible),
                seconds(projected)
            );
        }
    }

    fn print_money(&self) {
        eprintln!(
            "\n  {:<10} {:>14} {:>14} {:>14} {:>14}",
            "money", "said", "captured", "applied", "owed back"
        );
        let cents = |amount: i64| format!("{}.{:02}", amount / 100, amount % 100);
        for (of, TenantSums { said, captured, applied, owed }) in &self.money {
            let [said, captured, applied, owed] =
                [said, captured, applied, owed].map(|a| cents(*a));
            eprintln!("  {of:<10} {said:>14} {captured:>14} {applied:>14} {owed:>14}");
        }
    }

    fn print_findings(&self) {
        let count = self.findings.len();
        for ChaosFinding { invariant, what, operations } in self.findings.iter().take(PRINTED) {
            eprintln!("\n  ✗ {invariant}: {what}");
            for operation in operations {
                eprintln!("      {operation}");
            }
        }
        if count > PRINTED {
            eprintln!("\n  … and {} more", count - PRINTED);
        }
        if let Some(kept) = &self.run.kept {
            eprintln!("\n  data and logs: {}", kept.display());
        }
        let seed = self.run.seed;
        if count == 0 {
            eprintln!(
                "\n✓ nothing lost, nothing doubled, nothing stale, no cent wrong (seed {seed})"
            );
        } else {
            eprintln!("\n✗ {count} findings (seed {seed})");
        }
    }
}

/// Returns definite answers a second while something was broken, and while nothing was.
fn rates(operations: &[Operation], blows: &[Blow], load: Micros) -> (f64, f64) {
    let is_broken = |at: Micros| blows.iter().any(|blow| (blow.struck..blow.over).contains(&at));
    let (mut during, mut between) = (0_u32, 0_u32);
    let asked = operations.iter().filter(|by| !matches!(by.way, Way::Push | Way::Stream));
    for operation in asked.filter(|by| by.is_definite() && by.ended <= load) {
        let counted = if is_broken(operation.ended) { &mut during } else { &mut between };
        *counted += 1;
    }
    let broken: Micros =
        blows.iter().map(|blow| blow.over.min(load).saturating_sub(blow.struck)).sum();
    let rate = |count: u32, micros: Micros| f64::from(count) / (micros.max(1) as f64 / 1e6);
    let during = if broken == 0 { 0.0 } else { rate(during, broken) };
    (during, rate(between, load.saturating_sub(broken)))
}

fn recovered(blows: &[Blow]) -> BTreeMap<&'static str, Recovered> {
    let mut by_fault: BTreeMap<&'static str, Vec<&Blow>> = BTreeMap::new();
    for blow in blows {
        by_fault.entry(blow.fault.name()).or_default().push(blow);
    }
    let of = |blows: &[&Blow], seconds: fn(&super::nemesis::Recovery) -> f64| {
        let mut times = Histogram::<u64>::new_with_max(600_000, 3).expect("bounds");
        for recovery in blows.iter().filter_map(|blow| blow.recovery.as_ref()) {
            times.saturating_record((1e3 * seconds(recovery)) as u64);
        }
        (times.value_at_quantile(0.5) as f64 / 1e3, times.max() as f64 / 1e3)
    };
    let row = |(fault, blows): (&'static str, Vec<&Blow>)| {
        let visible = of(&blows, |recovery| recovery.visible);
        let projected = of(&blows, |recovery| recovery.projected);
        (fault, Recovered { count: blows.len(), visible, projected })
    };
    by_fault.into_iter().map(row).collect()
}

pub fn title(plan: &ChaosPlan) {
    let (minutes, faults) = (plan.length.as_secs_f64() / 60.0, plan.faults.len());
    let on = if plan.is_cluster { ", on a cluster of three nats-servers" } else { "" };
    let seed = plan.seed;
    eprintln!("brigade chaos: {minutes:.1} minutes, {faults} kinds of faults, seed {seed}{on}");
}

pub fn fleet_is_started(fleet: &ChaosFleet) {
    let (nats, postgres) = (fleet.stack.nats.port(), fleet.stack.postgres.port());
    let (count, replicas) = (fleet.members.len(), fleet.stack.replicas());
    eprintln!(
        "  nats-server on 127.0.0.1:{nats} ({replicas} nodes), Postgres on 127.0.0.1:{postgres}, \
         {count} processes of workers\n"
    );
}

pub fn comes_to_rest(load: Micros) {
    eprintln!("\n  {:.0} s of load are over; the fleet comes to rest", load as f64 / 1e6);
}

/// Returns what the run was on.
pub async fn machine(fleet: &ChaosFleet) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let postgres: Option<String> =
        sqlx::query_scalar("show server_version").fetch_one(&fleet.sql).await.ok();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    json!({ "cores": cores, "postgres": postgres, "build": build,
            "nats_server": fleet.operator.client().server_info().version })
}
