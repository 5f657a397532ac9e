//! The arguments of `brigade dlq`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use brigade::{
    fleet::config,
    operations::dead_letters::{DeadLetters, Filter, Number},
};
use brigade_contracts::Token;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    pub(super) action: DlqAction,
}

#[derive(Subcommand)]
pub(super) enum DlqAction {
    /// List dead letters that nobody has replayed or dropped yet, oldest first
    Ls {
        #[command(flatten)]
        filter: FilterArgs,
        /// Also those of the archive: replayed or dropped in the last 30 days
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Count them by worker and reason: a thousand letters are often one cause
    Groups {
        #[command(flatten)]
        filter: FilterArgs,
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show one whole, also of the archive: headers and payload, and whether it can be replayed
    Show {
        number: Number,
        /// The payload alone, byte for byte: to be edited
        #[arg(long, conflicts_with = "json")]
        payload: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send a command as it should have been, under a new Command-Id; its own one gets
    /// `500 dropped`
    Edit(EditArgs),
    /// Send commands again, put events back into the outbox; each once
    Replay {
        #[command(flatten)]
        chosen: Chosen,
        /// Also commands that have an outcome by now, or may have had one that is forgotten after
        /// 30 days; why, kept for the audit
        #[arg(long, value_name = "WHY")]
        force: Option<String>,
    },
    /// Give letters up; a command without an outcome gets `500 dropped`
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// The reason; kept for the audit, and part of the outcome
        #[arg(long)]
        because: String,
    },
    /// List the jobs that replay or drop many letters, the newest first; or one of them
    Jobs {
        /// This one, with the letters that it was refused
        number: Option<i64>,
        /// Look on until it ends
        #[arg(long, requires = "number")]
        follow: bool,
        /// One JSON object a line, for programs
        #[arg(long, conflicts_with = "follow")]
        json: bool,
    },
    /// End a job early; the letters that it has not acted on stay
    Cancel {
        number: i64,
        #[command(flatten)]
        by: By,
    },
    /// Print each letter as it is stored, until Ctrl-C
    Watch {
        /// Only letters of this worker
        #[arg(long)]
        worker: Option<Token>,
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(super) struct PageArgs {
    /// Go on behind this number
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<Number>,
    /// Letters at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(super) struct FilterArgs {
    /// Only letters of this worker
    #[arg(long)]
    worker: Option<String>,
    /// Only letters of this restaurant
    #[arg(long)]
    tenant: Option<String>,
    /// With this in their reason
    #[arg(long)]
    reason: Option<String>,
    /// With this text in the payload or in the value of a header
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// Stored longer ago than this: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
}

#[derive(Args)]
pub(super) struct Chosen {
    /// Numbers of letters, as `ls` shows them
    pub numbers: Vec<Number>,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// All that the filter names, instead of numbers. The fleet does it, also without this terminal
    #[arg(long, conflicts_with = "numbers")]
    pub matching: bool,
    /// With --matching: return as soon as the fleet has the job
    #[arg(long, requires = "matching")]
    pub detach: bool,
    /// Only say what would be done
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    #[command(flatten)]
    pub by: By,
}

#[derive(Args)]
pub(super) struct By {
    /// The operator's name, for the audit (default: $USER, else `operator`)
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Args)]
pub(super) struct EditArgs {
    pub number: Number,
    /// A file with the new payload; `-`: standard input (default: as it was sent)
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// The new subject: cmd.<tenant>.<aggregate>.<id>.<verb>
    #[arg(long)]
    pub subject: Option<String>,
    /// A header with its new value; may be repeated
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// A header that is left out; may be repeated
    #[arg(long, value_name = "NAME")]
    pub without_header: Vec<String>,
    /// The new Command-Id (default: made of its own one and of the content)
    #[arg(long)]
    pub command_id: Option<Token>,
    /// The reason; kept for the audit
    #[arg(long)]
    pub because: String,
    /// Only say what would be sent
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub by: By,
}

impl By {
    pub fn name(&self) -> String {
        self.by.clone().or_else(config::user).unwrap_or_else(|| "operator".to_owned())
    }
}

impl FilterArgs {
    /// Returns the filter; its time is that of Postgres.
    pub async fn filter(&self, letters: &DeadLetters, all: bool) -> Result<Filter> {
        let Self { worker, tenant, reason, contains, .. } = self;
        let [worker, tenant, reason, contains] =
            [worker, tenant, reason, contains].map(Clone::clone);
        let before = match self.older_than {
            Some(age) => Some(letters.time_before(age).await?),
            None => None,
        };
        Ok(Filter { worker, tenant, reason, contains, before, all })
    }

    /// Returns the filter as it could be written again, for those who look at a job later.
    pub fn written(&self) -> String {
        let Self { worker, tenant, reason, contains, older_than } = self;
        let age = older_than.map(|age| format!("{}s", age.as_secs()));
        let options = [
            ("--worker", worker),
            ("--tenant", tenant),
            ("--reason", reason),
            ("--contains", contains),
            ("--older-than", &age),
        ];
        let given = options.into_iter().filter_map(|(name, value)| {
            let value = value.as_deref()?.replace('\'', r"'\''");
            Some(format!("{name} '{value}'"))
        });
        given.collect::<Vec<_>>().join(" ")
    }
}

/// Reads an age, such as `2h`.
fn age(text: &str) -> Result<Duration> {
    let unit = text.chars().last().unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => anyhow::bail!("an age ends with s, m, h or d"),
    };
    let count: u64 =
        text[..text.len() - 1].parse().context("an age is a whole number and a unit")?;
    let seconds = count.checked_mul(seconds).filter(|seconds| *seconds <= MAX_AGE);
    Ok(Duration::from_secs(seconds.context("an age of more than a hundred years")?))
}

/// The longest age, in seconds.
const MAX_AGE: u64 = 100 * 366 * 86_400;

fn header(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once(':').context("a header is NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        assert_eq!(age("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(age("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for wrong in ["", "d", "7", "1.5h", "-1m", "7é", "99999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_is_written_as_it_could_be_given_again() {
        let filter = FilterArgs {
            worker: None,
            tenant: Some("t1".to_owned()),
            reason: Some("it's full".to_owned()),
            contains: None,
            older_than: Some(Duration::from_secs(120)),
        };
        let written = r"--tenant 't1' --reason 'it'\''s full' --older-than '120s'";
        assert_eq!(filter.written(), written);
    }

    #[test]
    fn a_header_is_a_name_and_a_value() {
        assert_eq!(header("Actor: a:b").unwrap(), ("Actor".to_owned(), "a:b".to_owned()));
        assert!(header("Actor").is_err());
    }
}
