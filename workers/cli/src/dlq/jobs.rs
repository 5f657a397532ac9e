//! Jobs: what an operator has left to the fleet.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use brigade::operations::dead_letters::{
    DeadLetters, Letter,
    jobs::{Followed, Job, JobAction},
};
use brigade_contracts::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    output::{line, progress},
    printable::{printable, printable_json},
};

/// Interval between two looks at a job.
const PERIOD: Duration = Duration::from_millis(300);
/// The time between two lines that say how far it is.
const LINE_PERIOD: Duration = Duration::from_secs(5);
/// Jobs that are listed.
const LISTED: i64 = 50;

/// Leaves it to the fleet to act on letters, and looks on.
pub(super) async fn begin(
    letters: &DeadLetters,
    action: &JobAction,
    by: &str,
    selection: &str,
    found: &[Letter],
    detach: bool,
) -> Result<ExitCode> {
    if found.is_empty() {
        progress(format_args!("no letter matches"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = letters.begin_job(action, by, selection, found).await?;
    progress(format_args!(
        "job {id}: {} letters; it goes on without this terminal, see `brigade dlq jobs {id}`",
        found.len()
    ))?;
    if detach { Ok(ExitCode::SUCCESS) } else { follow(letters, id).await }
}

/// Prints what a job does until it ends.
pub(super) async fn follow(letters: &DeadLetters, id: i64) -> Result<ExitCode> {
    let mut followed = Followed::default();
    let mut said = Instant::now();
    let mut quiet = (0, Instant::now());
    let job = loop {
        // Read before its letters: what it had done when it ended is printed.
        let job = letters.job(id).await?;
        print_done(letters, &job, &mut followed).await?;
        if job.ended_at.is_some() {
            break job;
        }
        if job.settled() != quiet.0 {
            quiet = (job.settled(), Instant::now());
        }
        if said.elapsed() >= LINE_PERIOD {
            said = Instant::now();
            let stands = quiet.1.elapsed() >= LINE_PERIOD && job.waits.is_none();
            let hint = if stands { "; does a command-handler run?" } else { "" };
            progress(format_args!("{}{hint}", printable(&job.to_string())))?;
        }
        sleep(PERIOD).await;
    };
    print_refused(letters, &job).await?;
    progress(format_args!("{}", printable(&job.to_string())))?;
    let complete = job.refused == 0 && job.cancelled_by.is_none();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn print_done(letters: &DeadLetters, job: &Job, followed: &mut Followed) -> Result<()> {
    loop {
        let done = letters.done_by_job(job.id, followed).await?;
        if done.is_empty() {
            return Ok(());
        }
        for (number, subject) in done {
            progress(format_args!("{} {number} {}", what(job), printable(&subject)))?;
        }
    }
}

async fn print_refused(letters: &DeadLetters, job: &Job) -> Result<()> {
    let mut after = 0;
    loop {
        let refused = letters.refused_by_job(job.id, after).await?;
        if refused.is_empty() {
            return Ok(());
        }
        for (position, number, why) in refused {
            after = position;
            eprintln!("not {} {number}: {}", what(job), printable(&why));
        }
    }
}

fn what(job: &Job) -> &'static str {
    if job.action == "drop" { "dropped" } else { "replayed" }
}

/// Prints the newest jobs.
pub(super) async fn list(letters: &DeadLetters, json: bool) -> Result<()> {
    let jobs = letters.jobs(LISTED).await?;
    if !json {
        line(format_args!(
            "{:>6}  {:<24}  {:<8}  {:<9}  {:>9}  {:>9}  {:>8}  {:<16}  filter",
            "job", "begun", "action", "state", "letters", "settled", "refused", "by"
        ))?;
    }
    for job in jobs {
        if json {
            line(format_args!("{}", printable_json(&as_json(&job))))?;
            continue;
        }
        let Job { id, letters, refused, .. } = &job;
        let begun = Timestamp::from(job.created_at).to_string();
        let [action, by, selection] =
            [&job.action, &job.actor, &job.selection].map(|text| printable(text));
        let (state, settled) = (job.state(), job.settled());
        line(format_args!(
            "{id:>6}  {begun:<24}  {action:<8}  {state:<9}  {letters:>9}  {settled:>9}  \
             {refused:>8}  {by:<16}  {selection}"
        ))?;
    }
    Ok(())
}

/// Prints a job, and the letters that it was refused.
pub(super) async fn show(letters: &DeadLetters, id: i64, json: bool) -> Result<()> {
    let job = letters.job(id).await?;
    if json {
        return line(format_args!("{}", printable_json(&as_json(&job))));
    }
    line(format_args!("{}", printable(&job.to_string())))?;
    let [actor, selection] = [&job.actor, &job.selection].map(|text| printable(text));
    line(format_args!("begun at {} by {actor}: {selection}", Timestamp::from(job.created_at)))?;
    if let Some(reason) = &job.reason {
        line(format_args!("because {}", printable(reason)))?;
    }
    let mut after = 0;
    loop {
        let refused = letters.refused_by_job(id, after).await?;
        if refused.is_empty() {
            return Ok(());
        }
        for (position, number, why) in refused {
            after = position;
            line(format_args!("not {} {number}: {}", what(&job), printable(&why)))?;
        }
    }
}

pub(super) async fn cancel(letters: &DeadLetters, id: i64, by: &str) -> Result<()> {
    let cancelled = letters.cancel_job(id, by).await?;
    let job = letters.job(id).await?;
    let late = if cancelled { "" } else { " (it had ended)" };
    progress(format_args!("{}{late}", printable(&job.to_string())))
}

fn as_json(job: &Job) -> Value {
    let time = |at: Option<_>| at.map(|at| Timestamp::from(at).to_string());
    json!({
        "job": job.id,
        "action": job.action,
        "state": job.state(),
        "letters": job.letters,
        "done": job.done,
        "done_before": job.done_before,
        "refused": job.refused,
        "filter": job.selection,
        "by": job.actor,
        "reason": job.reason,
        "waits": job.waits,
        "begun_at": time(Some(job.created_at)),
        "worked_at": time(job.worked_at),
        "ended_at": time(job.ended_at),
        "cancelled_by": job.cancelled_by,
    })
}
