use std::process::ExitCode;

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade::{
    fleet::config::{self, RunConfig},
    infra::{nats::OperatorConnection, postgres::operator_pool},
    operations::dead_letters::{DeadLetters, Filter, Letter, Number, Overflow, Page},
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_SUBJECT},
        delivery::pairs,
    },
};
use brigade_contracts::Timestamp;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    causes::causes,
    output::{line, progress},
    printable::{printable, printable_json},
};

#[derive(clap::Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    action: DlqAction,
}

#[derive(Subcommand)]
enum DlqAction {
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
    /// Show one whole, also of the archive: headers and payload
    Show { number: Number },
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
}

#[derive(clap::Args)]
struct PageArgs {
    /// Go on behind this number
    #[arg(long, value_name = "NUMBER")]
    after: Option<Number>,
    /// Letters at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// One JSON object a line, for programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct FilterArgs {
    /// Only letters of this worker
    #[arg(long)]
    worker: Option<String>,
    /// Only letters of this restaurant
    #[arg(long)]
    tenant: Option<String>,
    /// With this in their reason
    #[arg(long)]
    reason: Option<String>,
}

#[derive(clap::Args)]
struct Chosen {
    /// Numbers of letters, as `ls` shows them
    numbers: Vec<Number>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All that the filter names, instead of numbers
    #[arg(long, conflicts_with = "numbers")]
    matching: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The operator's name, for the audit (default: $USER, else `operator`)
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl FilterArgs {
    fn filter(self, all: bool) -> Filter {
        Filter { worker: self.worker, tenant: self.tenant, reason: self.reason, all }
    }
}

pub async fn run(args: DlqArgs) -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let (nats_url, database_url) = config.operators_urls()?;
    let operator = OperatorConnection::open(nats_url, &config.nats_options(), "dlq").await?;
    let postgres = operator_pool(database_url).await?;
    let jetstream = operator.jetstream.clone();
    let letters = operator.explain(DeadLetters::open(jetstream, postgres).await)?;
    let mut code = ExitCode::SUCCESS;
    match args.action {
        DlqAction::Ls { filter, all, page } => {
            let limit = usize::try_from(page.limit)?;
            let filter = filter.filter(all);
            let found = letters.page(&filter, page.after, limit).await?;
            list(&found, page.json)?;
            list_overflow(&letters.overflow(&filter).await?, page.json)?;
        }
        DlqAction::Show { number } => {
            show(&letters.get(number).await?, &letters.payload(number).await?)?;
        }
        DlqAction::Replay { chosen, force } => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                let replayed = match &force {
                    why if dry_run => letters.check_replay(&letter, why.is_some()).await,
                    Some(why) => letters.force(&letter, why, &by).await,
                    None => letters.replay(&letter, &by).await,
                };
                let (number, subject) = (letter.number, printable(&letter.subject));
                if let Err(error) = replayed {
                    let error = printable(&causes(&error));
                    eprintln!("not replayed {number} {subject}: {error}");
                    code = ExitCode::FAILURE;
                    continue;
                }
                progress(format_args!("{} {number} {subject}", done(dry_run, "replayed")))?;
            }
        }
        DlqAction::Drop { chosen, because } => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                if !dry_run {
                    letters.drop(&letter, &because, &by).await?;
                }
                let (number, subject) = (letter.number, printable(&letter.subject));
                progress(format_args!("{} {number} {subject}", done(dry_run, "dropped")))?;
            }
        }
    }
    Ok(code)
}

fn by(chosen: &Chosen) -> String {
    chosen.by.clone().or_else(config::user).unwrap_or_else(|| "operator".to_owned())
}

fn done(dry_run: bool, what: &str) -> String {
    if dry_run { format!("would be {what}") } else { what.to_owned() }
}

async fn choose(letters: &DeadLetters, chosen: Chosen) -> Result<Vec<Letter>> {
    ensure!(
        chosen.matching || !chosen.numbers.is_empty(),
        "give numbers, or --matching with a filter"
    );
    if chosen.matching {
        return letters.list(&chosen.filter.filter(false)).await;
    }
    let mut found = Vec::new();
    for number in chosen.numbers {
        found.push(letters.get(number).await?);
    }
    Ok(found)
}

