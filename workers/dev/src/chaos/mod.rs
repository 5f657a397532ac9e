//! `brigade chaos`: breaks everything at random under load, and counts what was lost.
//!
//! Real servers, and two real processes of each worker behind TCP proxies ([`fleet`]). Clients send
//! whatever there is through every door and query what they know ([`workload`]); what they ask and
//! what they are told stands in the [`history`]. A [`nemesis`] strikes fault after fault and measures
//! each recovery. In the end the fleet comes to rest, and checkers ([`check`]) hold the history
//! against SQL, streams and KV. All draws come from one seed: the same seed sends the same commands
//! and strikes in the same order, though what meets what is up to the machine.

mod answers;
pub mod check;
mod client;
mod disk;
mod doors;
mod fleet;
pub mod history;
mod member;
mod nemesis;
mod pace;
mod plant;
mod report;
mod watch;
mod workload;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use brigade_servers::{Binaries, Postgres, StackConfig};

use self::{
    check::{ChaosFinding, Evidence},
    fleet::{ChaosFleet, FleetPlan},
    history::{Micros, OperationHistory},
    nemesis::{Blow, ChaosFault, FaultNeed, Nemesis},
    watch::Watchers,
    workload::{OperatorRun, Workload},
};
pub use self::{fleet::PreviousRelease, report::ChaosReport};
use crate::{Launch, invariants::deadlines::outlived, worker::as_it_is};

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct ChaosArgs {
    /// The minutes for which clients and faults go on; each fault is struck at least once
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// The seed from which everything is drawn; without it one is drawn, and printed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only these faults, by name, or `none`
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    faults: Vec<String>,
    /// On a cluster of three nats-servers, every stream with three replicas
    #[arg(long)]
    cluster: bool,
    /// The report as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Every operation as a line of JSON
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Plant these bugs, or `all`, one after the other, until each is found: only in a build with
    /// the feature `planted-bugs`
    #[arg(long, value_name = "BUG", value_delimiter = ',', num_args = 1..)]
    plant: Vec<String>,
    /// Only measure how soon the rate is normal again after kill -9 of each process
    #[arg(long, conflicts_with_all = ["plant", "faults"])]
    kill_each: bool,
    /// Leave the folder with data and logs, and say where it is
    #[arg(long)]
    keep: bool,
}

/// A fleet that is not at rest by then has lost something, or goes round in circles.
const PATIENCE: Duration = Duration::from_secs(120);

/// The plan of a run.
pub struct ChaosPlan {
    pub length: Duration,
    pub seed: u64,
    faults: Vec<ChaosFault>,
    /// True if they were named, so that none is left out.
    are_named: bool,
    /// On a cluster of three nats-servers.
    pub is_cluster: bool,
    /// The time that the fleet may take to come to rest.
    pub patience: Duration,
    pub history: Option<PathBuf>,
    pub keep: bool,
    /// The way in which the processes of workers are launched, and variables for all of them.
    pub launch: Launch,
    pub variables: Vec<(String, String)>,
    /// The release of every second process, if it is not the present one.
    pub previous: Option<PreviousRelease>,
}

impl ChaosPlan {
    /// A plan of so long, with these faults (none: all of them).
    ///
    /// # Errors
    /// A name of a fault that is none.
    pub fn new(length: Duration, seed: u64, faults: &[String], launch: Launch) -> Result<Self> {
        let are_named = !faults.is_empty();
        let faults = nemesis::parse(faults)?;
        Ok(Self {
            length,
            seed,
            faults,
            are_named,
            is_cluster: false,
            patience: PATIENCE,
            history: None,
            keep: false,
            launch,
            variables: Vec::new(),
            previous: None,
        })
    }

    /// Returns the faults that are possible here.
    ///
    /// # Errors
    /// If one that was named is not.
    async fn possible_faults(&self) -> Result<Vec<ChaosFault>> {
        let has_small_disks = disk::is_possible();
        let postgres = Binaries::find(&StackConfig::from_env()).await?.postgres_bin;
        let has_basebackup = Postgres::copier(&postgres).is_some();
        let is_possible = |fault: &ChaosFault| match fault.need() {
            FaultNeed::Nothing => true,
            FaultNeed::Cluster => self.is_cluster,
            FaultNeed::SingleServer => !self.is_cluster,
            FaultNeed::SmallDisks => has_small_disks,
            FaultNeed::Basebackup => has_basebackup,
            FaultNeed::Faketime => member::faketime().is_some(),
        };
        let (faults, left_out): (Vec<ChaosFault>, Vec<ChaosFault>) =
            self.faults.iter().partition(|fault| is_possible(fault));
        for fault in &left_out {
            let (name, need) = (fault.name(), fault.need());
            ensure!(!self.are_named, "{name} is not possible here: it needs {need:?}");
            eprintln!("  without {name}, which needs {need:?}");
        }
        Ok(faults)
    }

    fn fleet(&self, faults: &[ChaosFault]) -> FleetPlan {
        FleetPlan {
            launch: self.launch,
            variables: self.variables.clone(),
            previous: self.previous.clone(),
            is_cluster: self.is_cluster,
            has_small_disks: faults.iter().any(|fault| fault.need() == FaultNeed::SmallDisks),
        }
    }
}

