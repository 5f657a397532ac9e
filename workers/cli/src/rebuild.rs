use std::{
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use brigade::{
    fleet::config::RunConfig,
    infra::postgres::operator_pool,
    operations::rebuild::{RebuildProgress, RunningRebuild},
};
use brigade_contracts::{Token, key::Bucket};
use tokio::time::{Instant, sleep};

use super::output::progress;

/// The time between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// The time between two lines where stderr is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);
/// Without progress for this long a word is said about who may be missing.
const QUIET: Duration = Duration::from_secs(15);
/// Aggregates that are not written for so long, when all else is done, cannot be.
const GIVE_UP: Duration = Duration::from_secs(60);
const BAR: usize = 30;

/// Reads and writes SQL by BRIGADE_DATABASE_URL, as its owner. The fleet does the work; it goes on
/// if this is interrupted, and the same command joins it again.
#[derive(clap::Args)]
pub struct RebuildArgs {
    /// Only keys of this restaurant
    #[arg(long, value_parser = tenant)]
    tenant: Option<Token>,
    /// Only this bucket, and others by repeating it: versions, views, active_orders, cart_locks,
    /// user_state [default: all]
    #[arg(long, value_parser = bucket)]
    bucket: Vec<Bucket>,
}

fn tenant(text: &str) -> Result<Token, String> {
    Token::new(text).map_err(|refusal| refusal.to_string())
}

fn buckets() -> impl Iterator<Item = Bucket> {
    Bucket::ALL.into_iter().filter(|bucket| bucket.has_canary())
}

fn bucket(text: &str) -> Result<Bucket, String> {
    let found = buckets().find(|bucket| bucket.as_str() == text);
    let known = || buckets().map(Bucket::as_str).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("the buckets are {}", known()))
}

pub async fn run(args: RebuildArgs) -> Result<ExitCode> {
    let postgres = operator_pool(RunConfig::from_env()?.database_url()?).await?;
    // In one order, so that the same ones are the same rebuild.
    let named = |bucket: &Bucket| args.bucket.is_empty() || args.bucket.contains(bucket);
    let named: Vec<Bucket> = buckets().filter(named).collect();
    let began = Instant::now();
    let rebuild = RunningRebuild::begin(&postgres, &named, args.tenant).await?;
    let mut shown = ProgressLine::new();
    let (mut last, mut since) = (None, began);
    loop {
        let now = rebuild.progress(&postgres).await?;
        if last != Some(now) {
            (last, since) = (Some(now), Instant::now());
        }
        shown.show(&now, since.elapsed());
        if now.is_finished && (now.left == 0 || since.elapsed() > GIVE_UP) {
            break shown.end(&now, began.elapsed());
        }
        sleep(PERIOD).await;
    }
}

/// Prints on stderr: a line that is overwritten on a terminal, else some lines.
struct ProgressLine {
    on_terminal: bool,
    last: Option<(Instant, i64)>,
    has_hinted: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { on_terminal: stderr().is_terminal(), last: None, has_hinted: false }
    }

    fn show(&mut self, now: &RebuildProgress, quiet: Duration) {
        if quiet > QUIET && !self.has_hinted {
            self.has_hinted = true;
            let hint = "nothing moves: are cache-verifier, command-handler and outbox-relay ready?";
            eprintln!("{}brigade: {hint}", if self.on_terminal { "\n" } else { "" });
        }
        // Nobody may read it any more.
        let _printed = if self.on_terminal {
            write!(stderr(), "\r{}\x1b[K", line(now))
        } else if self.is_worth_a_line(now) {
            self.last = Some((Instant::now(), now.percent));
            writeln!(stderr(), "{}", line(now))
        } else {
            Ok(())
        };
    }

    fn is_worth_a_line(&self, now: &RebuildProgress) -> bool {
        self.last.is_none_or(|(at, percent)| {
            percent != now.percent && (at.elapsed() >= LINE_PERIOD || now.percent == 100)
        })
    }

    fn end(&self, now: &RebuildProgress, took: Duration) -> Result<ExitCode> {
        if self.on_terminal {
            eprintln!();
        }
        let (aggregates, events, seconds) = (now.aggregates, now.events, took.as_secs_f64());
        progress(format_args!(
            "written anew: {aggregates} aggregates, {events} of their parts by events, in \
             {seconds:.1} s"
        ))?;
        if now.left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("brigade: {} aggregates cannot be written; command-handler logs why", now.left);
        Ok(ExitCode::FAILURE)
    }
}

fn line(now: &RebuildProgress) -> String {
    let done = BAR * usize::try_from(now.percent).unwrap_or(0) / 100;
    let (bar, percent) = (format!("{}{}", "#".repeat(done), "-".repeat(BAR - done)), now.percent);
    let RebuildProgress { aggregates, left, events, before, .. } = now;
    let waits = if *before > 0 { format!(", after {before} other heals") } else { String::new() };
    format!("[{bar}] {percent:>3} %  {aggregates} aggregates ({left} left), {events} events{waits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut now = RebuildProgress {
            percent: 50,
            aggregates: 7,
            left: 2,
            events: 3,
            before: 0,
            is_finished: false,
        };
        let half = format!(
            "[{}{}]  50 %  7 aggregates (2 left), 3 events",
            "#".repeat(15),
            "-".repeat(15)
        );
        assert_eq!(line(&now), half);
        now.before = 1;
        assert_eq!(line(&now), format!("{half}, after 1 other heals"));
    }

    #[test]
    fn buckets_are_those_that_sql_can_write() {
        assert_eq!(bucket("views"), Ok(Bucket::Views));
        assert!(bucket("attempts").is_err_and(|why| why.ends_with("cart_locks, user_state")));
    }
}