fn list(page: &Page, json: bool) -> Result<()> {
    if !json {
        line(format_args!(
            "{:>8}  {:<24}  {:<22}  {:<40}  reason",
            "number", "at", "worker", "subject"
        ))?;
    }
    for letter in &page.letters {
        if json {
            line(format_args!("{}", printable_json(&as_json(letter))))?;
            continue;
        }
        let number = letter.number;
        let [at, worker, subject, reason] =
            [&letter.at, &letter.worker, &letter.subject, &letter.reason].map(|t| printable(t));
        let notes = notes(letter);
        line(format_args!("{number:>8}  {at:<24}  {worker:<22}  {subject:<40}  {reason}{notes}"))?;
    }
    if let Some(last) = page.letters.last().filter(|_| page.more) {
        eprintln!("There are more: go on with --after {}, or choose a --limit.", last.number);
    }
    Ok(())
}

/// Prints what was counted of letters that SQL had no room for: they have no number, and nothing
/// can be done with them.
fn list_overflow(counted: &[Overflow], json: bool) -> Result<()> {
    for Overflow { tenant, worker, reason, letters, first_at, last_at, last_subject } in counted {
        let [first_at, last_at] = [first_at, last_at].map(|at| Timestamp::from(*at).to_string());
        if json {
            let counted = json!({
                "number": null, "not_kept": letters, "first_at": first_at, "at": last_at,
                "worker": worker, "tenant": tenant, "subject": last_subject, "reason": reason,
            });
            line(format_args!("{}", printable_json(&counted)))?;
            continue;
        }
        let [worker, subject, reason] = [worker, last_subject, reason].map(|text| printable(text));
        line(format_args!(
            "{:>8}  {last_at:<24}  {worker:<22}  {subject:<40}  {reason} [{letters} like this \
             counted since {first_at}, not kept]",
            "-"
        ))?;
    }
    Ok(())
}

fn as_json(letter: &Letter) -> Value {
    json!({
        "number": letter.number.to_string(),
        "at": letter.at,
        "worker": letter.worker,
        "subject": letter.subject,
        "reason": letter.reason,
        "headers": pairs(Some(&letter.headers)).collect::<Vec<_>>(),
        "payload_gone": letter.payload_gone(),
        "action": letter.action,
        "outcome": letter.outcome,
        "id_belongs_to": letter.id_belongs_to,
    })
}

/// Returns what became of a letter, in brackets.
fn notes(letter: &Letter) -> String {
    let gone = letter.payload_gone().map(|_| " [payload not kept]").unwrap_or_default();
    let action = letter.action.as_ref().map(|action| format!(" [{action}]"));
    let outcome = letter.outcome.map(|status| format!(" [has the outcome {status}]"));
    let other = letter.id_belongs_to.as_ref();
    let other = other.map(|other| format!(" [its Command-Id belongs to {}]", printable(other)));
    gone.to_owned() + &action.unwrap_or_default() + &outcome.or(other).unwrap_or_default()
}

fn show(letter: &Letter, payload: &[u8]) -> Result<()> {
    let Letter { number, worker, subject, .. } = letter;
    let (worker, subject) = (printable(worker), printable(subject));
    line(format_args!("{subject} (dead letter {number} of {worker}){}", notes(letter)))?;
    for (name, value) in pairs(Some(&letter.headers)) {
        line(format_args!("{}: {}", printable(name), printable(value)))?;
        if [RAW_HEADERS, RAW_SUBJECT].contains(&name)
            && let Ok(raw) = BASE64_STANDARD.decode(value)
        {
            line(format_args!("  = {}", raw.escape_ascii()))?;
        }
    }
    line(format_args!(""))?;
    for text in String::from_utf8_lossy(payload).lines() {
        line(format_args!("{}", printable(text)))?;
    }
    Ok(())
}
