use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use brigade::{
    fleet::config::RunConfig,
    operations::{
        OperatorServers,
        finding::{Finding, Severity},
        status::{Status, StatusWatch},
    },
    workers::cache_verifier::fleet_watch::{QueueName, Rows, Streams},
};
use brigade_contracts::WorkerName;
use tokio::time::sleep;

use super::{
    causes::causes,
    output::{Unread, line},
    printable::{printable, printable_json},
};

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Reads NATS by BRIGADE_NATS_URL, as its operator, and SQL by BRIGADE_DATABASE_URL. Exit status 0:
/// all is well, 1: somebody should look, 2: something is not done, 3: a server cannot be asked.
#[derive(clap::Args)]
pub struct StatusArgs {
    /// Look every 2 s, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// One line of JSON each time
    #[arg(long)]
    json: bool,
}

/// Returns the servers of the operator of this environment.
pub fn servers(config: &RunConfig) -> Result<OperatorServers> {
    let (nats_url, database_url) = config.operators_urls()?;
    let (nats_url, database_url) = (nats_url.to_owned(), database_url.to_owned());
    let (nats, replicas) = (config.nats_options(), config.replicas);
    Ok(OperatorServers { nats_url, nats, database_url, replicas })
}

pub async fn run(args: StatusArgs) -> Result<ExitCode> {
    or_unreachable(look(args).await)
}

async fn look(args: StatusArgs) -> Result<ExitCode> {
    let mut watch = StatusWatch::new(servers(&RunConfig::from_env()?)?);
    loop {
        let status = watch.look().await;
        if args.json {
            line(format_args!("{}", printable_json(&serde_json::to_value(&status)?)))?;
        } else {
            print(&status, args.watch && stdout().is_terminal())?;
        }
        if !args.watch {
            return Ok(ExitCode::from(status.worst.exit_code()));
        }
        sleep(PERIOD).await;
    }
}

/// Has an error end the command as a server does that cannot be asked: what is wrong is not known.
pub fn or_unreachable(ended: Result<ExitCode>) -> Result<ExitCode> {
    match ended {
        Err(error) if !error.is::<Unread>() => {
            eprintln!("brigade: {}", causes(&error));
            Ok(ExitCode::from(Severity::Unreachable.exit_code()))
        }
        ended => ended,
    }
}

fn print(status: &Status, clears: bool) -> Result<()> {
    if clears {
        // To the upper left corner, and nothing below.
        line(format_args!("\u{1b}[H\u{1b}[2J"))?;
    }
    print_findings(&status.findings)?;
    if let Some(rows) = &status.rows {
        line(format_args!(""))?;
        print_workers(rows)?;
        print_queues(rows)?;
    }
    if let Some(streams) = &status.streams {
        print_consumers(streams)?;
    }
    Ok(())
}

/// Prints findings, each with what to do below it.
pub fn print_findings(findings: &[Finding]) -> Result<()> {
    if findings.is_empty() {
        return line(format_args!("{:<11}  nothing is wrong", Severity::Fine.as_str()));
    }
    for finding in findings {
        let Finding { severity, subject, what, mend, .. } = finding;
        let (subject, what) = (printable(subject), printable(what));
        line(format_args!("{:<11}  {subject}: {what}", severity.as_str()))?;
        if !mend.is_empty() {
            line(format_args!("{:<11}  → {}", "", printable(mend)))?;
        }
    }
    Ok(())
}

fn print_workers(rows: &Rows) -> Result<()> {
    line(format_args!("{:<24}  {:>5}  {:<8}  duties held", "worker", "alive", "version"))?;
    for worker in WorkerName::ALL.map(WorkerName::as_str) {
        let alive: Vec<_> =
            rows.instances.iter().filter(|i| i.worker == worker && i.is_alive()).collect();
        let mut versions: Vec<_> = alive.iter().map(|i| printable(&i.version)).collect();
        versions.dedup();
        let is_held =
            |name: &str| name.strip_prefix(worker).is_some_and(|rest| rest.starts_with('.'));
        let held = rows.leases.iter().filter(|l| is_held(&l.name) && l.expired_seconds.is_none());
        let held: Vec<_> = held.map(|lease| &lease.name[worker.len() + 1..]).collect();
        let held = held.into_iter().filter(|name| !name.starts_with("member."));
        let held = printable(&held.collect::<Vec<_>>().join(" "));
        let (count, versions) = (alive.len(), versions.join(","));
        line(format_args!("{worker:<24}  {count:>5}  {versions:<8}  {held}"))?;
    }
    Ok(())
}

fn print_queues(rows: &Rows) -> Result<()> {
    line(format_args!("\n{:<24}  {:>8}  {:>10}", "in SQL", "rows", "oldest"))?;
    for queue in QueueName::ALL.map(|name| rows.queue(name)) {
        let name = queue.name.as_str();
        line(format_args!("{name:<24}  {:>8}  {:>8.0} s", queue.rows, queue.oldest_seconds))?;
    }
    let audited = rows
        .audited_seconds
        .map_or_else(|| "not yet".to_owned(), |seconds| format!("{:.0} min ago", seconds / 60.0));
    line(format_args!("{:<24}  {audited}", "last full audit"))
}

fn print_consumers(streams: &Streams) -> Result<()> {
    line(format_args!(
        "\n{:<24}  {:<9}  {:>8}  {:>8}  {:>11}  {:>6}  {:>10}",
        "consumer", "stream", "pending", "in hand", "redelivered", "pulls", "oldest"
    ))?;
    for at in &streams.consumers {
        line(format_args!(
            "{:<24}  {:<9}  {:>8}  {:>8}  {:>11}  {:>6}  {:>8.0} s",
            at.consumer,
            at.stream,
            at.pending,
            at.ack_pending,
            at.redelivered,
            at.pulls,
            at.oldest_seconds
        ))?;
    }
    Ok(())
}