pub async fn run(args: ChaosArgs) -> Result<ExitCode> {
    // Dropped, the fleet ends its processes and its folder.
    tokio::select! {
        result = run_to_the_end(args) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

async fn run_to_the_end(args: ChaosArgs) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    if args.kill_each {
        return pace::measure().await;
    }
    if !args.plant.is_empty() {
        return plant::hunt(plant::parse(&args.plant)?, seed, &args.faults).await;
    }
    let length = Duration::from_secs_f64(60.0 * args.minutes);
    let plan = ChaosPlan::new(length, seed, &args.faults, as_it_is)?;
    let (history, keep, is_cluster) = (args.history, args.keep, args.cluster);
    let plan = ChaosPlan { history, keep, is_cluster, ..plan };
    let report = play(&plan).await?;
    report.print();
    if let Some(file) = &args.report {
        report.write(file)?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a plan to its end.
///
/// # Errors
/// If the run itself breaks: a server does not start, or SQL cannot be read at rest. What is found
/// to be wrong is no error but in the report.
pub async fn play(plan: &ChaosPlan) -> Result<ChaosReport> {
    report::title(plan);
    let faults = plan.possible_faults().await?;
    let mut fleet = ChaosFleet::start(plan.fleet(&faults)).await?;
    report::fleet_is_started(&fleet);
    let history = OperationHistory::begin(plan.history.as_deref())?;
    let clock = clock_offset(&fleet, &history).await?;
    let watchers = Watchers::start(&fleet, &history).await?;
    let mut workload = Workload::start(&fleet, &history, plan.seed).await?;
    let mut nemesis = Nemesis::new(&fleet, &history, faults, plan.seed).await?;
    nemesis.run(&mut fleet, plan.length).await?;
    let mut findings: Vec<ChaosFinding> = nemesis.blows.iter().filter_map(not_recovered).collect();
    if workload.dead() > 0 {
        findings.push(ChaosFinding::of_line("I-0: a client of the workload ended by itself"));
    }
    workload.stop().await;
    let load = history.now();
    report::comes_to_rest(load);
    findings.extend(check::at_rest(&fleet, are_in_order(&nemesis.blows), plan.patience).await?);
    let rest = history.now() - load;
    watchers.stop().await;
    let (operations, facts) = (history.take(), history.take_facts());
    let mut sql = fleet.sql.acquire().await?;
    let evidence = Evidence::read(&mut sql, &fleet.operator, &operations, &nemesis.blows).await?;
    let late = late_locks(&fleet, clock, &nemesis.blows).await?;
    drop(sql);
    findings.extend(check::outcomes::check(&operations, &evidence));
    findings.extend(check::reads::check(&operations, &evidence, &nemesis.blows));
    findings.extend(check::locks::check(&operations, &evidence));
    let runs = workload.runs();
    findings.extend(check::letters::check(&runs, &operations, &evidence));
    let (of_money, sums) = check::money::check(&facts, &operations, &evidence);
    findings.extend(of_money);
    let machine = report::machine(&fleet).await;
    let previous = fleet.handled_by_previous().await;
    let kept = fleet.close(plan.keep || !findings.is_empty()).await;
    let (seed, operators) = (plan.seed, counted(&runs));
    let run = report::Run { seed, machine, load, rest, kept, late, previous, operators };
    Ok(ChaosReport::of(run, &operations, nemesis.blows, sums, &evidence, findings))
}

fn not_recovered(blow: &Blow) -> Option<ChaosFinding> {
    let what = match &blow.recovery {
        None => "the fleet did not recover from",
        Some(_) if blow.was_waited_for() => "the fleet did nothing but wait for the end of",
        Some(_) => return None,
    };
    let what = format!("{what} {} ({})", blow.fault.name(), blow.detail);
    Some(ChaosFinding::new("recovery", what, []))
}

/// Returns true if events have to be in `EVENTS` in order: nothing that the stream or the database
/// lost comes again in order.
fn are_in_order(blows: &[Blow]) -> bool {
    let mut lost = blows.iter().flat_map(|blow| &blow.lost);
    let has_lost = blows.iter().filter_map(|blow| blow.failover).any(|failover| failover.loses());
    !has_lost && !lost.any(|lost| ["EVENTS", "*"].contains(&&*lost.stream))
}

fn counted(runs: &[OperatorRun]) -> [usize; 4] {
    let did = |what| runs.iter().filter(|run| run.action == what).map(|run| run.done.len()).sum();
    [runs.len(), did("replayed"), did("dropped"), runs.iter().map(|run| run.refused).sum()]
}

/// Returns the database's clock, in milliseconds since 1970, when the history began.
async fn clock_offset(fleet: &ChaosFleet, history: &OperationHistory) -> Result<i64> {
    let now = "select (1000 * extract(epoch from clock_timestamp()))::bigint";
    let now: i64 = sqlx::query_scalar(now).fetch_one(&fleet.sql).await?;
    Ok(now - i64::try_from(history.now() / 1000)?)
}

/// Returns by how much locks outlived their deadlines (I-15) while nothing was broken, in
/// milliseconds. It is measured and no finding: on a machine that is busy enough any time is
/// exceeded. A lock that is still held at rest is one.
async fn late_locks(fleet: &ChaosFleet, clock: i64, blows: &[Blow]) -> Result<Vec<i64>> {
    const AFTER: Micros = 2_000_000;
    let excused = |at: i64| {
        let at = u64::try_from(at - clock).unwrap_or_default() * 1000;
        blows.iter().any(|blow| (blow.struck..=blow.over + AFTER).contains(&at))
    };
    let late = outlived(&fleet.sql).await?.into_iter();
    Ok(late.filter(|(_, _, at)| !excused(*at)).map(|(_, late, _)| late).collect())
}
