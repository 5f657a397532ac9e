//! `brigade bench`: how far from the limit, in one run, on any machine.
//!
//! Each path is measured beside a raw ceiling that knows nothing of brigade, on the same servers, in
//! the same run, with messages and rows of the same size, so that a ratio means the same on a slow
//! machine and a fast one. At the end every order must have its event and its outcome, and nothing may
//! be left in the outbox or unshown, or the bench fails: what was not done does not count.
//!
//! Measured so far: the relay, both doors with orders placed, the request door unloaded, and queries
//! of one view.

mod check;
mod commands;
mod load;
mod queries;
mod relay;
mod report;
mod stage;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use self::{report::Report, stage::Stage};

#[derive(clap::Args)]
pub struct Args {
    /// Only these measurements, such as `relay` or `durable`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Under 3 minutes: shorter measurements, fewer events
    #[arg(long)]
    short: bool,
    /// Length of each measurement
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// The results as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// How long and how much.
pub struct Plan {
    only: Vec<String>,
    pub length: Duration,
    pub events: u32,
}

impl Plan {
    /// Whether a measurement is asked for.
    pub fn includes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let seconds = args.seconds.unwrap_or(if args.short { 4 } else { 15 });
    let plan = Plan {
        only: args.only,
        length: Duration::from_secs(seconds),
        events: if args.short { 50_000 } else { 200_000 },
    };
    let mut stage = Stage::open().await?;
    let mut report = Report::new(&stage).await?;
    relay::measure(&mut stage, &plan, &mut report).await?;
    stage.start_workers().await?;
    commands::measure(&mut stage, &plan, &mut report).await?;
    queries::measure(&mut stage, &plan, &mut report).await?;
    check::everything_was_done(&stage).await?;
    report.finish(args.json);
    stage.close().await;
    Ok(ExitCode::SUCCESS)
}
