//! `brigade bench`: how far from the limit, in one run, on any machine.
//!
//! Each path ([`PATHS`]) is measured beside a raw ceiling that knows nothing of brigade, on the
//! same servers, in the same run, with messages and rows of the same size, so that a ratio means
//! the same on a slow machine and a fast one. Each path has a stack of its own, new and empty. At
//! its end everything that was answered must also have been done ([`check`]), or the bench fails:
//! what was not done does not count.

mod accounts;
mod ceilings;
mod check;
mod cost;
mod doors;
mod flat;
mod fleet;
mod http;
mod latency;
mod load;
mod machine;
mod mix;
mod outbox;
mod proxy;
mod queries;
mod reads;
mod relay;
mod report;
mod rush;
mod scale;
mod times;
mod waiters;
mod web;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, future::LocalBoxFuture};

use self::report::BenchReport;

type Measure = for<'a> fn(&'a Plan, &'a mut BenchReport) -> LocalBoxFuture<'a, Result<()>>;

/// The measurements, in this order.
const PATHS: [(&str, Measure); 8] = [
    // Outbox to EVENTS, beside the fastest acknowledged publishes.
    ("relay", |plan, report| relay::measure(plan, report).boxed_local()),
    // The standard mix: rates, latencies, CPU and memory.
    ("doors", |plan, report| doors::measure(plan, report).boxed_local()),
    // The doors through an account for each tenant, beside one account for all.
    ("accounts", |plan, report| accounts::measure(plan, report).boxed_local()),
    // Views and lists, beside a bare SELECT and a bare request.
    ("queries", |plan, report| queries::measure(plan, report).boxed_local()),
    // The standard read workload: where content comes from.
    ("reads", |plan, report| reads::measure(plan, report).boxed_local()),
    // The same and commands over HTTP; streams, beside polls and pushes.
    ("http", |plan, report| http::measure(plan, report).boxed_local()),
    // With history, an idle transaction and waiting events, beside without.
    ("flat", |plan, report| flat::measure(plan, report).boxed_local()),
    // 2 and 4 processes of a worker beside one, far from the servers.
    ("scale", |plan, report| scale::measure(plan, report).boxed_local()),
];

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct BenchArgs {
    /// Only the paths whose names begin so: relay, doors, accounts, queries, reads, http, flat,
    /// scale
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    only: Vec<String>,
    /// Under 3 minutes: shorter measurements, fewer carts, events and commands of history
    #[arg(long)]
    short: bool,
    /// Length of a measurement
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Commands of the history behind which the request door is measured
    #[arg(long, value_name = "N")]
    history: Option<u32>,
    /// The results as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The lengths and the amounts of the measurements.
pub struct Plan {
    pub length: Duration,
    /// The number of carts where it does not matter much.
    pub carts: usize,
    pub events: u32,
    pub history: u32,
}

pub async fn run(args: BenchArgs) -> Result<ExitCode> {
    let seconds = args.seconds.unwrap_or(if args.short { 3 } else { 15 });
    let plan = Plan {
        length: Duration::from_secs(seconds),
        carts: if args.short { 2000 } else { mix::CARTS },
        events: if args.short { 40_000 } else { 200_000 },
        history: args.history.unwrap_or(if args.short { 50_000 } else { 1_000_000 }),
    };
    let asked = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    ensure!(PATHS.iter().any(|(name, _)| asked(name)), "no path is called so: {:?}", args.only);
    let mut report = BenchReport::default();
    for (name, measure) in PATHS.into_iter().filter(|(name, _)| asked(name)) {
        let started = Instant::now();
        if let Err(error) = measure(&plan, &mut report).await.with_context(|| name) {
            report.finish(false);
            return Err(error);
        }
        eprintln!("measured {name} in {:.0} s", started.elapsed().as_secs_f64());
    }
    report.finish(args.json);
    Ok(ExitCode::SUCCESS)
}
