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
mod doors;
mod fleet;
pub mod history;
mod nemesis;
mod plant;
mod report;
mod watch;
mod workload;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;

pub use self::report::ChaosReport;
use self::{
    check::{ChaosFinding, Evidence},
    fleet::ChaosFleet,
    history::{Micros, OperationHistory},
    nemesis::{Blow, ChaosFault, Nemesis},
    watch::Watchers,
    workload::Workload,
};
use crate::{Launch, invariants::deadlines::outlived, worker::as_it_is};

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct ChaosArgs {
    /// How long clients and faults go on; each fault is struck at least once
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// What everything is drawn from; without it one is drawn, and printed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only these faults, by name, or `none`
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    faults: Vec<String>,
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
    /// Leave the folder with data and logs, and say where it is
    #[arg(long)]
    keep: bool,
}

/// A fleet that is not at rest by then has lost something, or goes round in circles.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a run does.
pub struct ChaosPlan {
    pub length: Duration,
    pub seed: u64,
    faults: Vec<ChaosFault>,
    /// How long the fleet may take to come to rest.
    pub patience: Duration,
    pub history: Option<PathBuf>,
    pub keep: bool,
    /// How the processes of workers are launched, and variables for all of them.
    pub launch: Launch,
    pub variables: Vec<(String, String)>,
}

impl ChaosPlan {
    /// A plan of so long, with these faults (none: all of them).
    ///
    /// # Errors
    /// A name of a fault that is none.
    pub fn new(length: Duration, seed: u64, faults: &[String], launch: Launch) -> Result<Self> {
        let faults = nemesis::parse(faults)?;
        Ok(Self {
            length,
            seed,
            faults,
            patience: PATIENCE,
            history: None,
            keep: false,
            launch,
            variables: Vec::new(),
        })
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
    if !args.plant.is_empty() {
        return plant::hunt(plant::parse(&args.plant)?, seed, &args.faults).await;
    }
    let length = Duration::from_secs_f64(60.0 * args.minutes);
    let plan = ChaosPlan::new(length, seed, &args.faults, as_it_is)?;
    let plan = ChaosPlan { history: args.history, keep: args.keep, ..plan };
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
    let mut fleet = ChaosFleet::start(plan.launch, plan.variables.clone()).await?;
    report::fleet_is_started(&fleet);
    let history = OperationHistory::begin(plan.history.as_deref())?;
    let clock = clock_offset(&fleet, &history).await?;
    let watchers = Watchers::start(&fleet, &history).await?;
    let mut workload = Workload::start(&fleet, &history, plan.seed).await?;
    let mut nemesis = Nemesis::new(&fleet, &history, plan.faults.clone(), plan.seed).await?;
    nemesis.run(&mut fleet, plan.length).await?;
    let mut findings: Vec<ChaosFinding> = nemesis.blows.iter().filter_map(not_recovered).collect();
    if workload.dead() > 0 {
        findings.push(ChaosFinding::of_line("I-0: a client of the workload ended by itself"));
    }
    workload.stop().await;
    let load = history.now();
    report::comes_to_rest(load);
    // Nothing that a stream lost is published again in order.
    let in_order = !nemesis.blows.iter().any(|blow| !blow.lost.is_empty());
    findings.extend(check::at_rest(&fleet, in_order, plan.patience).await?);
    let rest = history.now() - load;
    watchers.stop().await;
    let (operations, facts) = (history.take(), history.take_facts());
    let mut sql = fleet.sql.acquire().await?;
    let evidence = Evidence::read(&mut sql, &fleet.operator, &operations, &nemesis.blows).await?;
    let late = late_locks(&fleet, clock, &nemesis.blows).await?;
    drop(sql);
    findings.extend(check::outcomes::check(&operations, &evidence));
    findings.extend(check::reads::check(&operations, &evidence, &nemesis.blows));
    findings.extend(check::locks::check(&operations));
    let (of_money, sums) = check::money::check(&facts, &operations, &evidence);
    findings.extend(of_money);
    let machine = report::machine(&fleet).await;
    let kept = fleet.close(plan.keep || !findings.is_empty()).await;
    let run = report::Run { seed: plan.seed, machine, load, rest, kept, late };
    Ok(ChaosReport::of(run, &operations, nemesis.blows, sums, &evidence, findings))
}

fn not_recovered(blow: &Blow) -> Option<ChaosFinding> {
    let what = format!("the fleet did not recover from {} ({})", blow.fault.name(), blow.detail);
    blow.recovery.is_none().then(|| ChaosFinding::new("recovery", what, []))
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
